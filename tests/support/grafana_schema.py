"""Whether a dashboard's JSON is what Grafana's schema allows: read by the types that Grafana Labs makes from it.

Reading drops what the types do not know, and writing again shows it; values are then compared with the types.
"""

from __future__ import annotations

import enum
import json
import types
import typing
from collections.abc import Iterator
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

UNITS = frozenset(value for value in vars(units).values() if isinstance(value, str))


def problems(data: dict[str, Any]) -> list[str]:
    """Everything in a dashboard's JSON that the schema does not allow; empty when it is valid."""
    register_default_plugins()
    read = Dashboard.from_json(data)
    written = json.loads(json.dumps(read, cls=JSONEncoder))
    return [*_different(data, written, "dashboard"), *_wrong(read, Dashboard, "dashboard")]


def _different(given: Any, written: Any, where: str) -> Iterator[str]:
    """What is in `given` and not in `written`. Defaults that were added are no fault."""
    if isinstance(given, dict) and isinstance(written, dict):
        for key, value in given.items():
            if key not in written and value is not None:
                yield f"{where}.{key} is not in the schema"
            elif value is not None:
                yield from _different(value, written[key], f"{where}.{key}")
    elif isinstance(given, list) and isinstance(written, list) and len(given) == len(written):
        for number, (a, b) in enumerate(zip(given, written, strict=True)):
            yield from _different(a, b, f"{where}[{number}]")
    elif given != written:
        yield f"{where}: {given!r} is read as {written!r}"


def _wrong(value: Any, hint: Any, where: str) -> Iterator[str]:
    """Values that are not of their type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (object, Any):
        if hasattr(value, "to_json"):
            yield from _wrong(value, type(value), where)
    elif origin in (typing.Union, types.UnionType):
        found = {option: list(_wrong(value, option, where)) for option in arguments}
        if all(found.values()):
            near = [option for option in arguments if option in (object, type(value))
                    or typing.get_origin(option) is type(value)]  # fmt: skip
            yield from found[near[0]] if len(near) == 1 else [f"{where}: {value!r} is none of {hint}"]
    elif origin is typing.Literal:
        if value not in arguments:
            yield f"{where}: {value!r} is none of {arguments}"
    elif origin in (list, dict) and not isinstance(value, origin):
        yield f"{where}: {value!r} is no {origin.__name__}"
    elif origin is list:
        for number, item in enumerate(value):
            yield from _wrong(item, arguments[0], f"{where}[{number}]")
    elif origin is dict:
        for key, item in value.items():
            yield from _wrong(item, arguments[1], f"{where}.{key}")
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        if value not in [member.value for member in hint]:
            yield f"{where}: {value!r} is no {hint.__name__}"
    elif hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield f"{where}: {value!r} is not a number"
    elif not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        yield f"{where}: {value!r} is no {hint.__name__}"
    elif hasattr(value, "to_json"):
        for name, inner in typing.get_type_hints(type(value)).items():
            if hasattr(value, name):
                yield from _wrong(getattr(value, name), inner, f"{where}.{name}")
