"""`understudy route …`, with and without a controller."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from adapters import tables
from adapters.fleet_store import CONTROLLER_LEASE, FleetStore
from adapters.routes import RouteStore
from adapters.snapshot import Arm, PinnedVersion, RouteState, Snapshot, to_json
from adapters.types import Holding, HoldingState
from gateway import cli_routes
from tests.support import tree
from tests.support.commands import failed, good
from tests.support.waiting import PATIENCE, soon


def test_routes(cli, pushed):
    assert json.loads(good(cli("route", "list", "--json")))[0]["name"] == "declared"
    good(cli("route", "create", "more", "--description", "text"))
    assert "exists already" in failed(cli("route", "create", "more"))
    good(cli("route", "set", "support", pushed[0], "--no-wait"))
    shown = json.loads(good(cli("route", "show", "support", "--json")))
    assert (shown["version"], shown["target"]) == (None, pushed[0])
    assert pushed[0] in good(cli("route", "show", "support"))
    assert "about to be served by route support" in failed(cli("adapter", "archive", pushed[0]))
    good(cli("route", "set", "support", "base", "--no-wait"))
    assert "archive its versions first" in failed(cli("route", "delete", "support"))
    good(cli("route", "delete", "more"))
    assert [route["name"] for route in json.loads(good(cli("route", "list", "--json")))] == ["declared", "support"]


def test_set_says_when_no_controller_runs(cli, pushed, monkeypatch):
    monkeypatch.setattr(cli_routes, "_LEADER_PATIENCE", 0.1)
    line = failed(cli("route", "set", "support", pushed[0]))
    assert f"no controller is running; {pushed[0]} stays wanted on route support: start `understudy up`" in line


class Controller(threading.Thread):
    """Does with a target what the controller does, or fails it."""

    def __init__(self, database, outcome):
        super().__init__(daemon=True)
        self.routes, self.fleet, self.outcome = RouteStore(database), FleetStore(database), outcome
        self.stop, self.looked_at = threading.Event(), threading.Event()

    def run(self):
        self.fleet.acquire_lease(CONTROLLER_LEASE, "test", 60, time.time())
        while not self.stop.wait(0.02):
            route = self.routes.get("support")
            if route.target and self.outcome == "fails":
                self.routes.fail_target("support", "engine-0 refused it")
            elif route.target:
                self.fleet.upsert_holding(Holding("engine-0", route.target, HoldingState.LOADING, "b", 0.0))
                self.looked_at.wait(PATIENCE)  # by the command
                route = self.routes.commit_target("support", 60, time.time())
            self.publish(route.version or "base@0123456789ab")

    def publish(self, version):
        state = RouteState("support", "salt", (Arm(1, "stable", version, version, 0.0, 1.0, ("engine-0",)),))
        base = PinnedVersion(2, "base@0123456789ab", "base", ("engine-0",))
        latest = self.fleet.latest()
        if latest is None or latest.routes != (state,):
            self.fleet.publish(to_json(Snapshot(0, 0, base, (state,), (), ())), time.time() + 0.2)


@pytest.fixture
def controller(cli_database, monkeypatch):
    started, holdings = [], FleetStore.holdings

    def looked_at(*args, **more):
        found = holdings(*args, **more)
        if found:
            started[0].looked_at.set()
        return found

    monkeypatch.setattr(FleetStore, "holdings", looked_at)

    def start(outcome="switches"):
        started.append(Controller(cli_database, outcome))
        started[0].start()

    yield start
    for thread in started:
        thread.stop.set()
        thread.join()


def test_set_waits_until_the_workers_serve_it(cli, pushed, controller, cli_database):
    controller()
    result = cli("route", "set", "support", pushed[0])
    good(result)
    assert "engine-0 loading" in result.stderr
    assert result.stderr.splitlines()[-1] == f"route support serves {pushed[0]}"
    snapshot = FleetStore(cli_database).latest()
    assert snapshot.effective_at <= time.time()
    assert snapshot.routes[0].arms[0].version == pushed[0]
    good(cli("route", "set", "support", "base"))
    assert RouteStore(cli_database).get("support").version is None


def test_set_reports_a_failure(cli, pushed, controller):
    controller("fails")
    line = failed(cli("route", "set", "support", pushed[0]))
    assert line == f"error: route support still serves the base: {pushed[0]}: engine-0 refused it"


def test_set_reports_that_somebody_else_changed_it(cli, pushed, cli_database):
    FleetStore(cli_database).acquire_lease(CONTROLLER_LEASE, "test", 60, time.time())
    routes = RouteStore(cli_database)

    def change() -> None:
        soon(lambda: routes.get("support").target == pushed[0])
        routes.set_target("support", pushed[1])

    other = threading.Thread(target=change, daemon=True)
    other.start()
    line = failed(cli("route", "set", "support", pushed[0]))
    other.join()
    assert f"was set to {pushed[1]} meanwhile" in line


def test_set_gives_up_in_time(cli, pushed, cli_database):
    FleetStore(cli_database).acquire_lease(CONTROLLER_LEASE, "test", 60, time.time())
    line = failed(cli("route", "set", "support", pushed[0], "--timeout", "1"))
    assert "has not switched yet: it goes on" in line


# SIGINT as at a terminal: what a script starts in the background, this suite perhaps, would ignore it.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from gateway.cli_adapters import adapter_app, route_app
({}_app)()
"""


def start(app, *arguments, **options):
    command = [sys.executable, "-c", PROGRAM.format(app), *map(str, arguments)]
    # Unbuffered Python drops what a write to a closed pipe left over, and so does not notice.
    environment = {**os.environ, "PYTHONPATH": str(tree.ROOT), "PYTHONUNBUFFERED": ""}
    return subprocess.Popen(command, env=environment, text=True, **options)


def test_ctrl_c_is_status_130(cli_config, pushed, cli_database):
    FleetStore(cli_database).acquire_lease(CONTROLLER_LEASE, "test", 60, time.time())
    arguments = ("set", "support", pushed[0], "-c", cli_config)
    with start("route", *arguments, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stderr.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "stopped\n"
        assert process.wait(60) == 130


def test_a_reader_that_stops_reading_is_no_error(cli_config, cli_database):
    with cli_database.begin() as connection:
        rows = [{"name": f"r{number}", "description": "x" * 50} for number in range(3000)]
        connection.execute(tables.routes.insert(), rows)
    with start("route", "list", "--json", "-c", cli_config, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 1
