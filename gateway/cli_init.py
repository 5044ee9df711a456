"""`understudy init`: a commented understudy.toml, made from the settings' own descriptions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.errors import ConfigError

_ROUTE_EXAMPLE = """\
# A route is a public model name; declare as many as you like. Versions are pushed and set by command.
# [[route]]
# name = "support"
# description = "answers customers"
# match = [{ keyword = ["refund", "invoice"] }, { metadata = { task = "support" } }]   # for model "auto"
"""


def init_command(
    path: Annotated[Path, typer.Argument(help="where to write it")] = Path("understudy.toml"),
) -> None:
    """Write a commented understudy.toml: every key with its default and what it means."""
    text = commented_defaults()
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path} exists already: move it away, or name another file") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    typer.echo(f"wrote {path}: edit it, then run `understudy up -c {path}`")


def commented_defaults() -> str:
    """The text of a fresh understudy.toml."""
    from gateway.config import Settings

    lines = ["# Understudy. Every key is shown with its default; remove the # to change one.", ""]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if name == "route":
            lines += [_ROUTE_EXAMPLE]
        elif name == "slo":
            lines += _commented(default_slos())
        elif hasattr(default, "model_fields_set"):
            lines += [f"[{name}]", *_keys(type(default)), ""]
        else:
            lines[1:1] = [_line(name, default, field.description or "")]
    return "\n".join(lines)


def default_slos() -> str:
    """`[[slo]]` tables for a route `support`: the objectives to begin with."""
    return Path(str(files("gateway") / "default_slos.toml")).read_text(encoding="utf-8")


def _commented(text: str) -> list[str]:
    """Behind one # a line, comments too, so that removing it gives the text; the introduction is a comment as it is."""
    lines = text.splitlines()
    first = lines.index("[[slo]]")
    return [*lines[:first], *(f"# {line}" if line else line for line in lines[first:]), ""]


def _keys(section: Any) -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield _line(name, field.get_default(call_default_factory=True), field.description or "")


def _line(name: str, default: Any, description: str) -> str:
    plain = list(default) if isinstance(default, tuple) else default
    empty = isinstance(default, dict) or hasattr(default, "model_fields_set")
    value = "{}" if empty else json.dumps(plain, default=str)
    return f"# {name} = {value}".ljust(44) + f"  # {description}"
