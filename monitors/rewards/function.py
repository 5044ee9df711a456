"""The user's own reward: "module:function", from the configuration file's folder or installed.

Two signatures are accepted: `f(samples)`, a list of samples in and a list of scores out; and `f(prompt, completion,
**columns)`, one score. Options reach the function as keyword arguments; `scale = [low, high]` is the grader's own and
says which of its values are 0 and 1.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from adapters.errors import ConfigError, GraderError
from monitors.rewards.base import shown
from monitors.rewards.types import Place, Sample, Scores, digest, fingerprint

_VERSION = 1


@dataclass(frozen=True)
class Wants:
    """The columns a function takes."""

    names: frozenset[str]
    required: frozenset[str]
    anything: bool               # it has **columns


class FunctionGrader:
    """Calls the function. Its code is the user's: it runs in this process, with this process's rights."""

    def __init__(self, name: str, target: str, options: dict[str, Any], place: Place) -> None:
        self.name = name
        options = dict(options)
        self._scale = _scale(name, options.pop("scale", (0.0, 1.0)))
        module_name, _, attribute = target.partition(":")
        module = _load(name, module_name, place.base_dir)
        function = getattr(module, attribute, None)
        if not callable(function):
            raise ConfigError(f"reward {name!r}: {module.__file__} has no function {attribute!r}")
        self._wants = _parameters(name, function, options)
        self._function = functools.partial(function, **options) if options else function
        source = Path(module.__file__).read_bytes() if module.__file__ else b""
        try:
            self.fingerprint = fingerprint(
                "function", _VERSION, target=target, options=options, scale=self._scale, source=digest(source)
            )
        except (TypeError, ValueError):
            raise ConfigError(f"reward {name!r}: options may only hold text, numbers, lists and tables") from None

    def score(self, samples: Sequence[Sample]) -> Scores:
        """See monitors.rewards.types.Grader. Raises GraderError when the function raises or returns anything else."""
        if not samples:
            return []
        try:
            if self._wants is None:
                values = self._function(list(samples))
            else:
                values = [self._one(sample, self._wants) for sample in samples]
        except Exception as error:  # whatever the user's code raises
            raise GraderError(f"reward {self.name!r} raised {type(error).__name__}: {error}") from error
        if isinstance(values, str) or not hasattr(values, "__len__") or len(values) != len(samples):
            raise GraderError(
                f"reward {self.name!r} returned {shown(values)}: it was given {len(samples)} samples and must return "
                "a list with one score for each"
            )
        return [self._checked(value, place) for place, value in enumerate(values)]

    def _one(self, sample: Sample, wants: Wants) -> Any:
        """The function's score; None where a column it cannot do without is missing."""
        columns = {
            name: value
            for name, value in sample.columns.items()
            if name not in ("prompt", "completion") and (wants.anything or name in wants.names)
        }
        if any(columns.get(name) is None for name in wants.required):
            return None
        return self._function(prompt=list(sample.prompt), completion=sample.completion, **columns)

    def _checked(self, value: Any, place: int) -> float | None:
        """The score on 0..1."""
        if value is None:
            return None
        low, high = self._scale
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise GraderError(f"reward {self.name!r} returned {shown(value)} for sample {place}, no number") from None
        if not low <= number <= high or not math.isfinite(number):
            raise GraderError(
                f"reward {self.name!r} returned {number:g} for sample {place}: outside {low:g} to {high:g} "
                "(options.scale = [low, high] declares another range)"
            )
        return (number - low) / (high - low)


def _scale(name: str, value: Any) -> tuple[float, float]:
    try:
        low, high = (float(one) for one in value)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"reward {name!r}: options.scale is {shown(value)}: give [low, high], such as [0, 10]")
    return low, high


def _parameters(name: str, function: Callable[..., Any], options: dict[str, Any]) -> Wants | None:
    """None for f(samples); what f(prompt, completion, …) takes. Raises ConfigError for anything else."""
    try:
        given = inspect.signature(function).parameters
    except (TypeError, ValueError):
        given = MappingProxyType({})
    if next(iter(given), "") == "samples":
        return None
    if not {"prompt", "completion"} <= set(given):
        raise ConfigError(
            f"reward {name!r}: its parameters are ({', '.join(given)}): write f(samples) or "
            "f(prompt, completion, **columns)"
        )
    named = {
        key: parameter
        for key, parameter in given.items()
        if key not in ("prompt", "completion", *options) and parameter.kind is not parameter.VAR_KEYWORD
    }
    required = frozenset(key for key, parameter in named.items() if parameter.default is parameter.empty)
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in given.values())
    return Wants(frozenset(named), required, anything)


def _load(name: str, module: str, base_dir: Path) -> ModuleType:
    """The module: base_dir's file first, then what is installed. Raises ConfigError when it cannot be imported."""
    if not all(part.isidentifier() for part in module.split(".")):
        raise ConfigError(f"reward {name!r}: {module!r} is not a module name")
    path = base_dir.joinpath(*module.split(".")).with_suffix(".py")
    try:
        return _from_file(module, path) if path.is_file() else importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = f"{path} does not exist, and no module {error.name!r} is installed"
        raise ConfigError(f"reward {name!r}: {missing}") from None
    except Exception as error:  # whatever the user's module does
        raise ConfigError(f"reward {name!r}: {module} fails to load: {type(error).__name__}: {error}") from error


def _from_file(module: str, path: Path) -> ModuleType:
    """Load a file under a name of our own, so that it can neither hide nor be hidden by an installed module."""
    private = f"understudy_reward_{module.replace('.', '_')}_{digest(str(path.resolve()))[:8]}"
    spec = importlib.util.spec_from_file_location(private, path)
    assert spec is not None and spec.loader is not None, "it is a .py file"
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[private] = loaded  # dataclasses and pickle look their module up
    try:
        with _importable(path.parent):
            spec.loader.exec_module(loaded)
    except BaseException:
        del sys.modules[private]
        raise
    return loaded


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Neighbours of the user's module can be imported while it loads."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
