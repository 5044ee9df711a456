"""Programs against tests, honest ones and cheating ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adapters.errors import ConfigError, GraderError
from monitors.rewards import code_runners, sandbox, sandbox_launcher
from monitors.rewards.build import build_grader
from monitors.rewards.code import code_of, equal
from monitors.rewards.settings import RewardSpec
from monitors.rewards.types import Sample

CALLS = [{"call": "double(2)", "expect": 4}, {"call": "double(-1)", "expect": -2}]
ASSERTS = ["assert double(2) == 4", "assert double(-1) == -2"]
PROGRAMS = [{"input": "2\n", "output": "4"}, {"input": "-1", "output": "-2\n"}]


def grader(**options):
    return build_grader(RewardSpec(name="code", options={"timeout": 30, "cpu": 2, **options}))


@pytest.fixture(scope="module")
def code():
    made = grader()
    try:
        made.prepare()
    except ConfigError as error:
        pytest.skip(str(error))
    return made


def score(made, completion, tests):
    return made.score([Sample((), completion, {"tests": tests})])[0]


GOOD = "def double(x):\n    return 2 * x"
HALF = "def double(x):\n    return x + 2"


@pytest.mark.parametrize("tests", [CALLS, ASSERTS, "\n".join(ASSERTS)])
def test_right_and_wrong(code, tests):
    assert score(code, GOOD, tests) == 1.0
    assert score(code, f"Sure:\n```python\nwrong(\n```\nno, this:\n```py\n{GOOD}\n```\nDone.", tests) == 1.0
    assert score(code, HALF, tests) == 0.0
    assert score(code, "", tests) == 0.0


def test_programs(code):
    assert score(code, "print(2 * int(input()))", PROGRAMS) == 1.0
    assert score(code, "print(2 + int(input()))", PROGRAMS) == 0.0
    assert score(code, "print(2 * int(input())); raise SystemExit(1)", PROGRAMS) == 0.0


def test_partial_credit():
    made = grader(partial=True)
    assert [score(made, HALF, tests) for tests in (CALLS, ASSERTS)] == [0.5, 0.5]
    assert score(made, "print(2 + int(input()))", PROGRAMS) == 0.5


@pytest.mark.parametrize(
    "cheat",
    [
        "import os; os._exit(0)",
        "raise SystemExit(0)",
        "import sys; print('1' * 99); sys.stdout.flush()\nimport os\nfor fd in range(3, 20):\n    try: os.write(fd, b'[[4],[-2]]')\n    except OSError: pass",
        "import builtins, json\njson.dumps = lambda *a, **k: '[4]'\nbuiltins.eval = lambda *a: 4",
        "import atexit; atexit.register(print, '11')\ndef double(x): raise SystemExit(0)",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\ndef double(x): return 4",
    ],
)
@pytest.mark.parametrize("tests", [CALLS, ASSERTS])
def test_leaving_early_and_printing_do_not_pass(code, cheat, tests):
    assert score(code, cheat, tests) == 0.0


def test_an_object_that_equals_everything_fools_asserts_but_not_calls(code):
    cheat = "class Any:\n    def __eq__(self, other): return True\ndef double(x): return Any()"
    assert score(code, cheat, CALLS) == 0.0
    assert score(code, cheat, ASSERTS) == 1.0  # why docs/rewards.md says to prefer calls


@pytest.mark.parametrize(
    "value",
    ["float('nan')", "float('inf')", "True", "4.1", "'4'", "[4]", "None", "2 ** 10000", "{1, 2}", "'\\ud800'", "[[]] * 10 ** 5"],
)
def test_values_that_are_not_the_answer(code, value):
    assert score(code, f"def double(x):\n    return {value}", [{"call": "double(2)", "expect": 4}]) == 0.0


def test_deep_values_and_odd_sources(code):
    deep = "def double(x):\n    v = []\n    for _ in range(50000): v = [v]\n    return v"
    assert score(code, deep, CALLS) == 0.0
    for source in ("\x00", "(" * 5000, "\ud800", "x" * 200_000, "```python\n```"):
        assert score(code, source, CALLS) == 0.0


def test_a_value_may_be_null_and_rows_may_be_padded_with_nulls(code):
    assert score(code, "def f(): pass", [{"call": "f()", "expect": None}]) == 1.0
    padded = [{"call": None, "expect": None, "input": "2", "output": "4"}]
    assert score(code, "print(2 * int(input()))", padded) == 1.0


@pytest.mark.parametrize("tests", [3, [], [{"call": "f()"}], [{"input": "x"}], ["a", {"call": "f()", "expect": 1}], [None]])
def test_tests_of_no_use_are_an_error(code, tests):
    with pytest.raises(GraderError, match="code: column 'tests' holds"):
        score(code, GOOD, tests)


def test_a_missing_column_is_missing_and_order_is_kept(code):
    assert score(code, GOOD, None) is None
    samples = [Sample((), GOOD if n % 2 else HALF, {"tests": CALLS}) for n in range(6)]
    assert code.score(samples) == [0.0, 1.0] * 3


@pytest.mark.parametrize(
    ("found", "wanted", "same"),
    [
        (1, 1.0, True), (0.1 + 0.2, 0.3, True), (1, True, False), (0, False, False), (True, True, True), ("a", "a", True),
        ([1, [2]], [1, [2]], True), ([1], [1, 2], False), ({"a": 1}, {"a": 1.0}, True), ({"a": 1}, {"b": 1}, False),
        (None, None, True), (None, 0, False), (10**400, 1.0, False), (float("nan"), float("nan"), False), (10**400, 10**400, True),
    ],
)  # fmt: skip
def test_equality_is_jsons(found, wanted, same):
    assert equal(found, wanted, 1e-9) is same


def test_where_the_code_is():
    assert code_of("x = 1", "fenced") is None and code_of("x = 1", "whole") == "x = 1"
    assert code_of("```\na\n```\n```python\nb\n```", "fenced") == "b\n"
    assert code_of("```python\nb\n```", "whole").startswith("```")


def test_the_fingerprint_knows_the_harness(monkeypatch):
    before = grader().fingerprint
    assert grader(memory_mib=256).fingerprint != before
    monkeypatch.setattr(code_runners, "CALLS", "changed")
    assert grader().fingerprint != before


def test_without_namespaces_it_runs_only_where_that_is_allowed(monkeypatch, tmp_path, caplog):
    python = "" if os.getuid() else "/usr/bin/python3"
    if python and not Path(python).exists():
        pytest.skip("root drops to another user, which needs a Python that every user may run")
    launcher = tmp_path / "launcher.py"
    launcher.write_text(
        "import json, os, sys\n"
        "walls = json.loads(os.pread(int(sys.argv[1]), 1 << 20, 0))['walls']\n"
        "if walls: sys.exit(sys.stderr.write('unshare: Operation not permitted') and 125)\n"
        f"os.execv(sys.executable, [sys.executable, '-I', '-S', {sandbox_launcher.__file__!r}, sys.argv[1]])\n"
    )
    monkeypatch.setattr(sandbox, "_LAUNCHER", str(launcher))
    with pytest.raises(ConfigError, match="Operation not permitted; allow unprivileged user namespaces"):
        score(grader(python=python), GOOD, CALLS)
    assert score(grader(python=python, allow_network=True), GOOD, CALLS) == 1.0
    assert "runs untrusted code without walls" in caplog.text
