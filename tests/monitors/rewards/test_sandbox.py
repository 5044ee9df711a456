"""The walls around untrusted code: each test is an attack, run for real. What a machine without namespaces does, too."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from adapters.errors import ConfigError, GraderError
from monitors.rewards import sandbox, sandbox_launcher
from monitors.rewards.sandbox import Limits, Sandbox

LIMITS = Limits(wall=60.0, cpu=1, processes=8, disk_mib=4)


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """It is the launcher that ends what takes too long, however long it takes to start itself."""
    monkeypatch.setattr(sandbox, "_GRACE", 60.0)


@pytest.fixture(scope="module")
def walled():
    made = Sandbox(LIMITS)
    try:
        made.check()
    except ConfigError as error:
        pytest.skip(str(error))
    return made


def run(box, code, **options):
    return box.run({"main.py": code}, "main.py", **options)


def says(box, code):
    ran = run(box, code)
    assert ran.status == 0, ran
    return ran.output.decode().strip()


def tries(code):
    """A program that prints why `code` fails, or "done"."""
    return f"try:\n    {code}\n    print('done')\nexcept OSError as error:\n    print(error.strerror or error)"


def test_a_program_runs_with_its_input_and_files(walled):
    files = {"main.py": "import sys\nprint(open('/box/data.txt').read() + sys.stdin.read())", "data.txt": "é"}
    ran = walled.run(files, "main.py", "ü".encode())
    assert (ran.status, ran.output.decode(), ran.flooded) == (0, "éü\n", False)


def test_exit_statuses(walled):
    assert run(walled, "import sys; sys.exit(7)").status == 7
    assert run(walled, "import os; os.kill(os.getpid(), 9)").status == 0  # the first process of a namespace ignores it
    assert run(walled, "def").status == 1


def test_an_infinite_loop_and_a_sleep_end(walled):
    assert run(walled, "while True: pass").status > 128  # the CPU limit
    short = Sandbox(Limits(wall=0.3))
    assert run(short, "import time; time.sleep(600)").status == sandbox_launcher.TIMED_OUT


def test_a_fork_bomb_ends_and_leaves_nothing(walled):
    bomb = "import os, time\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        time.sleep(600)"
    short = Sandbox(Limits(wall=1.0, processes=8))
    assert run(short, bomb).status == sandbox_launcher.TIMED_OUT
    assert processes_in_boxes() == []


def test_what_was_started_ends_with_it(walled):
    code = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\nprint('x')"
    assert says(walled, code) == "x"
    assert processes_in_boxes() == []


def processes_in_boxes():
    """Processes that run a program in a /box, anywhere on this machine; those that are just ending are waited for."""
    deadline = time.monotonic() + 60
    while True:
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if b"/box/main.py" in entry.read_bytes():
                    found.append(entry.parent.name)
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def test_ten_gigabytes_are_refused(walled):
    assert run(walled, "x = bytearray(10 << 30)").status == 1
    assert says(walled, "try:\n    bytearray(10 << 30)\nexcept MemoryError:\n    print('no')") == "no"


def test_a_flood_of_output_ends_the_run(walled):
    ran = run(walled, "while True: print('x' * 4096)")
    assert ran.flooded and len(ran.output) == LIMITS.output_kib * 1024


def test_no_secret_of_this_process_is_seen(walled, monkeypatch):
    monkeypatch.setenv("UNDERSTUDY_TEST_SECRET", "hunter2")
    seen = says(walled, "import os; print(sorted(os.environ), os.listdir('/'), os.path.exists('/proc'), os.getppid())")
    assert "SECRET" not in seen and "False 0" in seen
    assert says(walled, tries(f"os = open({str(Path(__file__))!r})")) == "No such file or directory"
    assert "root:" not in says(walled, tries("print(open('/etc/passwd').read())"))


@pytest.mark.parametrize("path", ["/x", "/usr/x", "/usr/bin/python3", "/etc/x", "/dev/x", "/bin/x", "/lib/x"])
def test_nothing_can_be_written_outside_the_box(walled, path):
    if os.getuid() and path in ("/x", "/etc/x", "/dev/x"):
        pytest.skip("an ordinary user owns the sandbox's own, empty root; it goes with the run")
    assert says(walled, tries(f"open({path!r}, 'w')")) in ("Read-only file system", "Permission denied")


def test_the_disk_is_bounded(walled):
    fill = "for n in range(100):\n        open(f'/tmp/{n}', 'wb').write(bytes(10 ** 6))"
    assert says(walled, tries(fill)) == "No space left on device"
    assert says(walled, tries("open('/box/big', 'wb').write(bytes(5 << 20))")) in ("File too large", "No space left on device")


@pytest.mark.parametrize("address", ["('127.0.0.1', 80)", "('1.1.1.1', 53)", "('::1', 80)"])
def test_there_is_no_network(walled, address):
    seen = says(walled, f"import socket\n{tries(f'socket.create_connection({address}, 1)')}")
    assert "unreachable" in seen or "Cannot assign" in seen


def test_there_is_no_way_back(walled):
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print([libc.unshare(0x10000000), libc.mount(b"none", b"/", None, 32, None), libc.chroot(b"/usr")])
os.chdir("/")
os.chdir("../../../../..")
print(sorted(os.listdir(".")) == sorted(os.listdir("/")))
try: os.kill(-1, 0); print("others")
except OSError as error: print(error.strerror)
"""
    assert says(walled, code).splitlines() == ["[-1, -1, -1]", "True", "No such process"]


def test_a_program_that_reads_nothing_and_one_that_reads_all(walled):
    big = b"x" * (1 << 20)
    assert run(walled, "print('done')", stdin=big).output == b"done\n"
    assert run(walled, "import sys; print(len(sys.stdin.read()))", stdin=big).output == b"1048576\n"


def test_late_input_comes_after_the_mark(walled):
    code = "print('early', flush=True); print(input())"
    assert run(walled, code, late=(b"early", b"late\n")).output == b"early\nlate\n"
    ran = run(walled, "print('no mark')", late=(b"early", b"late\n"))
    assert (ran.status, ran.output) == (0, b"no mark\n")


def test_as_an_ordinary_user():
    """Where the tests run as root, the launcher is also run as nobody: the walls then come from a user namespace."""
    python = "/usr/bin/python3"
    if not Path(python).exists():
        pytest.skip("needs a Python that every user may run")
    code = "import os\nprint(sorted(os.listdir('/')), os.getuid())\nwhile True: os.fork()"
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as orders:
        Path(folder).chmod(0o777)
        plan = Sandbox(LIMITS)._orders({"main.py": code}, "main.py", folder) | {"read_only": []}
        plan["command"] = [python, "-I", "/box/main.py"]
        orders.write(json.dumps(plan).encode())
        orders.seek(0)
        command = [python, "-I", "-S", sandbox_launcher.__file__, str(orders.fileno())]
        other = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
        done = subprocess.run(
            command, check=False, capture_output=True, pass_fds=(orders.fileno(),), timeout=120, cwd="/", **other
        )
    if done.returncode == sandbox_launcher.FAILED and b"unshare" in done.stderr:
        pytest.skip("this machine allows no user namespaces")
    assert done.stderr == b"" and done.stdout.startswith(b"['bin', 'box', 'dev', ") and b"'proc'" not in done.stdout


def test_without_walls_what_was_started_still_ends(tmp_path):
    python = sys.executable if os.getuid() else "/usr/bin/python3"
    if not Path(python).exists():
        pytest.skip("root drops to another user, which needs a Python that every user may run")
    box, short = (Sandbox(Limits(wall=w, cpu=5, processes=8), python=python, walls=False) for w in (60.0, 1.0))
    box.check()
    code = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\nprint(os.getcwd())"
    assert says(box, code).endswith("/box")
    assert run(short, "import time\ntime.sleep(600)").status == sandbox_launcher.TIMED_OUT
    assert run(box, "x = bytearray(10 << 30)").status == 1
    assert processes_in_boxes() == []


def test_a_machine_without_namespaces_refuses_unless_told_otherwise(tmp_path, monkeypatch):
    launcher = tmp_path / "launcher.py"
    launcher.write_text(
        "import sys\nsys.stderr.write('unshare: Operation not permitted\\n')\nsys.exit(125)"
    )
    monkeypatch.setattr(sandbox, "_LAUNCHER", str(launcher))
    with pytest.raises(ConfigError, match=r"walled in here: .*unshare: Operation not permitted; allow unprivileged user"):
        Sandbox(LIMITS).check()
    with pytest.raises(GraderError, match="the sandbox fails"):
        run(Sandbox(LIMITS), "print(1)")


def test_an_interpreter_that_is_none(tmp_path):
    with pytest.raises(ConfigError, match=r"options\.python: /bin/true is no Python interpreter"):
        Sandbox(LIMITS, python="/bin/true")
    assert Sandbox(LIMITS, python=sys.executable).version == f"{sys.version_info[0]}.{sys.version_info[1]}"
