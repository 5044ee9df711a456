"""`understudy doctor`: looks at everything that has gone wrong for somebody before, and says how to mend it."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import httpx
from sqlalchemy import text

from adapters.artifacts import ArtifactStore
from adapters.base import read_base, resolve_base
from adapters.database import Database, open_database
from adapters.errors import ConfigError, UnderstudyError
from adapters.fleet_store import CONTROLLER_LEASE, FleetStore
from adapters.keys import list_keys
from adapters.registry import Registry
from adapters.routes import RouteStore
from adapters.types import HoldingState, Stage
from gateway.compiled import why_not
from gateway.config import Settings, ensure_data_dir, load_settings
from gateway.control_plane.doctor_engines import check_engines
from gateway.control_plane.doctor_guard import check_guard
from gateway.control_plane.findings import Finding, fail, looked_at, ok, warn
from gateway.control_plane.token import FILE_NAME
from gateway.engines.command import installed_package
from gateway.scoring.service import production_graders

_SCARCE, _EMPTY = 2 * 1024**3, 200 * 1024**2   # bytes of free disk
_READ_ALL = 4 * 1024**3                        # bytes of artifacts up to which every byte is read
_CLOCKS = 1.0                                  # seconds by which the clocks of hosts may differ


def examine(config: Path | None) -> list[Finding]:
    """Everything, in the order in which it should be mended."""
    try:
        settings = load_settings(config)
    except ConfigError as error:
        return [fail("configuration", str(error), "")]
    findings = [ok("configuration", f"data_dir is {settings.data_dir}")]
    findings += looked_at("data_dir", lambda: _data_dir(settings))
    findings += looked_at("hot path", _hot_path)
    findings += looked_at("base", lambda: _base(settings))
    if settings.engine.managed:
        findings += looked_at("vLLM", _vllm)
    findings += looked_at("ports", lambda: _ports(settings))
    if settings.rewards.grader:
        findings += looked_at("graders", lambda: _graders(settings, config))
    findings += looked_at("guard", lambda: check_guard(settings))
    findings += looked_at("database", lambda: _database(settings))
    findings += looked_at("engines", lambda: check_engines(settings))
    return findings


def _data_dir(settings: Settings) -> Iterator[Finding]:
    folder = ensure_data_dir(settings)
    probe = folder / f".doctor-{os.getpid()}"
    try:
        probe.write_bytes(b"x")
    finally:
        probe.unlink(missing_ok=True)
    free = shutil.disk_usage(folder).free
    amount = f"{free / 1024**3:.1f} GiB free"
    if free < _EMPTY:
        yield fail("disk", f"{amount} in {folder}", "make room: records and adapters cannot be stored")
    elif free < _SCARCE:
        yield warn("disk", f"{amount} in {folder}", "make room soon")
    else:
        yield ok("disk", amount)
    token = folder / FILE_NAME
    if token.exists() and stat.S_IMODE(token.stat().st_mode) & 0o077:
        yield fail("operator token", f"others can read {token}", f"chmod 600 {token}")


def _hot_path() -> Iterator[Finding]:
    reason = why_not()
    if reason:
        yield warn("hot path", f"it runs interpreted, at twice the CPU a request: {reason}", "see docs/profile.md")
    else:
        yield ok("hot path", "compiled for these sources")


def _base(settings: Settings) -> Iterator[Finding]:
    info = read_base(resolve_base(settings.engine.base_model), settings.data_dir / "cache")
    yield ok("base", f"{info.path} is {info.version}, {info.num_layers} layers, {info.vocab_size} tokens")


def _vllm() -> Iterator[Finding]:
    package = installed_package()
    yield ok("vLLM", f"{package.name} {package.version}, for {package.device}")
    try:
        version("torchvision")
    except PackageNotFoundError:
        return
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import torchvision"], check=False, capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        mend = "pip uninstall torchvision torchaudio torchcodec (text models need none of them)"
        yield fail("torch", f"torchvision cannot be imported, and transformers fails with it: {reason}", mend)


def _ports(settings: Settings) -> Iterator[Finding]:
    gateway, control = settings.gateway, settings.control
    named = [("gateway.port", gateway.host, gateway.port), ("control.port", control.host, control.port)]
    if gateway.metrics_port:
        named.append(("gateway.metrics_port", "127.0.0.1", gateway.metrics_port))
    if settings.rewards.served_here:
        named.append(("rewards.port", settings.rewards.host, settings.rewards.port))
    if settings.screening.served_here:
        named.append(("screening.port", settings.screening.host, settings.screening.port))
    for key, host, port in named:
        yield _port(key, host, port, "https" if key == "gateway.port" and gateway.tls_cert else "http")


def _port(key: str, host: str, port: int, scheme: str) -> Finding:
    if port == 0:
        return warn(key, "is 0: another one at every start", f"set {key}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        return ok(key, f"{port} is free")
    except OSError as error:
        if _is_ours(f"{scheme}://{_callable(host)}:{port}/healthz"):
            return ok(key, f"{port} is answered by Understudy")
        reason = error.strerror or str(error)
        return fail(key, f"{host}:{port} cannot be used: {reason}", f"end what listens there, or set {key}")


def _callable(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not listened on
    return f"[{host}]" if ":" in host else host


def _is_ours(url: str) -> bool:
    try:
        answer = httpx.get(url, timeout=3.0, verify=False, trust_env=False)  # noqa: S501 - only whether it is there
    except httpx.HTTPError:
        return False
    return answer.status_code == 200 and "ok" in answer.text


def _graders(settings: Settings, config: Path | None) -> Iterator[Finding]:
    """Whether they can be made; `understudy reward --check` also asks judges and loads weights."""
    graders = production_graders(settings, config.resolve().parent if config else Path.cwd())
    yield ok("graders", ", ".join(grader.name for grader in graders))


def _database(settings: Settings) -> Iterator[Finding]:
    if settings.database.url == "sqlite" and not (settings.data_dir / "understudy.db").exists():
        yield ok("database", "SQLite in data_dir, made at the first start")
        if settings.keys_required:
            yield _no_keys(settings)
        return
    database = open_database(settings.database, settings.data_dir, upgrade=False)
    try:
        yield ok("database", f"{database.dialect} at {database.where}, schema as it should be")
        yield from _clock(database)
        yield from _keys(settings, database)
        yield from _artifacts(settings, database)
        yield from _routes(database)
    finally:
        database.close()


def _clock(database: Database) -> Iterator[Finding]:
    """Leases and switches compare clocks; with one host there is only one."""
    if database.dialect != "postgresql":
        return
    before = time.time()
    with database.read() as connection:
        theirs = float(connection.execute(text("select extract(epoch from clock_timestamp())")).scalar_one())
    after = time.time()
    apart = max(before - theirs, theirs - after, 0.0)
    if apart > _CLOCKS:
        yield fail("clock", f"differs from the database's by {apart:.1f} s", "synchronise the clocks (NTP)")
    else:
        yield ok("clock", "agrees with the database's")


def _keys(settings: Settings, database: Database) -> Iterator[Finding]:
    usable = [key for key in list_keys(database) if key.revoked_at is None]
    if settings.keys_required and not usable:
        yield _no_keys(settings)
    elif settings.keys_required:
        yield ok("keys", f"{len(usable)} usable")


def _no_keys(settings: Settings) -> Finding:
    why = f"gateway.host is {settings.gateway.host} and keys are required, but there is none"
    return fail("keys", why, "understudy key create --scope inference")


def _artifacts(settings: Settings, database: Database) -> Iterator[Finding]:
    store = ArtifactStore(settings.artifacts, settings.data_dir)
    versions = [v for v in Registry(database, store).list() if v.stage is not Stage.ARCHIVED]
    read_all = sum(v.size_bytes for v in versions) <= _READ_ALL
    broken = 0
    for found in versions:
        try:
            if read_all:
                store.verify(found.digest)
            path = Path(store.local_path(found.digest))
            if settings.artifacts.engine_path and not path.is_dir():
                yield warn(found.name, f"{path} does not exist on this machine", "check artifacts.engine_path")
        except UnderstudyError as error:
            broken += 1
            yield fail(found.name, str(error), "push the same adapter again: it mends what is damaged")
    if not broken:
        how = "every byte read" if read_all else "sizes compared"
        yield ok("adapters", f"{len(versions)} version(s) are complete ({how})")


def _routes(database: Database) -> Iterator[Finding]:
    fleet = FleetStore(database)
    holder = fleet.lease_holder(CONTROLLER_LEASE, time.time())
    if holder is None:
        yield warn("controller", "none leads: routes stay as they are", "understudy up, or understudy controller")
    else:
        yield ok("controller", f"{holder} leads")
    for route in RouteStore(database).list():
        if route.error:
            yield warn(f"route {route.name}", route.error, "set it again once that is mended")
    for held in fleet.holdings():
        if held.state in (HoldingState.FAILED, HoldingState.REFUSED):
            yield warn(held.version, f"{held.replica}: {held.error}", f"understudy adapter show {held.version}")
