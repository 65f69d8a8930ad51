"""The OpenAPI document as one HTML page: no script, nothing from elsewhere."""

import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

_CODE: Final = re.compile(r"`([^`]+)`")
_STRONG: Final = re.compile(r"\*\*([^*]+)\*\*")
_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --link: #2a6fdb; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1.5rem; }
h1 { margin: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
a { color: var(--link); text-decoration: none; } a:hover { text-decoration: underline; }
code { font: 13px ui-monospace, monospace; background: var(--soft); padding: 0 .25em; border-radius: 3px; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; }
summary { padding: .5rem .75rem; cursor: pointer; display: flex; gap: .75rem; align-items: baseline; }
summary code { background: none; font-weight: 600; white-space: nowrap; }
summary span:last-child { opacity: .75; }
details > div { padding: 0 .75rem .75rem; border-top: 1px solid var(--line); }
.method { font: 700 12px ui-monospace, monospace; min-width: 4.2rem; text-align: center; border-radius: 4px;
  padding: .2rem 0; color: #fff; background: #666; }
.get { background: #2a6fdb; } .post { background: #1d8a4e; } .patch { background: #b06f00; }
.delete { background: #c0392b; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; font-size: 13px; opacity: .75; }
h3 { font-size: 14px; margin: 1rem 0 0; } .needed { color: #c0392b; font-size: 12px; }
p { margin: .5rem 0; }
"""


def render(openapi: Mapping[str, Any]) -> str:
    """The page."""
    info = openapi["info"]
    title = escape(info["title"])
    body = [
        f"<h1>{title}</h1>",
        f'<p>Version {escape(info["version"])} · <a href="openapi.json">openapi.json</a></p>',
        _text(info["description"]),
    ]
    described = {tag["name"]: tag["description"] for tag in openapi["tags"]}
    for tag, operations in _by_tag(openapi).items():
        body.append(f"<h2>{escape(tag)}</h2>{_text(described.get(tag, ''))}")
        body += [_operation(path, method, operation) for path, method, operation in operations]
    body.append("<h2>Objects</h2>")
    body += [_schema(name, schema) for name, schema in openapi["components"]["schemas"].items()]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>"
    )


def _by_tag(openapi: Mapping[str, Any]) -> dict[str, list[tuple[str, str, Mapping[str, Any]]]]:
    found: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {}
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            found.setdefault(operation["tags"][0], []).append((path, method, operation))
    return found


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    parts = [_text(operation["description"])]
    parameters = operation.get("parameters", ())
    if parameters:
        rows = (
            (_name(one["name"], one["required"]), one["in"], _type(one["schema"]), one.get("description", ""))
            for one in parameters
        )
        parts.append(f"<h3>Parameters</h3>{_table(('Name', 'In', 'Type', ''), rows)}")
    if "requestBody" in operation:
        body = operation["requestBody"]
        parts.append(f"<h3>Body</h3><p>{_content(body)} {_inline(body['description'])}</p>")
    answers = (
        (escape(status), _content(answer), "", answer["description"])
        for status, answer in operation["responses"].items()
    )
    parts.append(f"<h3>Answers</h3>{_table(('Status', 'Content', '', ''), answers)}")
    return (
        f'<details id="{escape(operation["operationId"])}"><summary><span class="method {method}">'
        f"{method.upper()}</span><code>{escape(path)}</code><span>{_inline(operation['summary'])}</span></summary>"
        f"<div>{''.join(parts)}</div></details>"
    )


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    parts = [_text(schema.get("description", ""))]
    if schema.get("properties"):
        required = schema.get("required", ())
        rows = (
            (_name(key, key in required), _type(value), "", value.get("description", ""))
            for key, value in schema["properties"].items()
        )
        parts.append(_table(("Name", "Type", "", ""), rows))
    return (
        f'<details open id="{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        f"<div>{''.join(parts)}</div></details>"
    )


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, str, str, str]]) -> str:
    """Cells are HTML but for the last one, a comment; other columns without a head are left out."""
    kept = [index for index, head in enumerate(heads) if head] + [len(heads) - 1]
    head = "".join(f"<th>{heads[index]}</th>" for index in kept)
    lines = []
    for row in rows:
        cells = (*row[:-1], _inline(row[-1]))
        lines.append("<tr>" + "".join(f"<td>{cells[index]}</td>" for index in kept) + "</tr>")
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _name(name: str, required: bool) -> str:
    return f"<code>{escape(name)}</code>" + (' <span class="needed">required</span>' if required else "")


def _content(holder: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{_type(content['schema'])} as <code>{escape(media)}</code>"
        for media, content in holder["content"].items()
    )


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"array of {_type(schema['items'])}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])} by name"
    form = schema.get("format")
    return escape(f"{kind} ({form})" if form else kind)


def _text(comment: str) -> str:
    """Paragraphs and lists of a comment."""
    found: list[str] = []
    for block in comment.split("\n\n"):
        lines = block.splitlines()
        items = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
        plain = " ".join(line for line in lines if not line.startswith("- "))
        if plain:
            found.append(f"<p>{_inline(plain)}</p>")
        if items:
            found.append("<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in items) + "</ul>")
    return "".join(found)


def _inline(text: str) -> str:
    return _STRONG.sub(r"<strong>\1</strong>", _CODE.sub(r"<code>\1</code>", escape(text)))
