from __future__ import annotations

import pytest

from gateway.config import EngineSettings, Settings
from gateway.control_plane.sites import ask_for_restart, find_sites
from gateway.engines.local import LocalEngine, take_restart_request, write_state


def test_named_engines(data_dir):
    urls = ("http://10.0.0.5:8000", "http://10.0.0.6:8000", "https://user:pass@gpu.example:443", "unix:/run/e.sock")
    sites = find_sites(Settings(data_dir=data_dir, engine=EngineSettings(managed=False, urls=urls)))
    assert [site.name for site in sites] == ["10.0.0.5:8000", "10.0.0.6:8000", "gpu.example:443", "e.sock"]
    assert [site.url for site in sites] == list(urls)


def test_names_are_distinct_and_fit(data_dir):
    urls = ("unix:/a/e.sock", "unix:/b/e.sock", "unix:/" + "x" * 300)
    sites = find_sites(Settings(data_dir=data_dir, engine=EngineSettings(managed=False, urls=urls)))
    names = [site.name for site in sites]
    assert len(set(names)) == 3 and max(map(len, names)) <= 100


@pytest.mark.parametrize(("state", "gone"), [("starting", False), ("ready", False), ("down", True), ("stopped", True)])
def test_managed_engines_are_where_their_supervisor_says(data_dir, state, gone):
    write_state(data_dir, 1, LocalEngine("engine-1", "unix:/s", state, 1))
    first, second = find_sites(Settings(data_dir=data_dir, engine=EngineSettings(replicas=2)))
    assert (first.name, first.url, first.gone) == ("engine-0", "", False)
    assert (second.name, second.url, second.gone) == ("engine-1", "unix:/s", gone)
    assert first.waiting and bool(second.waiting) == (state != "ready")


def test_restarts_are_asked_for_where_somebody_listens(data_dir):
    settings = Settings(data_dir=data_dir)
    (site,) = find_sites(settings)
    assert ask_for_restart(settings, site, "b1", "NaN")
    assert take_restart_request(data_dir, 0, "b1") == "NaN"
    elsewhere = Settings(data_dir=data_dir, engine=EngineSettings(managed=False, urls=("http://h:1",)))
    assert not ask_for_restart(elsewhere, find_sites(elsewhere)[0], "b1", "NaN")
