"""What every sub-command shares: errors in one line, tables, JSON, and the opened installation.

Errors go to standard error; the exit status is 1, 2 for wrong usage, 130 after Ctrl-C. UNDERSTUDY_DEBUG=1 shows
tracebacks. Heavy modules are imported inside functions: `understudy --help` must be quick.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec, TypeVar

import typer

from adapters.errors import UnderstudyError

if TYPE_CHECKING:
    from adapters.database import Database
    from adapters.fleet_store import FleetStore
    from adapters.registry import Registry
    from adapters.routes import RouteStore
    from gateway.config import Settings

P = ParamSpec("P")
R = TypeVar("R")

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="understudy.toml; default: the one in this folder")
]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def command_group(help_text: str) -> typer.Typer:
    """An empty group of sub-commands. Its commands are wrapped in `reported`."""
    return typer.Typer(help=help_text, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


def reported(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a command: every error it raises is one line on standard error and an exit status, never a traceback."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result = function(*args, **kwargs)
            sys.stdout.flush()
            return result
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            typer.echo("stopped", err=True)
            raise typer.Exit(130) from None
        except BrokenPipeError:  # the reader (head, less) has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except UnderstudyError as error:
            _fail(error, str(error))
        except Exception as error:
            _fail(error, f"internal error: {type(error).__name__}: {error}; please report it with {_write_log(error)}")

    return run


def _fail(error: Exception, message: str) -> NoReturn:
    if os.environ.get("UNDERSTUDY_DEBUG", "0") not in ("", "0"):
        raise error
    typer.echo("error: " + " ".join(message.split()), err=True)
    raise typer.Exit(1) from None


def _write_log(error: Exception) -> str:
    """The traceback in a private file; its path."""
    import tempfile
    import traceback

    try:
        with tempfile.NamedTemporaryFile("w", prefix="understudy-error-", suffix=".log", delete=False) as log:
            log.write("".join(traceback.format_exception(error)))
            return log.name
    except OSError:
        return "the traceback that UNDERSTUDY_DEBUG=1 shows"


@dataclass(frozen=True)
class Context:
    """One installation, opened for a command."""

    settings: Settings
    database: Database
    registry: Registry
    routes: RouteStore
    fleet: FleetStore


@contextmanager
def open_context(config: Path | None, *, upgrade: bool | None = None) -> Iterator[Context]:
    """Read the settings and open the database. Raises ConfigError and DatabaseError."""
    from adapters.artifacts import ArtifactStore
    from adapters.database import open_database
    from adapters.fleet_store import FleetStore
    from adapters.registry import Registry
    from adapters.routes import RouteStore
    from gateway.config import ensure_data_dir, load_settings

    settings = load_settings(config)
    if config is None and not Path("understudy.toml").exists() and not settings.data_dir.exists():
        note(f"no understudy.toml in this folder: using the defaults, with data in {settings.data_dir}")
    data_dir = ensure_data_dir(settings)
    database = open_database(settings.database, data_dir, upgrade=upgrade)
    try:
        artifacts = ArtifactStore(settings.artifacts, data_dir)
        registry = Registry(database, artifacts)
        yield Context(settings, database, registry, RouteStore(database), FleetStore(database))
    finally:
        database.close()


def declare_routes(context: Context) -> None:
    """Make the routes of the file exist, as the controller does when it starts."""
    for route in context.settings.route:
        context.routes.create(route.name, route.description, exist_ok=True)


def actor() -> str:
    """Who runs this command, for the history: user@host."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # containers run with numbers that have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"[:200]


def print_json(value: Any) -> None:
    """Print dataclasses, dicts and lists of them as JSON."""
    typer.echo(json.dumps(value, indent=2, default=_plain, ensure_ascii=False))


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    """Print rows: the named columns aligned, or everything as JSON."""
    if as_json:
        print_json(rows)
        return
    cells = [[name.upper().replace("_", " ") for name in columns]]
    cells += [[_cell(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print one thing, a line per field."""
    width = max(len(name) for name in fields)
    for name, value in fields.items():
        typer.echo(f"{name.replace('_', ' ').ljust(width)}  {_cell(value)}")


def when(seconds: float | None) -> str:
    """Seconds since the epoch → local time to the minute; empty for none."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else ""


def note(text: str) -> None:
    """Say something that is no result: standard error, so that output can be piped."""
    typer.echo(text, err=True)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, frozenset | set):
        return sorted(value)
    return value.hex() if isinstance(value, bytes) else str(value)


def _cell(value: Any) -> str:
    """Text for a terminal: stored strings must not steer it."""
    text = "-" if value in (None, "") else str(value)
    return "".join(char if char.isprintable() else "?" for char in text)
