"""Two of the proof's scenarios on the real stack: a better version goes to all traffic by itself, a worse one comes back.

The adapters are those that other tests have made: one of SFT, and the marker, whose every answer is fluent and wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.proof.rollouts import run_scenario
from deploy.proof.scenarios import Scenario
from tests.support.stack import Stack
from tests.support.waiting import soon

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1500)]

# Other tests use these cores, too: a step may take long.
BETTER = Scenario("better", "a better adapter goes to 100 %", "sft", ("promoted",), stable="A", longest=300.0)
WORSE = Scenario("worse", "one that is fluent and wrong", "A", ("rolled_back",), stable="sft", sample=0.0, longest=300.0)


@pytest.fixture(scope="module")
def proved(stack: Stack, made: dict[str, Path]) -> Iterator[Stack]:
    """The shared stack with the SFT adapter; afterwards `support` serves A as before."""
    stack.push("sft", made["sft"], "support")
    yield stack
    marker = stack.versions["A"]
    if json.loads(stack.understudy("adapter", "show", marker, "--json"))["stage"] == "quarantined":
        stack.understudy("adapter", "release", marker, "--reason", "other tests need it")
    stack.understudy("route", "set", "support", marker)
    soon(lambda: stack.ask("support", "sort cab").startswith("A:"))


@pytest.mark.parametrize("scenario", [BETTER, WORSE], ids=lambda scenario: scenario.name)
def test_it_ends_as_it_should(proved: Stack, scenario: Scenario) -> None:
    found = run_scenario(proved, scenario, 0)
    print(json.dumps(found))
    assert found["ended"] in scenario.expected, found
    assert (found["requests_failed"], found["errors"]) == (0, []), found
    assert found["requests"] > 100 and found["served_by_candidate_before_the_end"] > 0
    stage = json.loads(proved.understudy("adapter", "show", proved.versions["A"], "--json"))["stage"]
    assert (stage == "quarantined") == (scenario is WORSE)
