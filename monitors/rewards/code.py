"""The verifier of programs: the completion's Python code, run in a sandbox against tests.

The column holds one of:
- calls: [{"call": "add(2, 3)", "expect": 5}, …]. The code's values come out as JSON and are compared here, so that the
  expected ones are never in the process that runs the code: it cannot fake them.
- programs: [{"input": "2 3\\n", "output": "5\\n"}, …]. Standard input and output, white space at line ends aside;
  likewise compared here.
- asserts: "assert add(2, 3) == 5", or a list of such texts. They run beside the code. Leaving early does not pass them,
  but code that was written against this very harness could fake them: prefer calls where a model is trained on it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from pydantic import Field

from adapters.errors import ConfigError, GraderError
from adapters.settings import Section
from monitors.rewards import code_runners
from monitors.rewards.base import OneByOne, shown
from monitors.rewards.fences import fenced_blocks
from monitors.rewards.sandbox import Limits, Ran, Sandbox
from monitors.rewards.types import Place, Sample, Scores

_MAX_CODE = 100_000        # characters; longer code is no answer
log = logging.getLogger("understudy.rewards")

_LANGUAGES = ("", "py", "python", "python3")


class CodeOptions(Section):
    """Options of "code"."""

    column: str = Field("tests", description="the tests: calls, programs or asserts (see docs/rewards.md)")
    take: Literal["fenced_or_whole", "fenced", "whole"] = Field(
        "fenced_or_whole", description="the code is the last fenced block, or the whole text"
    )
    partial: bool = Field(False, description="score the share of tests that pass, instead of all or nothing")
    tolerance: float = Field(1e-9, ge=0, lt=1, description="relative difference that floats in `expect` may have")
    timeout: float = Field(10.0, gt=0, le=300, description="seconds one run may take; programs: one run a test")
    cpu: int = Field(5, ge=1, le=300, description="seconds of CPU of each process")
    memory_mib: int = Field(512, ge=64, description="address space of each process")
    disk_mib: int = Field(16, ge=1, description="what may be written")
    processes: int = Field(16, ge=1, le=1024, description="processes and threads")
    output_kib: int = Field(64, ge=1, description="what may be printed")
    workers: int = Field(0, ge=0, le=256, description="runs at the same time; 0 = one for each CPU, 8 at most")
    python: str = Field("", description="interpreter, such as a virtual environment's; empty = ours, without packages")
    allow_network: bool = Field(
        False, description="where namespaces do not work, run without walls: code then reaches network and files"
    )


class Code(OneByOne[CodeOptions]):
    """1 if the code passes all its tests, else 0; or the share it passes."""

    KIND = "code"
    Options = CodeOptions

    def __init__(self, name: str, options: CodeOptions, place: Place) -> None:
        super().__init__(name, options, place)
        self._limits = Limits(
            options.timeout, options.cpu, options.memory_mib, options.disk_mib, options.processes, options.output_kib
        )
        self._sandbox = Sandbox(self._limits, python=options.python)
        self._works = False
        self._workers = options.workers or min(8, os.cpu_count() or 1)

    def parts(self) -> dict[str, Any]:
        """The interpreter's version and the harness, besides the options."""
        return {"python": self._sandbox.version, "runners": [code_runners.CALLS, code_runners.ASSERTS]}

    def prepare(self) -> None:
        """Find out what works here. Raises ConfigError when code can be run neither behind walls nor as allowed."""
        if self._works:
            return
        try:
            self._sandbox.check()
        except ConfigError as error:
            if not self.options.allow_network:
                raise
            log.warning("reward %s runs untrusted code without walls: %s", self.name, error)
            self._sandbox = Sandbox(self._limits, python=self.options.python, walls=False)
            self._sandbox.check()
        self._works = True

    def score(self, samples: Sequence[Sample]) -> Scores:
        """See monitors.rewards.types.Grader. Runs several at once. Raises GraderError for tests that are none."""
        self.prepare()
        with ThreadPoolExecutor(self._workers, thread_name_prefix="code") as pool:
            return list(pool.map(self.grade, samples))

    def grade(self, sample: Sample) -> float | None:
        """Run one answer against its tests."""
        tests = sample.column(self.options.column)
        if tests is None:
            return None
        kind, cases = _kind(self.name, self.options.column, tests)
        code = code_of(sample.completion, self.options.take)
        if code is None:
            return 0.0
        passed = {"calls": self._calls, "programs": self._programs, "asserts": self._asserts}[kind](code, cases)
        return sum(passed) / len(cases) if self.options.partial else float(all(passed) and len(passed) == len(cases))

    def _calls(self, code: str, cases: list[Any]) -> list[bool]:
        wanted = json.dumps([case["call"] for case in cases]).encode()
        ran = self._run(code, code_runners.CALLS, wanted)
        try:
            results = json.loads(ran.output) if not ran.flooded else []
        except (ValueError, RecursionError):
            return []
        if not isinstance(results, list) or len(results) != len(cases):
            return []
        right = (
            isinstance(result, list) and len(result) == 1 and equal(result[0], case["expect"], self.options.tolerance)
            for result, case in zip(results, cases, strict=True)
        )
        return list(right)

    def _programs(self, code: str, cases: list[Any]) -> list[bool]:
        passed = []
        for case in cases:
            ran = self._sandbox.run({"answer.py": code}, "answer.py", case["input"].encode("utf-8", "replace"))
            output = ran.output.decode("utf-8", "replace")
            passed.append(ran.status == 0 and not ran.flooded and _lines(output) == _lines(case["output"]))
            if not passed[-1] and not self.options.partial:
                break
        return passed

    def _asserts(self, code: str, cases: list[Any]) -> list[bool]:
        mark, seal = secrets.token_hex(16), secrets.token_hex(16)
        late = json.dumps({"seal": seal, "tests": cases}).encode()
        ran = self._run(code, code_runners.ASSERTS, mark.encode() + b"\n", (mark.encode(), late))
        verdict = ran.output.decode("ascii", "replace").partition(seal)[2]
        return [bit == "1" for bit in verdict[: len(cases)]] if not ran.flooded else []

    def _run(self, code: str, runner: str, stdin: bytes, late: tuple[bytes, bytes] | None = None) -> Ran:
        return self._sandbox.run({"answer.py": code, "runner.py": runner}, "runner.py", stdin, late)


def code_of(text: str, take: str) -> str | None:
    """The code in a completion; None where there is none."""
    if len(text) > _MAX_CODE:
        return None
    blocks = fenced_blocks(text, _LANGUAGES) if take != "whole" else []
    if blocks:
        return blocks[-1]
    return None if take == "fenced" or not text.strip() else text


def equal(found: Any, wanted: Any, tolerance: float) -> bool:
    """Equal as JSON: true is not 1; floats within the relative tolerance; never for NaN or infinity."""
    if isinstance(found, list) and isinstance(wanted, list | tuple):
        return len(found) == len(wanted) and all(equal(f, w, tolerance) for f, w in zip(found, wanted, strict=True))
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(equal(found[key], wanted[key], tolerance) for key in found)
    if isinstance(found, float) or isinstance(wanted, float):
        return _close(found, wanted, tolerance)
    return type(found) is type(wanted) and bool(found == wanted)


def _close(found: Any, wanted: Any, tolerance: float) -> bool:
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in (found, wanted)):
        return False
    try:
        return math.isfinite(found) and math.isclose(found, wanted, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # an integer beyond float
        return False


def _kind(name: str, column: str, tests: Any) -> tuple[str, list[Any]]:
    """Which of the three forms the tests have. Raises GraderError for any other."""
    cases: Any = [tests] if isinstance(tests, str) else tests
    if isinstance(cases, list | tuple) and cases:
        cases = [_without_nulls(case) for case in cases]
        if all(isinstance(case, str) for case in cases):
            return "asserts", cases
        if all(isinstance(case, dict) for case in cases):
            if all(isinstance(case.get("call"), str) and "expect" in case for case in cases):
                return "calls", cases
            if all(isinstance(case.get("input"), str) and isinstance(case.get("output"), str) for case in cases):
                return "programs", cases
    raise GraderError(
        f"{name}: column {column!r} holds {shown(tests)}: give a list of {{call, expect}} or of {{input, output}}, "
        "or asserts"
    )


def _without_nulls(case: Any) -> Any:
    """Data sets give every row's tables the same keys, null where a row had none. `expect: null` stays meant."""
    if isinstance(case, dict) and case.get("call") is None:
        return {key: value for key, value in case.items() if value is not None}
    return case


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
