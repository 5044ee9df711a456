"""Every pair of stages, and what keeps a version from being archived."""

from __future__ import annotations

import ast
import itertools

import pytest

from adapters.errors import Conflict, NotFound
from adapters.gates import GateVerdict, record_gate
from adapters.promotion import LEGAL, transition
from adapters.types import Stage
from tests.support import tree

PATHS = {  # how a new version reaches each stage
    Stage.CANDIDATE: [],
    Stage.RELEASED: [Stage.RELEASED],
    Stage.QUARANTINED: [Stage.QUARANTINED],
    Stage.ARCHIVED: [Stage.ARCHIVED],
}


@pytest.mark.parametrize(("start", "end"), list(itertools.product(Stage, Stage)))
def test_every_pair_of_stages(database, registry, push, start, end):
    version = push()
    with database.begin() as connection:
        record_gate(connection, version.name, GateVerdict.PASSED)
    for stage in PATHS[start]:
        with database.begin() as connection:
            transition(connection, version, stage, "tests", "on the way")
    before = registry.events(version.name)
    if end in LEGAL[start]:
        with database.begin() as connection:
            transition(connection, version.name, end, "me", "because")
        found = registry.get(version.name)
        assert (found.stage, found.reason) == (end, "because")
        last = registry.events(version.name)[-1]
        assert (last["stage"], last["actor"], last["reason"]) == (end, "me", "because")
        return
    with pytest.raises(Conflict, match=r"cannot become|already"), database.begin() as connection:
        transition(connection, version, end, "me", "because")
    assert registry.get(version.name).stage is start
    assert registry.events(version.name) == before


def test_only_legal_steps_are_these():
    assert {stage: sorted(steps) for stage, steps in LEGAL.items()} == {
        "candidate": ["archived", "quarantined", "released"],
        "released": ["archived", "quarantined"],
        "quarantined": ["archived", "candidate"],
        "archived": [],
    }


@pytest.mark.parametrize("verdict", [None, GateVerdict.FAILED])
def test_only_a_passed_gate_lets_a_candidate_be_released(database, registry, push, verdict):
    version = push()
    if verdict:
        with database.begin() as connection:
            record_gate(connection, version.name, verdict, reason="slice math")
    refusal = r"failed its gate: slice math|no gate has passed"
    with pytest.raises(Conflict, match=refusal), database.begin() as connection:
        transition(connection, version, Stage.RELEASED)
    assert registry.get(version.name).stage is Stage.CANDIDATE


@pytest.mark.parametrize("reason", ["", "  "])
def test_a_release_needs_a_reason(database, push, reason):
    version = push()
    with database.begin() as connection:
        transition(connection, version, Stage.QUARANTINED, "guard", "NaN")
    with pytest.raises(Conflict, match="releasing it needs a reason"), database.begin() as connection:
        transition(connection, version, Stage.CANDIDATE, "me", reason)


def test_an_unknown_version(database):
    with pytest.raises(NotFound, match="see `understudy adapter list`"), database.begin() as connection:
        transition(connection, "nobody@0123456789ab", Stage.ARCHIVED)


USES = {"target": "about to be served by", "version": "is served by", "previous": "for a way back"}


@pytest.mark.parametrize("use", USES)
def test_a_version_in_use_is_not_archived(registry, routes, push, use):
    first, second = push(seed=1), push(seed=2)
    routes.set_target("support", first.name)
    if use != "target":
        routes.commit_target("support", 60, 0)
    if use == "previous":
        routes.set_target("support", second.name)
        routes.commit_target("support", 60, 0)
    with pytest.raises(Conflict, match=rf"{USES[use]}.* route support"):
        registry.archive(first.name)


def test_nobody_else_writes_a_stage():
    """The invariant of ARCHITECTURE.md: `stage` is assigned to the versions table in promotion.py alone."""
    writers = set()
    for path in tree.python_files(*tree.PACKAGES):
        for node in ast.walk(tree.parse(path)):
            called = node.func if isinstance(node, ast.Call) else None
            values = isinstance(called, ast.Attribute) and called.attr == "values"
            if values and any(keyword.arg == "stage" for keyword in node.keywords):
                writers.add(path.as_posix())
    assert writers == {"adapters/promotion.py"}
