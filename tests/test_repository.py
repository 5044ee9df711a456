"""Rules that a tool can check: sizes, who imports whom, no work and no state at import, a test for every module."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from tests.support import tree

CODE = ("adapters", "monitors", "gateway", "trainer", "deploy", "tests")
FILE_TARGET, FILE_CAP = 250, 400
FUNCTION_TARGET, FUNCTION_CAP = 40, 80

# Files above the target, and why they are better whole. An entry that is no longer needed fails.
LONG_FILES: dict[str, str] = {}
# Functions above the target, as "path::name". Migrations are lists of columns, and exempt.
LONG_FUNCTIONS: dict[str, str] = {}
# Source modules that no test file in the mirrored folder names or imports: the test file that runs them, or why none.
CONTROLLER = "tests/gateway/control_plane/test_controller.py"
SERVE = "tests/gateway/data_plane/test_serve.py"
SUPERVISOR = "tests/gateway/engines/test_supervisor.py"
TESTED_ELSEWHERE = {
    "adapters.collapse_tables": "tests/adapters/test_database.py",
    "adapters.evidence_tables": "tests/adapters/test_database.py",
    "adapters.schema": "tests/adapters/test_database.py",
    "gateway.control_plane.fleet": CONTROLLER,
    **{f"gateway.data_plane.{name}": SERVE for name in (
        "app", "asgi", "draining", "handler", "push", "relay", "server", "worker",
    )},
    "gateway.data_plane.connection": "tests/gateway/data_plane/test_upstreams.py",
    "gateway.lifetime": SUPERVISOR,
    "gateway.logs": SERVE,
    "gateway.control_plane.service": "tests/test_openai_client.py",  # its stack is `understudy up`
    **{f"trainer.{name}": "tests/trainer/demo/test_story.py" for name in (
        "demo.gameable", "demo.telling",
    )},
}  # fmt: skip
# module → module-level state it may keep, and why.
STATE_ALLOWED: dict[str, tuple[str, str]] = {}

# packages or modules → what importing all of them must not load
SCORERS = ("monitors.llama_guard.scorer", "monitors.rewards.reward_model")  # they run where the models run
MODEL_LIBRARIES = ("torch", "transformers", "peft", "trl", "vllm")
FORBIDDEN = {
    "adapters": ("monitors", "gateway", "trainer", "fastapi", *MODEL_LIBRARIES),
    "monitors": ("gateway", "trainer", "fastapi", *MODEL_LIBRARIES),
    "gateway": ("trainer", *MODEL_LIBRARIES),
    "gateway.data_plane": ("trainer", "numpy", "scipy", "pandas", *MODEL_LIBRARIES),
    "gateway.engines": ("trainer", "scipy", "pandas", *MODEL_LIBRARIES),
    "trainer": ("gateway", "fastapi"),
}


def _too_long(sizes: dict[str, int], target: int, cap: int, allowed: dict[str, str]) -> list[str]:
    """Tests are lists of cases and only have to keep the cap."""
    limits = {name: cap if name.startswith("tests/") or name in allowed else target for name in sizes}
    above = {name: size for name, size in sizes.items() if size > target}
    problems = [f"{name}: {size} lines, {limits[name]} at most" for name, size in sizes.items() if size > limits[name]]
    return problems + [f"{name}: its exception is no longer needed" for name in allowed if name not in above]


def test_files_are_short():
    sizes = {path.as_posix(): len((tree.ROOT / path).read_text().splitlines()) for path in tree.python_files(*CODE)}
    assert sizes
    problems = _too_long(sizes, FILE_TARGET, FILE_CAP, LONG_FILES)
    assert not problems, "\n".join(problems)


def test_functions_are_short():
    sizes = {}
    for path in tree.python_files(*CODE):
        if path.as_posix().startswith(tree.MIGRATION_SCRIPTS):
            continue
        for function in tree.functions(tree.parse(path)):
            assert function.end_lineno is not None
            sizes[f"{path.as_posix()}::{function.name}"] = function.end_lineno - function.lineno + 1
    problems = _too_long(sizes, FUNCTION_TARGET, FUNCTION_CAP, LONG_FUNCTIONS)
    assert not problems, "\n".join(problems)


def test_import_contracts():
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program], check=False, cwd=tree.ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]


IMPORT_ALL = """
import contextlib, importlib, io, json, os, sys, threading
names, environ = json.loads(sys.argv[1]), dict(os.environ)
printed = io.StringIO()
with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
    for name in names:
        importlib.import_module(name)
print(json.dumps({
    "loaded": sorted({name.split(".")[0] for name in sys.modules}),
    "printed": printed.getvalue(),
    "files": os.listdir(),
    "threads": [thread.name for thread in threading.enumerate()],
    "environment": sorted(key for key in os.environ if os.environ[key] != environ.get(key)),
}))
"""


@pytest.mark.parametrize("package", list(FORBIDDEN))
def test_importing_does_no_work(package, tmp_path):
    names = [m for m in tree.modules(*tree.PACKAGES) if m == package or m.startswith(f"{package}.")]
    names = [name for name in names if name not in SCORERS]
    environment = {"PYTHONPATH": str(tree.ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    command = [sys.executable, "-B", "-c", IMPORT_ALL, json.dumps(names)]
    done = subprocess.run(
        command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    assert [name for name in FORBIDDEN[package] if name in seen["loaded"]] == []
    assert seen["printed"] == ""
    assert seen["files"] == []
    if package != "trainer":  # torch and transformers start threads and set variables of their own
        assert seen["threads"] == ["MainThread"]
        assert seen["environment"] == []


def test_modules_keep_no_state():
    found = {}
    for path in tree.python_files(*tree.PACKAGES, "deploy"):
        names = tree.mutable_globals(tree.parse(path))
        allowed = STATE_ALLOWED.get(path.as_posix(), ((), ""))[0]
        if left := [name for name in names if name not in allowed]:
            found[path.as_posix()] = left
    assert found == {}


def test_state_is_recognised():
    source = "A = {1: 2}\nB = {}\nc = [1]\nD = [1]\nE = dict(a=1)\nF = frozenset()\ndef f():\n    D.append(2)\n"
    assert tree.mutable_globals(ast.parse(source)) == ["B", "D", "E", "c"]
    assert tree.mutable_globals(ast.parse("x = None\ndef f():\n    global x\n    x = 1\n")) == ["x"]


def _tested_modules() -> set[str]:
    """Modules that a test file in the mirrored folder imports or names: test_<module>*.py."""
    tested = set()
    for path in tree.python_files("tests"):
        if not path.name.startswith("test_"):
            continue
        folder = ".".join(path.parent.parts[1:])
        for module in tree.modules(*tree.PACKAGES):
            parent, _, name = module.rpartition(".")
            if parent == folder and path.stem.startswith(f"test_{name.strip('_')}"):
                tested.add(module)
        for node in ast.walk(tree.parse(path)):
            if isinstance(node, ast.ImportFrom) and node.module:
                tested |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                tested |= {alias.name for alias in node.names}
    return tested


def test_every_module_has_a_test():
    tested = _tested_modules()
    packages = {".".join(path.parent.parts) for path in tree.python_files(*tree.PACKAGES) if path.name == "__init__.py"}
    wanted = [name for name in tree.modules(*tree.PACKAGES) if name not in packages]
    untested = [name for name in wanted if name not in tested and name not in TESTED_ELSEWHERE]
    assert not untested, "\n".join(untested)
    assert [name for name in TESTED_ELSEWHERE if name in tested or name not in wanted] == [], "needed no longer"
    files = [where for where in TESTED_ELSEWHERE.values() if where.startswith("tests/")]
    assert [where for where in files if not (tree.ROOT / where).exists()] == []


LINT_EXCEPTION = re.compile(r"#\s*(?:noqa|type: ignore)(?::\s*[A-Z0-9, ]+|\[[a-z-, ]+\])?(?P<reason>.*)")


def test_every_lint_exception_gives_its_reason():
    bare = []
    for path in tree.python_files(*CODE):
        with (tree.ROOT / path).open("rb") as source:
            comments = [token for token in tokenize.tokenize(source.readline) if token.type == tokenize.COMMENT]
        for comment in comments:
            found = LINT_EXCEPTION.search(comment.string)
            if found and len(found["reason"].strip(" #:-()")) < 8:
                bare.append(f"{path}:{comment.start[0]}: {comment.string}")
    assert not bare, "\n".join(bare)
