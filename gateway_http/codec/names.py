"""Short names of enum values, as the JSON has them: `SIDE_BUY` of `Side` is `buy`."""

import re
from typing import Final

from google.protobuf.descriptor import EnumDescriptor

_WORD_START: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def prefix_of(enum: str) -> str:
    """What the values of an enum begin with: `ORDER_TYPE_` for `OrderType`."""
    return _WORD_START.sub("_", enum).upper() + "_"


def short_names(enum: EnumDescriptor) -> dict[str, int]:
    """Number by short name; the unspecified value, number 0, has none.

    Raises `ValueError` when an enum has no unspecified value at 0 or a value lacks the prefix.
    """
    prefix = prefix_of(enum.name)
    names: dict[str, int] = {}
    for value in enum.values:
        if not value.name.startswith(prefix):
            raise ValueError(f"{enum.full_name}.{value.name} does not begin with {prefix}")
        if value.number:
            names[value.name.removeprefix(prefix).lower()] = value.number
        elif value.name != f"{prefix}UNSPECIFIED":
            raise ValueError(f"{enum.full_name}.{value.name} is not {prefix}UNSPECIFIED")
    return names
