"""`understudy adapter|route|key|db`, as an operator runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import typer
from typer.testing import CliRunner

from adapters import tables
from adapters.database import open_database
from adapters.fleet_store import CONTROLLER_LEASE, FleetStore
from adapters.keys import hash_secret, load_keys
from adapters.routes import RouteStore
from adapters.settings import DatabaseSettings
from adapters.snapshot import Arm, PinnedVersion, RouteState, Snapshot, to_json
from adapters.types import Holding, HoldingState
from gateway import cli_routes
from gateway.cli_adapters import adapter_app, db_app, key_app, route_app
from tests.support import peft, tree


@pytest.fixture(scope="module")
def app():
    app = typer.Typer(pretty_exceptions_enable=False)
    for name, group in (("adapter", adapter_app), ("route", route_app), ("key", key_app), ("db", db_app)):
        app.add_typer(group, name=name)
    return app


@pytest.fixture
def base(tmp_path):
    return peft.small_base(tmp_path / "base")


@pytest.fixture
def config(tmp_path, base):
    path = tmp_path / "understudy.toml"
    path.write_text(
        f'data_dir = "data"\n[engine]\nbase_model = "{base.path}"\nmax_lora_rank = 8\n'
        '[[route]]\nname = "declared"\ndescription = "from the file"\n'
    )
    return path


@pytest.fixture
def run(app, config):
    """Run a command; returns its result with .exit_code, .stdout and .stderr."""

    def invoke(*arguments, config=config):
        return CliRunner().invoke(app, [*map(str, arguments), "-c", str(config)])

    return invoke


@pytest.fixture
def database(config):
    opened = open_database(DatabaseSettings(), config.parent / "data")
    yield opened
    opened.close()


@pytest.fixture
def pushed(run, base, tmp_path):
    """The names of two versions of the route support."""
    names = []
    for seed in (1, 2):
        folder = peft.write_adapter(tmp_path / f"a{seed}", base, seed=seed)
        names.append(run("adapter", "push", folder, "--route", "support").stdout.strip())
    return names


def good(result):
    assert result.exit_code == 0, result.output
    return result.stdout


def failed(result, *, code=1):
    """One line on standard error, nothing on standard output."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    if code == 1:
        lines = result.stderr.strip().splitlines()
        assert lines[-1].startswith("error: "), result.stderr
        assert "Traceback" not in result.stderr
        return lines[-1]
    return result.stderr


def test_push_prints_the_version_last(run, base, tmp_path):
    folder = peft.write_adapter(tmp_path / "a", base)
    result = run("adapter", "push", folder, "--route", "support", "--lineage", "run=7", "--lineage", "data=a=b")
    version = good(result).splitlines()[-1]
    assert version.startswith("support@")
    assert "no probes.json" in result.stderr
    assert good(run("adapter", "push", folder, "--route", "support")).strip() == version
    [listed] = json.loads(good(run("adapter", "list", "--json")))
    assert listed["version"] == version
    assert listed["lineage"]["run"] == "7"
    assert listed["lineage"]["data"] == "a=b"
    assert "@" in listed["lineage"]["pushed_by"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--route", "support"], "nowhere is not a directory"),
        (["{adapter}", "--route", "Support"], "'Support' is not a route name"),
        (["{adapter}", "--route", "auto"], "is reserved"),
        (["{adapter}", "--route", "base"], "is the base's own name|is reserved"),
    ],
)
def test_push_refuses_in_one_line(run, base, tmp_path, arguments, message):
    folder = str(peft.write_adapter(tmp_path / "a", base))
    line = failed(run("adapter", "push", *[argument.replace("{adapter}", folder) for argument in arguments]))
    assert any(part in line for part in message.split("|"))
    assert json.loads(good(run("adapter", "list", "--json"))) == []


def test_push_checks_against_the_configured_engine(run, base, tmp_path):
    folder = peft.write_adapter(tmp_path / "a", base, rank=16)
    line = failed(run("adapter", "push", folder, "--route", "support"))
    assert "r is 16, the engines take up to 8" in line


def test_push_against_a_base_that_is_not_there(run, tmp_path, base):
    config = tmp_path / "other.toml"
    config.write_text('[engine]\nbase_model = "no/such-model"\n')
    folder = peft.write_adapter(tmp_path / "a", base)
    line = failed(run("adapter", "push", folder, "--route", "support", config=config))
    assert "run `hf download no/such-model` first" in line


def test_listings_and_show(run, pushed, database):
    lines = good(run("adapter", "list")).splitlines()
    assert lines[0].split() == ["VERSION", "STAGE", "RANK", "BYTES", "CREATED", "REASON"]
    assert [line.split()[0] for line in lines[1:]] == pushed
    assert json.loads(good(run("adapter", "list", "--json", "--route", "other"))) == []
    FleetStore(database).upsert_holding(Holding("engine-0", pushed[0], HoldingState.FAILED, "b", 0.0, "no room"))
    text = good(run("adapter", "show", pushed[0]))
    assert "registered" in text
    assert "engine-0  failed  no room" in text
    shown = json.loads(good(run("adapter", "show", pushed[0], "--json")))
    assert shown["holdings"][0]["error"] == "no room"
    assert [event["stage"] for event in shown["events"]] == ["candidate"]
    assert "no engine holds it" in good(run("adapter", "show", pushed[1]))


def test_stages_by_command(run, pushed):
    assert "is candidate already" in failed(run("adapter", "release", pushed[0], "--reason", "x"))
    result = run("adapter", "archive", pushed[0], "--reason", "worse")
    good(result)
    assert "its files are deleted" in result.stderr
    assert "archived already" in failed(run("adapter", "archive", pushed[0]))
    [archived] = json.loads(good(run("adapter", "list", "--json", "--stage", "archived")))
    assert (archived["version"], archived["reason"]) == (pushed[0], "worse")


@pytest.mark.parametrize(
    "arguments",
    [
        ["adapter", "list", "--stage", "nonsense"], ["adapter", "release", "support@0123456789ab"],
        ["adapter", "push", "x"], ["adapter", "push", "x", "--route", "a", "--lineage", "novalue"],
        ["route", "set", "a", "b", "--timeout", "0"], ["key", "create"], ["adapter", "nonsense"], ["db", "nonsense"],
    ],
)  # fmt: skip
def test_wrong_usage_is_status_2(run, arguments):
    failed(run(*arguments), code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adapter", "show", "support"], "'support' is not a version"),
        (["adapter", "show", "support@0123456789ab"], "does not exist: see `understudy adapter list`"),
        (["adapter", "archive", "support@0123456789ab"], "does not exist"),
        (["route", "show", "nowhere"], "route nowhere does not exist: see `understudy route list`"),
        (["route", "set", "nowhere", "base"], "route nowhere does not exist"),
        (["route", "set", "declared", "x"], "'x' is not a version"),
        (["route", "create", "A"], "is not a route name"),
        (["route", "delete", "declared"], "declared in the configuration file"),
        (["key", "create", "--scope", "admin"], "scopes are inference and operator"),
        (["key", "create", "--scope", "inference", "--routes", "typo"], "route typo does not exist"),
        (["key", "create", "--scope", "inference", "--rpm", "-1"], "limits per minute"),
        (["key", "revoke", "key-nobody"], "see `understudy key list`"),
    ],
)
def test_mistakes_give_one_line(run, arguments, message):
    assert message in failed(run(*arguments))


def test_routes(run, pushed):
    assert json.loads(good(run("route", "list", "--json")))[0]["name"] == "declared"
    good(run("route", "create", "more", "--description", "text"))
    assert "exists already" in failed(run("route", "create", "more"))
    good(run("route", "set", "support", pushed[0], "--no-wait"))
    shown = json.loads(good(run("route", "show", "support", "--json")))
    assert (shown["version"], shown["target"]) == (None, pushed[0])
    assert pushed[0] in good(run("route", "show", "support"))
    assert "about to be served by route support" in failed(run("adapter", "archive", pushed[0]))
    good(run("route", "set", "support", "base", "--no-wait"))
    assert "archive its versions first" in failed(run("route", "delete", "support"))
    good(run("route", "delete", "more"))
    assert [route["name"] for route in json.loads(good(run("route", "list", "--json")))] == ["declared", "support"]


def test_set_says_when_no_controller_runs(run, pushed, monkeypatch):
    monkeypatch.setattr(cli_routes, "_LEADER_PATIENCE", 0.1)
    line = failed(run("route", "set", "support", pushed[0]))
    assert f"no controller is running; {pushed[0]} stays wanted on route support: start `understudy up`" in line


class Controller(threading.Thread):
    """Does with a target what the controller does, or fails it."""

    def __init__(self, database, outcome):
        super().__init__(daemon=True)
        self.routes, self.fleet, self.outcome = RouteStore(database), FleetStore(database), outcome
        self.stop = threading.Event()

    def run(self):
        self.fleet.acquire_lease(CONTROLLER_LEASE, "test", 60, time.time())
        while not self.stop.wait(0.02):
            route = self.routes.get("support")
            if route.target and self.outcome == "fails":
                self.routes.fail_target("support", "engine-0 refused it")
            elif route.target:
                self.fleet.upsert_holding(Holding("engine-0", route.target, HoldingState.LOADING, "b", 0.0))
                self.stop.wait(0.3)
                route = self.routes.commit_target("support", 60, time.time())
            self.publish(route.version or "base@0123456789ab")

    def publish(self, version):
        state = RouteState("support", "salt", (Arm(1, "stable", version, version, 0.0, 1.0, ("engine-0",)),))
        base = PinnedVersion(2, "base@0123456789ab", "base", ("engine-0",))
        latest = self.fleet.latest()
        if latest is None or latest.routes != (state,):
            self.fleet.publish(to_json(Snapshot(0, 0, base, (state,), (), ())), time.time() + 0.2)


@pytest.fixture
def controller(database):
    started = []

    def start(outcome="switches"):
        started.append(Controller(database, outcome))
        started[0].start()

    yield start
    for thread in started:
        thread.stop.set()
        thread.join()


def test_set_waits_until_the_workers_serve_it(run, pushed, controller, database):
    controller()
    result = run("route", "set", "support", pushed[0])
    good(result)
    assert "engine-0 loading" in result.stderr
    assert result.stderr.splitlines()[-1] == f"route support serves {pushed[0]}"
    snapshot = FleetStore(database).latest()
    assert snapshot.effective_at <= time.time()
    assert snapshot.routes[0].arms[0].version == pushed[0]
    good(run("route", "set", "support", "base"))
    assert RouteStore(database).get("support").version is None


def test_set_reports_a_failure(run, pushed, controller):
    controller("fails")
    line = failed(run("route", "set", "support", pushed[0]))
    assert line == f"error: route support still serves the base: {pushed[0]}: engine-0 refused it"


def test_set_reports_that_somebody_else_changed_it(run, pushed, database):
    FleetStore(database).acquire_lease(CONTROLLER_LEASE, "test", 60, time.time())
    other = threading.Timer(0.5, lambda: RouteStore(database).set_target("support", pushed[1]))
    other.start()
    line = failed(run("route", "set", "support", pushed[0]))
    other.join()
    assert f"was set to {pushed[1]} meanwhile" in line


def test_set_gives_up_in_time(run, pushed, database):
    FleetStore(database).acquire_lease(CONTROLLER_LEASE, "test", 60, time.time())
    line = failed(run("route", "set", "support", pushed[0], "--timeout", "1"))
    assert "has not switched yet: it goes on" in line


def test_keys(run, database):
    limits = ["--owner", "team", "--routes", "declared", "--rpm", "9"]
    secret = good(run("key", "create", "--scope", "inference,operator", *limits)).strip()
    with database.read() as connection:
        key = load_keys(connection)[hash_secret(secret)]
    assert (key.owner, key.scopes, key.routes) == ("team", {"inference", "operator"}, {"declared"})
    assert secret not in good(run("key", "list"))
    created = json.loads(good(run("key", "create", "--scope", "inference", "--json")))
    assert created["secret"].startswith("us-")
    good(run("key", "revoke", key.id))
    listed = json.loads(good(run("key", "list", "--json")))
    assert [(item["owner"] == "team", item["revoked"] is None) for item in listed] == [(True, False), (False, True)]
    assert all("secret" not in item for item in listed)
    assert "revoked already" in failed(run("key", "revoke", key.id))


def test_db_upgrade(run):
    result = run("db", "upgrade")
    good(result)
    assert "has schema 0001" in result.stderr


@pytest.mark.postgres
def test_a_postgres_waits_for_db_upgrade(run, config, postgres):
    config.write_text(config.read_text() + f'[database]\nurl = "{postgres.create()}"\n')
    assert "has no schema yet: run `understudy db upgrade`" in failed(run("adapter", "list"))
    good(run("db", "upgrade"))
    assert json.loads(good(run("adapter", "list", "--json"))) == []


def test_a_missing_configuration_file(run, tmp_path):
    assert "write one with `understudy init`" in failed(run("adapter", "list", config=tmp_path / "nowhere.toml"))


def test_stored_text_cannot_steer_a_terminal(run):
    good(run("route", "create", "evil", "--description", "\x1b[2Jboo\nfake line"))
    shown = good(run("route", "show", "evil"))
    assert "\x1b" not in shown
    assert "?[2Jboo?fake line" in shown


PROGRAM = "import sys; from gateway.cli_adapters import adapter_app, route_app; ({}_app)()"


def start(app, *arguments, **options):
    command = [sys.executable, "-c", PROGRAM.format(app), *map(str, arguments)]
    # Unbuffered Python drops what a write to a closed pipe left over, and so does not notice.
    environment = {**os.environ, "PYTHONPATH": str(tree.ROOT), "PYTHONUNBUFFERED": ""}
    return subprocess.Popen(command, env=environment, text=True, **options)


def test_ctrl_c_is_status_130(config, pushed, database):
    FleetStore(database).acquire_lease(CONTROLLER_LEASE, "test", 60, time.time())
    arguments = ("set", "support", pushed[0], "-c", config)
    with start("route", *arguments, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stderr.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "stopped\n"
        assert process.wait(20) == 130


def test_a_reader_that_stops_reading_is_no_error(config, database):
    with database.begin() as connection:
        rows = [{"name": f"r{number}", "description": "x" * 50} for number in range(3000)]
        connection.execute(tables.routes.insert(), rows)
    with start("route", "list", "--json", "-c", config, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(20) == 1
