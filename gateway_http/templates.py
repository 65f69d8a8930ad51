"""Path templates of `google.api.http`: parsed, compiled and matched. Standard library only.

Grammar (google/api/http.proto):

    Template = "/" Segments [ Verb ]
    Segments = Segment { "/" Segment }
    Segment  = "*" | "**" | LITERAL | Variable
    Variable = "{" FieldPath [ "=" Segments ] "}"
    FieldPath = IDENT { "." IDENT }
    Verb     = ":" LITERAL

`*` is one non-empty segment, `**` is the rest of the path and stands last; `{var}` is `{var=*}`.
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LITERAL: Final = re.compile(r"[A-Za-z0-9\-._~!$&'()+,;=@]+")
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PLAIN: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:")

ONE: Final = "*"
REST: Final = "**"


class BadTemplate(ValueError):
    """A template that the grammar does not allow; the message says where."""


class BadPath(ValueError):
    """A request path whose variable is not percent-encoded UTF-8. `variable` is the field path, dotted."""

    def __init__(self, variable: str) -> None:
        super().__init__(f"{variable}: not percent-encoded UTF-8")
        self.variable = variable


@dataclass(frozen=True, slots=True)
class Variable:
    """A part of the path that is bound to a field."""

    field_path: tuple[str, ...]
    segments: tuple[str, ...]
    """Literals, `*` and `**`."""

    @property
    def name(self) -> str:
        """The field path, dotted."""
        return ".".join(self.field_path)

    @property
    def spans_segments(self) -> bool:
        """Whether its value may hold a `/` of the path itself."""
        return len(self.segments) > 1 or self.segments[0] == REST


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template."""

    segments: tuple[str | Variable, ...]
    """Literals, `*`, `**` and variables."""
    verb: str
    """What stands behind the colon; empty: no verb."""

    @property
    def variables(self) -> tuple[Variable, ...]:
        return tuple(segment for segment in self.segments if isinstance(segment, Variable))

    @property
    def flat(self) -> tuple[str, ...]:
        """The segments with every variable replaced by its own."""
        parts: list[str] = []
        for segment in self.segments:
            parts.extend(segment.segments if isinstance(segment, Variable) else (segment,))
        return tuple(parts)

    @property
    def static_path(self) -> str | None:
        """The one path that it matches; None when it has wildcards."""
        if any(part in (ONE, REST) for part in self.flat) or self.variables:
            return None
        return str(self)

    def __str__(self) -> str:
        parts = [
            f"{{{part.name}={'/'.join(part.segments)}}}" if isinstance(part, Variable) else part
            for part in self.segments
        ]
        return "/" + "/".join(parts) + (f":{self.verb}" if self.verb else "")


def parse(text: str) -> Template:
    """The template that `text` stands for. Raises `BadTemplate`."""
    return _Parser(text).template()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def template(self) -> Template:
        self._expect("/")
        segments = self._segments(inside_variable=False)
        verb = ""
        if self._took(":"):
            verb = self._token(_LITERAL, "a verb")
        if self._at != len(self._text):
            raise self._error("the end")
        template = Template(segments, verb)
        if REST in template.flat[:-1]:
            raise BadTemplate(f"{self._text!r}: ** must be the last segment")
        names = [variable.name for variable in template.variables]
        if len(set(names)) != len(names):
            raise BadTemplate(f"{self._text!r}: a variable is bound twice")
        return template

    def _segments(self, inside_variable: bool) -> tuple[str | Variable, ...]:
        segments = [self._segment(inside_variable)]
        while self._took("/"):
            segments.append(self._segment(inside_variable))
        return tuple(segments)

    def _segment(self, inside_variable: bool) -> str | Variable:
        for wildcard in (REST, ONE):
            if self._took(wildcard):
                return wildcard
        if self._text.startswith("{", self._at) and not inside_variable:
            return self._variable()
        return self._token(_LITERAL, "a segment")

    def _variable(self) -> Variable:
        self._expect("{")
        path = [self._token(_IDENTIFIER, "a field name")]
        while self._took("."):
            path.append(self._token(_IDENTIFIER, "a field name"))
        segments: tuple[str, ...] = (ONE,)
        if self._took("="):
            segments = tuple(str(segment) for segment in self._segments(inside_variable=True))
        self._expect("}")
        return Variable(tuple(path), segments)

    def _token(self, pattern: re.Pattern[str], wanted: str) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise self._error(wanted)
        self._at = found.end()
        return found.group()

    def _took(self, literal: str) -> bool:
        if not self._text.startswith(literal, self._at):
            return False
        self._at += len(literal)
        return True

    def _expect(self, literal: str) -> None:
        if not self._took(literal):
            raise self._error(repr(literal))

    def _error(self, wanted: str) -> BadTemplate:
        return BadTemplate(f"{self._text!r}: expected {wanted} at position {self._at}")


class Matcher:
    """A compiled template."""

    __slots__ = ("_pattern", "_variables", "specificity")

    def __init__(self, template: Template) -> None:
        parts: list[str] = []
        for segment in template.segments:
            if isinstance(segment, Variable):
                parts.append(f"({_pattern_of(segment.segments)})")
            else:
                parts.append(_pattern_of((segment,)))
        verb = re.escape(f":{template.verb}") if template.verb else ""
        self._pattern = re.compile("/" + "/".join(parts) + verb)
        self._variables = tuple((one.name, one.spans_segments) for one in template.variables)
        self.specificity = (
            bool(template.verb),
            *(0 if part == REST else 1 if part == ONE else 2 for part in template.flat),
        )
        """Sorts templates: of two that match one path, the greater one is meant."""

    def match(self, path: str) -> dict[str, str] | None:
        """The decoded variables by dotted field path, or None when the path is another one.

        `path` is `normalised`. Raises `BadPath`.
        """
        found = self._pattern.fullmatch(path)
        if found is None:
            return None
        return {
            name: _decoded(name, value, spans)
            for (name, spans), value in zip(self._variables, found.groups(), strict=True)
        }


def normalised(path: str) -> str:
    """An encoded path in which only characters that need it are percent-encoded, so that literals compare."""
    if "%" not in path:
        return path
    return _ESCAPE.sub(_unescaped_if_plain, path)


def _unescaped_if_plain(found: re.Match[str]) -> str:
    character = chr(int(found.group(1), 16))
    return character if character in _PLAIN else found.group()


def _pattern_of(segments: tuple[str, ...]) -> str:
    return "/".join(
        "[^/]+" if part == ONE else ".*" if part == REST else re.escape(part) for part in segments
    )


def _decoded(name: str, value: str, spans_segments: bool) -> str:
    if "%" not in value:
        return value
    if _BAD_ESCAPE.search(value):
        raise BadPath(name)
    if spans_segments:
        # An encoded slash belongs to a segment, a bare one separates two: only so can they be told apart.
        value = re.sub("%2[Ff]", lambda found: "%25" + found.group()[1:], value)
    try:
        return unquote_to_bytes(value).decode("utf-8")
    except UnicodeDecodeError:
        raise BadPath(name) from None
