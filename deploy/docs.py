"""Writes the reference pages that come from the code: docs/configuration.md and docs/metrics.md.

    make docs

A test fails when a page is not what this program would write.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gateway.config import Settings
from monitors import conventions

DOCS = Path(__file__).resolve().parent.parent / "docs"
INTRODUCTION = """\
# Configuration

One file, `understudy.toml`; every command takes it with `-c FILE` and otherwise reads `./understudy.toml` if it is
there. An unknown key is an error that names the nearest known one. Any key can be overridden by an environment
variable `UNDERSTUDY_SECTION__KEY`, such as `UNDERSTUDY_GATEWAY__PORT=9000`; with `_FILE` at the end of its name, the
variable names a file that holds the value, for secrets. A duration is a number and a unit: `250ms`, `30s`, `5m`,
`24h`, `7d`.

This page is written by `make docs` from gateway/config.py.
"""
TABLE = "| key | type | default | |\n| --- | --- | --- | --- |\n"
TYPE_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path", Any: "value"}


def type_name(annotation: Any) -> str:
    """A field's type as a reader of TOML knows it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(f"`{toml(value)}`" for value in arguments)
    if origin is tuple:
        return f"list of {several(arguments[0])}"
    if origin is dict:
        return f"table of {several(arguments[1])}"
    if origin in (Annotated, Union, UnionType):  # a number or nothing: what can be written is the number
        return type_name(arguments[0])
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "table"
    return TYPE_NAMES[annotation]  # a KeyError here asks for a name for a new kind of setting


def several(annotation: Any) -> str:
    """A type's name for many of it."""
    name = type_name(annotation)
    return name.removeprefix("one of ") if name.startswith("one of ") else f"{name}s"


def toml(value: Any) -> str:
    """A default as TOML."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case str() | Path():
            return f'"{value}"'
        case tuple() | list() | set() | frozenset():
            return "[" + ", ".join(toml(v) for v in value) + "]"
        case dict():
            return "{ " + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + " }" if value else "{}"
    return str(value)


def is_duration(field: FieldInfo) -> bool:
    """True for gateway.config.Duration, which is text with a check."""
    return any(getattr(getattr(m, "func", None), "__name__", "") == "_check_duration" for m in field.metadata)


def row(name: str, field: FieldInfo) -> str:
    """One line of a section's table."""
    default = field.get_default(call_default_factory=True, validated_data={})
    default = {} if isinstance(default, BaseModel) else default
    kind = "duration" if is_duration(field) else type_name(field.annotation)
    shown = "required" if default is PydanticUndefined else f"`{toml(default)}`"
    description = (field.description or "").replace("|", "\\|")
    return f"| `{field.alias or name}` | {kind} | {shown} | {description} |\n"


def nested(field: FieldInfo) -> type[BaseModel] | None:
    """The model inside a field: itself, or the item of a list."""
    for candidate in (field.annotation, *get_args(field.annotation)):
        if inspect.isclass(candidate) and issubclass(candidate, BaseModel):
            return candidate
    return None


def section(path: str, model: type[BaseModel], repeated: bool) -> str:
    """One `## [section]` with its table, and the sections inside it."""
    about = inspect.getdoc(model) or ""
    about = about.split(":", 1)[1].strip() if about.startswith(("`[", "One `[")) and ":" in about else about
    head = f"[[{path}]]" if repeated else f"[{path}]"
    text, inner = f"\n## `{head}`\n{about[:1].upper()}{about[1:]}\n\n{TABLE}", ""
    for name, field in model.model_fields.items():
        text += row(name, field)
        if child := nested(field):
            named = f"{path}.{name}.NAME" if get_origin(field.annotation) is dict else f"{path}.{name}"
            inner += section(named, child, get_origin(field.annotation) in (tuple, list))
    return text + inner


def configuration() -> str:
    """docs/configuration.md."""
    plain = {name: field for name, field in Settings.model_fields.items() if nested(field) is None}
    text = INTRODUCTION + "\n## Top level\n\n" + TABLE + "".join(row(n, f) for n, f in plain.items())
    for name, field in Settings.model_fields.items():
        if model := nested(field):
            text += section(name, model, get_origin(field.annotation) in (tuple, list))
    return text


PAGES = {"configuration.md": configuration, "metrics.md": conventions.render_markdown}


def main() -> None:
    """Write every page."""
    DOCS.mkdir(exist_ok=True)
    for name, render in PAGES.items():
        (DOCS / name).write_text(render(), encoding="utf-8")
        print(f"docs/{name}")


if __name__ == "__main__":
    main()
