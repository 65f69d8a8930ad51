"""Copies of frozen, slotted dataclasses with some fields changed: a faster `dataclasses.replace`.

That one asks for the fields of the class on each call and runs its `__init__`, which for a frozen class means
one `object.__setattr__` a field; it was most of the cost of a change. Here a function is made once for each
class and copies slot by slot. There is no `__post_init__` in the domain that would have to run.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final, TypeVar

T = TypeVar("T")

_Copier = Callable[[Any], Any]
_Setters = dict[str, Callable[[Any, Any], None]]

_known: Final[dict[type[Any], tuple[_Copier, _Setters]]] = {}


def replace(value: T, **changes: Any) -> T:
    """A copy of `value`, an instance of a slotted dataclass, with `changes`.

    Raises `TypeError` for a field that the class does not have.
    """
    return changed(value, changes)


def changed(value: T, changes: Mapping[str, Any]) -> T:
    """`replace` with the changes at hand as a mapping."""
    made = _known.get(type(value))
    if made is None:
        made = _known[type(value)] = _make(type(value))
    copier, setters = made
    copy = copier(value)
    try:
        for name in changes:
            setters[name](copy, changes[name])
    except KeyError as error:
        raise TypeError(f"{type(value).__name__} has no field {error}") from None
    return copy  # type: ignore[no-any-return]


def _make(cls: type[Any]) -> tuple[_Copier, _Setters]:
    """The copying function of a class, as one line a field, and the setters of its slots."""
    names = [part.name for part in fields(cls)]
    setters: _Setters = {name: getattr(cls, name).__set__ for name in names}
    lines = [f"    set_{name}(copy, value.{name})" for name in names]
    source = "\n".join(["def copier(value):", "    copy = new(cls)", *lines, "    return copy"])
    scope: dict[str, Any] = {"new": object.__new__, "cls": cls}
    scope |= {f"set_{name}": setter for name, setter in setters.items()}
    exec(source, scope)
    return scope["copier"], setters
