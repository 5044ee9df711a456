"""The long-running commands `engine`, `controller` and `up`; `doctor`; and `adapter verify`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli_support import ConfigFile, Json, note, print_json, print_table

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.engines.supervisor import EngineSite


def engine_command(
    replica: Annotated[int | None, typer.Option(help="only this replica, from 0; default: all", min=0)] = None,
    config: ConfigFile = None,
) -> None:
    """Start the vLLM engines of this machine and keep them running, until SIGTERM or Ctrl-C."""
    import asyncio

    from gateway.config import load_settings

    asyncio.run(_supervise(_sites(load_settings(config), replica)))


def controller_command(config: ConfigFile = None) -> None:
    """Run the controller and the operator API, until SIGTERM or Ctrl-C."""
    from gateway.config import load_settings
    from gateway.control_plane.service import run_controller

    run_controller(load_settings(config))


def up_command(config: ConfigFile = None) -> None:
    """Run everything on this machine, supervised: engines, controller, data plane."""
    from pathlib import Path

    from gateway.config import load_settings
    from gateway.control_plane.up import run_up

    settings = load_settings(config)
    if config is None and Path("understudy.toml").exists():
        config = Path("understudy.toml")
    run_up(settings, config, _write)


def doctor_command(config: ConfigFile = None, as_json: Json = False) -> None:
    """Look for what is wrong, and say how to mend it. Exit status 1 when something is."""
    from gateway.control_plane.doctor import examine

    findings = examine(config)
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            typer.echo(f"{finding.level.upper():<5} {finding.subject}: {finding.what}")
            if finding.mend:
                typer.echo(f"      → {finding.mend}")
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(1)


def verify_command(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="such as support@3f2a9c1b7d20")],
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Load a version and compare its logprobs with the trainer's, on every engine. Exit status 1 unless all match."""
    from gateway.config import load_settings
    from gateway.control_plane.operator_client import OperatorClient

    answer = OperatorClient(load_settings(config)).call("POST", f"/api/v1/adapters/{_quoted(version)}/verify")
    if as_json:
        print_json(answer)
    else:
        columns = ("engine", "verdict", "max_difference", "tolerance", "base_distance", "error")
        print_table([{**row, **_numbers(row["probe"])} for row in answer["engines"]], columns, False)
        if any(row["verdict"] == "none" for row in answer["engines"]):
            note("probe: none: it was pushed without probes.json, so only finite numbers and a difference were checked")
    if not answer["ok"] or not answer["engines"]:
        raise typer.Exit(1)


def _quoted(version: str) -> str:
    """The version for a path. Raises ConfigError when it is not one."""
    from urllib.parse import quote

    from adapters.types import split_version

    split_version(version)
    return quote(version)


def _numbers(probe: dict[str, Any]) -> dict[str, str]:
    return {name: f"{value:.4f}" for name, value in probe.items() if isinstance(value, float)}


def _sites(settings: Settings, replica: int | None) -> list[EngineSite]:
    """What to run. Raises ConfigError before anything is started."""
    from adapters.base import resolve_base
    from adapters.errors import ConfigError
    from gateway.config import ensure_data_dir
    from gateway.engines.command import installed_package
    from gateway.engines.supervisor import EngineSite, check_site

    engine = settings.engine
    if not engine.managed:
        raise ConfigError("engine.managed is false: the engines in engine.urls are started elsewhere")
    if replica is not None and replica >= engine.replicas:
        last = engine.replicas - 1
        raise ConfigError(f"--replica {replica}: engine.replicas is {engine.replicas}, so the last one is {last}")
    base = resolve_base(engine.base_model)
    if not (base / "config.json").is_file():
        raise ConfigError(f"base {base} has no config.json: engine.base_model must be a Hugging Face checkpoint")
    package, data_dir = installed_package(), ensure_data_dir(settings)
    numbers = range(engine.replicas) if replica is None else [replica]
    sites = [EngineSite(engine, package, str(base), data_dir, number) for number in numbers]
    for site in sites:
        check_site(site)
    return sites


async def _supervise(sites: list[EngineSite]) -> None:
    """All replicas until a signal comes, or the first start of one fails."""
    import asyncio
    import signal

    from gateway.engines.supervisor import EngineSupervisor

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tasks = [asyncio.create_task(EngineSupervisor(site, _write).run(stop)) for site in sites]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    stop.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        task.result()


def _write(line: str) -> None:
    """A line of progress; a terminal that went away must not stop what runs."""
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except OSError:
        sys.stdout = open("/dev/null", "w")  # noqa: PTH123, SIM115 - a stream that lives as long as the process
