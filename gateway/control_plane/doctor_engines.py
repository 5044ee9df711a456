"""The doctor's look at the engines: do they answer, do they serve our base, and who else can reach them.

A vLLM answers `POST /adapters` (loads any path) and `/invocations` (full chat) without any key, even with --api-key.
So an engine must be reachable from this machine only, or through something that passes nothing but /v1.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from adapters.errors import EngineError
from gateway.config import Settings, is_loopback
from gateway.control_plane.findings import Finding, fail, ok, warn
from gateway.control_plane.sites import Site, find_sites
from gateway.engines.client import EngineClient
from gateway.engines.local import read_state

_PATIENCE = 3.0             # seconds
_KEYLESS = ("/adapters", "/invocations")
_CLOSED = frozenset({401, 403, 404})


def check_engines(settings: Settings) -> Iterator[Finding]:
    """One finding per engine and more where something is open."""
    yield from asyncio.run(_check(settings))


async def _check(settings: Settings) -> list[Finding]:
    found = await asyncio.gather(*(_engine(settings, site) for site in find_sites(settings)))
    return [finding for findings in found for finding in findings]


async def _engine(settings: Settings, site: Site) -> list[Finding]:
    stopped = _stopped(settings, site)
    if stopped:
        return [stopped]
    key = "" if settings.engine.managed else settings.engine.api_key
    findings = []
    async with EngineClient(site.url, key, patience=_PATIENCE) as client:
        try:
            await client.health()
            models = await client.models()
        except EngineError as error:
            log = f"; its log: {settings.data_dir / 'logs' / site.name}.log" if settings.engine.managed else ""
            return [fail(site.name, str(error), f"start it (understudy up, or understudy engine){log}")]
        served = settings.engine.served_name
        if served not in models:
            names = ", ".join(name for name, model in models.items() if model.parent is None) or "nothing"
            mend = f"start it with --served-model-name {served}, or set engine.served_name"
            findings.append(fail(site.name, f"serves {names}, not {served}", mend))
        else:
            adapters = len(models) - 1
            findings.append(ok(site.name, f"answers at {site.url}, {adapters} adapter(s) loaded"))
        if await _status(client, "GET", "/v1/load_lora_adapter") == 404:
            mend = "start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
            findings.append(fail(site.name, "cannot load adapters at run time", mend))
    return [*findings, *await _exposure(site)]


def _stopped(settings: Settings, site: Site) -> Finding | None:
    """What its supervisor says about a managed engine that does not run."""
    start = "understudy up, or understudy engine"
    if not site.url:
        return warn(site.name, "was never started here", start)
    state = read_state(settings.data_dir, site.number) if site.gone else None
    if state is None:
        return None
    if state.error:
        return fail(site.name, state.error, f"its log: {settings.data_dir / 'logs' / site.name}.log")
    return warn(site.name, "does not run", start)


async def _exposure(site: Site) -> list[Finding]:
    """Is anything of it open to others? Only asked with GET, which changes nothing."""
    if site.url.startswith("unix:"):
        return []
    parts = urlsplit(site.url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    addresses = await asyncio.to_thread(own_addresses) if is_loopback(host) else [host]
    findings = []
    for address in addresses:
        url = f"{parts.scheme}://{f'[{address}]' if ':' in address else address}:{port}"
        async with EngineClient(url, patience=_PATIENCE) as client:
            answers = {path: await _status(client, "GET", path) for path in _KEYLESS}
        reached = [path for path, status in answers.items() if status is not None and status not in _CLOSED]
        if reached:
            paths = " and ".join(reached)
            what = f"{paths} can be reached at {url} without a key: anybody there can load adapters and chat"
            mend = "bind it to 127.0.0.1 or a Unix socket (--host, --uds), or let a proxy pass nothing but /v1"
            findings.append(fail(site.name, what, mend))
    return findings


async def _status(client: EngineClient, method: str, path: str) -> int | None:
    with contextlib.suppress(EngineError):
        return await client.status(method, path)
    return None


def own_addresses() -> list[str]:
    """This machine's addresses that are not loopback, as far as they can be found out without privileges."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        found |= {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)}
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        # Connecting a datagram socket sends nothing; it only chooses the address that would be used.
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as chooser:
            chooser.connect((elsewhere, 9))
            found.add(chooser.getsockname()[0])
    return sorted(address for address in found if _is_elsewhere(address))


def _is_elsewhere(address: str) -> bool:
    with contextlib.suppress(ValueError):
        parsed = ipaddress.ip_address(address.partition("%")[0])
        return not (parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified)
    return False
