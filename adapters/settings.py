"""Reads one strict TOML file: unknown keys name the nearest known one, the environment overrides, secrets from files.

Used for understudy.toml (gateway.config.Settings) and for training runs (trainer.config). The sections that more
than one package needs, `[database]` and `[artifacts]`, are declared here.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from adapters.errors import ConfigError

ENV_PREFIX = "UNDERSTUDY_"


class Section(BaseModel):
    """A frozen group of settings; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DatabaseSettings(Section):
    """`[database]`: where versions, routes, keys and events are kept."""

    url: str = Field("sqlite", description='"sqlite" (a file in data_dir) or "postgresql+psycopg://user@host/name"')


class ArtifactSettings(Section):
    """`[artifacts]`: where adapter files are kept."""

    url: str = Field(
        "file", description='"file" (a folder in data_dir) or any fsspec URL such as "s3://bucket/adapters"'
    )
    engine_path: str = Field("", description="where the engines see the same files, if that differs from url")


NO_CONFIGURATION = "write one with `understudy init`, or name it with -c"

M = TypeVar("M", bound=BaseModel)


def load(model: type[M], path: Path | None, environ: Mapping[str, str] | None = None, advice: str = "") -> M:
    """Read `path` (None: defaults only), apply UNDERSTUDY_SECTION__KEY overrides, validate.

    `advice`: what to do where there is no such file.
    Raises ConfigError with one line that names the key, what was wrong, and the nearest known key.
    """
    data = _read(path, advice)
    source = str(path) if path else "the environment"
    for variable, keys, value in _overrides(model, os.environ if environ is None else environ):
        _assign(data, keys, value, variable)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{source}: {describe(error, model)}") from None


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a validation error, as one line in the file's own terms."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] != "extra_forbidden":
        return f"{'.'.join(path)}: {first['msg']} (got {_shorten(first['input'])})"
    known = _fields_at(model, path[:-1])
    near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.0)
    return f"unknown key {'.'.join(path)!r}; the nearest known one is {near[0]!r}" if near else f"unknown key {path!r}"


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _read(path: Path | None, advice: str) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist" + (f": {advice}" if advice else "")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def _overrides(model: type[BaseModel], environ: Mapping[str, str]) -> Iterator[tuple[str, list[str], str]]:
    """Yield (variable, key path, text) for variables that name a known section; others belong to somebody else."""
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENV_PREFIX):
            continue
        keys = variable[len(ENV_PREFIX) :].lower().split("__")
        if keys[0] not in model.model_fields:
            continue
        value = text
        if keys[-1].endswith("_file") and keys[-1] not in _fields_at(model, keys[:-1]):
            keys[-1] = keys[-1].removesuffix("_file")
            try:
                value = Path(text).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ConfigError(f"{variable}: {text} cannot be read: {error.strerror}") from None
        yield variable, keys, value


def _assign(data: dict[str, Any], keys: list[str], text: str, variable: str) -> None:
    """Put an override where it belongs; JSON-looking text becomes a list, number or boolean."""
    for key in keys[:-1]:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise ConfigError(f"{variable} cannot override an item of a list: write it in the file")
    data[keys[-1]] = _parse(text)


def _parse(text: str) -> Any:
    if text[:1] in "[{" or text in ("true", "false"):
        try:
            return TypeAdapter(Any).validate_json(text)
        except ValidationError:
            return text
    return text  # pydantic's lax mode turns "8080" into 8080 where an int is wanted


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the fields of the (possibly nested, possibly listed) model at `path`."""
    current: type[BaseModel] | None = model
    for part in path:
        if current is None or part.isdigit():
            continue
        field = current.model_fields.get(part) or next(
            (f for f in current.model_fields.values() if f.alias == part), None
        )
        current = _model_in(field.annotation) if field else None
    if current is None:
        return []
    return [field.alias or name for name, field in current.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
