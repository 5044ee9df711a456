"""The verifier of structured output: is the completion JSON, and does it satisfy a schema?

Parsing is stricter than Python's: NaN, Infinity, numbers beyond float, and repeated keys are no JSON here. Validation
is the jsonschema library's, with the keywords replaced that an answer could make run for ever (regular expressions,
and uniqueItems, which is quadratic there), and without fetching schemas from the network.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from jsonschema import Draft202012Validator, SchemaError
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend, validator_for
from jsonschema_specifications import REGISTRY
from pydantic import Field, model_validator
from referencing.exceptions import Unresolvable

from adapters.errors import ConfigError, GraderError
from adapters.settings import Section
from monitors.rewards.base import OneByOne, shown
from monitors.rewards.fences import fenced_blocks
from monitors.rewards.texts import compile_pattern, matched
from monitors.rewards.types import Place, Sample, digest

_MAX_CHARS = 100_000
_MAX_DEPTH = 64


class JsonSchemaOptions(Section):
    """Options of "json_schema"."""

    definition: dict[str, Any] | None = Field(None, description="the schema itself, as a table")
    file: str = Field("", description="or a file that holds it")
    column: str = Field("schema", description="or, where neither is given, the column with each row's schema")
    take: Literal["whole", "fenced", "any"] = Field(
        "whole", description="the JSON is the whole text, its only fenced block, or that block where there is one"
    )
    partial: float = Field(0.0, ge=0, le=1, description="score of JSON that violates the schema")

    @model_validator(mode="after")
    def _one_source(self) -> JsonSchemaOptions:
        if self.definition is not None and self.file:
            raise ValueError("give definition or file, not both")
        return self


class JsonSchema(OneByOne[JsonSchemaOptions]):
    """1 if the completion is JSON that satisfies the schema; `partial` if it is other JSON; else 0."""

    KIND = "json_schema"
    Options = JsonSchemaOptions

    def __init__(self, name: str, options: JsonSchemaOptions, place: Place) -> None:
        super().__init__(name, options, place)
        self._validator = functools.lru_cache(maxsize=1024)(validator_of)  # rows mostly share a few schemas
        self._schema = _fixed_schema(name, options, place.base_dir)
        if self._schema is not None:
            try:
                self._validator(json.dumps(self._schema))
            except ValueError as error:
                raise ConfigError(f"reward {name!r}: {error}") from None

    def parts(self) -> dict[str, Any]:
        """The schema's digest: the file's name alone does not define it."""
        return {"schema": digest(json.dumps(self._schema, sort_keys=True)) if self._schema is not None else ""}

    def grade(self, sample: Sample) -> float | None:
        """Parse, then validate. Raises GraderError when the row's schema is none."""
        schema = self._schema if self._schema is not None else self._of_row(sample)
        if schema is None:
            return None
        try:
            validator = self._validator(schema if isinstance(schema, str) else json.dumps(schema))
        except ValueError as error:
            raise GraderError(f"{self.name}: column {self.options.column!r}: {error}") from None
        try:
            value = parse(_json_text(sample.completion, self.options.take))
        except ValueError:
            return 0.0
        try:
            return 1.0 if validator.is_valid(value) else self.options.partial
        except Unresolvable as error:
            raise GraderError(f"{self.name}: the schema refers to {error.ref!r}, which it does not hold") from None
        except (RecursionError, OverflowError, TimeoutError, ArithmeticError):  # the answer's doing
            return 0.0

    def _of_row(self, sample: Sample) -> Any:
        value = sample.column(self.options.column)
        if value is not None and not isinstance(value, str | dict | bool):
            raise GraderError(f"{self.name}: column {self.options.column!r} holds {shown(value)}: give a schema")
        return value


def parse(text: str) -> Any:
    """The JSON value. Raises ValueError for what is not JSON, is too long or too deep, or repeats a key."""
    if len(text) > _MAX_CHARS:
        raise ValueError(f"more than {_MAX_CHARS} characters")
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_depth(value)
    return value


def _json_text(text: str, take: str) -> str:
    if take == "whole" or len(text) > _MAX_CHARS:
        return text
    blocks = fenced_blocks(text, ("", "json"))
    if len(blocks) == 1:
        return blocks[0]
    if take == "any" and not blocks:
        return text
    raise ValueError("there is not one fenced block")


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number beyond the range of floats")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a repeated key")
    return found


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        inner = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in inner for child in (item.values() if isinstance(item, dict) else item)]


def _fixed_schema(name: str, options: JsonSchemaOptions, base_dir: Path) -> Any:
    """The schema of the options; None when each row brings its own. Raises ConfigError."""
    if not options.file:
        return options.definition
    path = base_dir / options.file
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"reward {name!r}: {path} cannot be read as JSON: {error}") from None


def validator_of(schema_text: str) -> Any:
    """The validator of a schema. Raises ValueError when it is none, or uses what cannot be checked safely."""
    try:
        schema = json.loads(schema_text)
        base = validator_for(schema, default=Draft202012Validator)
        base.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"this is not a JSON schema: {error.message}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is not a JSON schema: {error}") from None
    if '"patternProperties"' in schema_text and '"unevaluatedProperties"' in schema_text:
        raise ValueError("patternProperties together with unevaluatedProperties is not supported")
    keywords = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
    }
    return extend(base, keywords)(schema, registry=REGISTRY)


def _matches(pattern: str, text: str) -> bool:
    return matched(compile_pattern(pattern), text) is not None


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _matches(pattern, instance):
        yield ValidationError("does not match the pattern")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for pattern, subschema in patterns.items():
            for key, value in instance.items():
                if _matches(pattern, key):
                    yield from validator.descend(value, subschema, path=key, schema_path=pattern)


def _additional_properties(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    for key, value in instance.items():
        known = key in schema.get("properties", {})
        if known or any(_matches(pattern, key) for pattern in schema.get("patternProperties", {})):
            continue
        if isinstance(allowed, dict):
            yield from validator.descend(value, allowed, path=key)
        elif not allowed:
            yield ValidationError("an additional property")


def _unique_items(_validator: Any, wanted: Any, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if wanted and isinstance(instance, list):
        texts = [json.dumps(_canonical(item), sort_keys=True) for item in instance]
        if len(set(texts)) < len(texts):
            yield ValidationError("has equal items")


def _canonical(value: Any) -> Any:
    """JSON Schema compares numbers by value: 1 and 1.0 are equal."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return {key: _canonical(item) for key, item in value.items()} if isinstance(value, dict) else value
