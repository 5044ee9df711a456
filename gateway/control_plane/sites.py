"""Where the engines are: named in the settings, or as the supervisors of this machine say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gateway.config import EngineSettings, Settings
from gateway.engines.local import read_state, replica_name, request_restart

_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class Site:
    """One engine that should exist.

    `url` is empty until its supervisor has said it. `waiting`: why it must not be used yet (a managed engine that
    answers may still have to be warmed up). `gone`: its process has ended for certain.
    """

    name: str
    url: str
    number: int = -1             # of a managed replica
    waiting: str = ""
    gone: bool = False


def find_sites(settings: Settings) -> list[Site]:
    """All engines, in order. Reads small files of data_dir where engines are managed."""
    if not settings.engine.managed:
        return [Site(name, url) for name, url in zip(_names(settings.engine), settings.engine.urls, strict=True)]
    return [_managed(settings.data_dir, number) for number in range(settings.engine.replicas)]


def ask_for_restart(settings: Settings, site: Site, boot: str, reason: str) -> bool:
    """Have this boot ended by its supervisor. False where there is none: an operator has to do it."""
    if site.number < 0:
        return False
    request_restart(settings.data_dir, site.number, boot, reason)
    return True


def _managed(data_dir: Path, number: int) -> Site:
    state = read_state(data_dir, number)
    if state is None:
        return Site(replica_name(number), "", number, waiting="it was never started here")
    waiting = "" if state.state == "ready" else f"its supervisor says: {state.error or state.state}"
    return Site(replica_name(number), state.url, number, waiting, gone=state.state in ("down", "stopped"))


def _names(settings: EngineSettings) -> list[str]:
    """host:port of each URL; with a number behind where two would be the same."""
    names: list[str] = []
    for url in settings.urls:
        name = (urlsplit(url).netloc.rpartition("@")[2] or Path(url).name or url)[: _LONGEST_NAME - 4]
        names.append(name if name not in names else f"{name}#{len(names)}")
    return names
