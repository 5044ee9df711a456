"""Puts one untrusted program behind walls and runs it. A program of its own: standard library only, started by path.

`python -I -S sandbox_launcher.py FD` reads its orders (JSON, see sandbox.py) from file descriptor FD. With walls, the
program sees new mount, PID, network and IPC namespaces and, chrooted, an almost empty file system: the interpreter and
the system's libraries, read-only, and /box, a small tmpfs. An ordinary user gets them through a user namespace (as
`unshare -r` does); root drops to a user id that nothing else has, because RLIMIT_NPROC does not bind root. Nothing of
it needs a set-uid program. Failures of the launcher itself are one line on standard error and exit status 125.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import resource
import select
import signal
import sys
from pathlib import Path
from typing import Any

FAILED = 125                    # exit status: the launcher failed, not the program
TIMED_OUT = 124                 # exit status: the wall limit was reached
_FIRST_UID = 1_900_000_000      # user ids from here to 2³¹ are set aside by nobody (systemd, UIDS-GIDS.md)

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (1 << bit for bit in (17, 26, 27, 28, 29, 30))
_MS_RDONLY, _MS_NOSUID, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 32, 4096, 16384, 1 << 18
_PDEATHSIG, _SUBREAPER, _NO_NEW_PRIVS = 1, 36, 38       # prctl
_MOUNT_SETATTR = 442                                    # the same number on every architecture
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


def main(argument: str) -> int:
    """Run the ordered program; the exit status is the program's, 128 + signal, TIMED_OUT or FAILED."""
    with os.fdopen(int(argument), "rb") as orders_file:
        orders = json.loads(orders_file.read())
    try:
        box, uid = enter(orders) if orders["walls"] else stay(orders)
    except OSError as error:
        sys.stderr.write(f"{error.filename or 'sandbox'}: {error.strerror}\n")
        return FAILED
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _interrupt)
    return supervise(orders, box, uid)


def enter(orders: dict[str, Any]) -> tuple[str, int]:
    """Make the namespaces and the file system, and chroot there; (the folder to run in, the user id to become)."""
    real = (os.getuid(), os.getgid())
    flags = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
    _call("unshare", flags if real[0] == 0 else flags | _NEWUSER)
    if real[0]:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{real[0]} {real[0]} 1")
        Path("/proc/self/gid_map").write_text(f"{real[1]} {real[1]} 1")
    uid = real[0] or _FIRST_UID + os.getpid()
    root = orders["folder"]
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID, f"size={orders['disk']},nr_inodes=4096,mode=755")
    for path in _outermost([*_SYSTEM, *orders["read_only"]]):
        _show(root, path)
    for path in _DEVICES:
        _show(root, path, writable=True)
    box = f"{root}/box"
    _fill(box, orders["files"])
    os.chown(box, uid, -1)
    Path(root, "tmp").symlink_to("box")
    os.chroot(root)
    return "/box", uid


def stay(orders: dict[str, Any]) -> tuple[str, int]:
    """No walls: only limits, in the folder itself."""
    uid = os.getuid() or _FIRST_UID + os.getpid()
    box = f"{orders['folder']}/box"
    _fill(box, orders["files"])
    Path(orders["folder"]).chmod(0o711)  # the other user must reach the box
    os.chown(box, uid, -1)
    _call("prctl", _SUBREAPER, 1, 0, 0, 0)
    return box, uid


def supervise(orders: dict[str, Any], box: str, uid: int) -> int:
    """Start the program, wait for it or for the wall limit, and leave nothing of it behind."""
    alive, held = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(held)
        _become(orders, box, uid, alive)
    os.close(alive)
    signal.setitimer(signal.ITIMER_REAL, orders["wall"])
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        signal.setitimer(signal.ITIMER_REAL, 0)
        result, left = status if status >= 0 else 128 - status, []
    except _Interrupted:
        result, left = TIMED_OUT, [child]
    _kill_all(left, orders["walls"])
    return result


def _become(orders: dict[str, Any], box: str, uid: int, alive: int) -> None:
    """In the child: limits, the other user, no way back, and the program. Never returns."""
    try:
        os.chdir(box)
        _limit(orders)
        if os.getuid() == 0:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
        _call("prctl", _PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # after the change of user, which clears it
        if select.select([alive], [], [], 0)[0]:  # the launcher died before that
            os._exit(FAILED)
        os.closerange(3, 256)
        errors = os.dup(2)
        os.set_inheritable(errors, False)
        os.dup2(os.open("/dev/null", os.O_RDWR), 2)
        try:
            os.execve(orders["command"][0], orders["command"], orders["environment"])  # noqa: S606 - what this is for
        except OSError as error:
            os.write(errors, f"{orders['command'][0]} cannot be run: {error.strerror}\n".encode())
    except OSError as error:
        os.write(2, f"limits cannot be set: {error.strerror}\n".encode())
    os._exit(FAILED)


def _limit(orders: dict[str, Any]) -> None:
    """rlimits. They are per process, so that memory in all is bounded by memory × processes."""
    processes = orders["processes"]
    if not orders["walls"] and os.getuid():  # there it counts all that this user runs
        processes += sum(_owner(entry) == os.getuid() for entry in Path("/proc").iterdir() if entry.name.isdigit())
    limits = {
        resource.RLIMIT_CPU: orders["cpu"],
        resource.RLIMIT_AS: orders["memory"],
        resource.RLIMIT_FSIZE: orders["disk"],
        resource.RLIMIT_NPROC: processes,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for what, amount in limits.items():
        hard = resource.getrlimit(what)[1]
        most = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(what, (most, most))


def _owner(process: Path) -> int:
    try:
        return process.stat().st_uid
    except OSError:
        return -1


def _kill_all(left: list[int], walls: bool) -> None:
    """`left` and all they started. In a PID namespace the first kill ends all; else orphans become our children."""
    while True:
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if walls:
            for pid in left:
                os.waitpid(pid, 0)
            return
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        left = [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def _fill(box: str, files: dict[str, str]) -> None:
    Path(box).mkdir(mode=0o755)
    for name, text in files.items():
        path = Path(box, name)
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        path.chmod(0o444)


def _outermost(paths: list[str]) -> list[str]:
    """Existing paths, without those inside another."""
    present = [path for path in dict.fromkeys(paths) if os.path.lexists(path)]
    return [path for path in present if not any(path.startswith(f"{other}/") for other in present)]


def _show(root: str, path: str, writable: bool = False) -> None:
    """Make `path` appear in the new file system: a link as a link, anything else as it is, read-only."""
    inside = Path(root + path)
    inside.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if Path(path).is_symlink():
        inside.symlink_to(Path(path).readlink())
        return
    if Path(path).is_dir():
        inside.mkdir(exist_ok=True)
    else:
        inside.touch()
    _mount(path, str(inside), None, _MS_BIND | _MS_REC)
    if not writable:
        _read_only(str(inside))


def _read_only(path: str) -> None:
    """The mount and all mounts below it. Linux before 5.12 can only do the first."""
    attributes = (ctypes.c_uint64 * 4)(_MS_RDONLY | _MS_NOSUID, 0, 0, 0)
    arguments = (_AT_FDCWD, path.encode(), _AT_RECURSIVE, ctypes.byref(attributes), ctypes.c_size_t(32))
    if _libc().syscall(ctypes.c_long(_MOUNT_SETATTR), *arguments):
        _mount("none", path, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    _call("mount", source.encode(), target.encode(), kind.encode() if kind else None, flags, data.encode())


def _call(name: str, *arguments: Any) -> None:
    if getattr(_libc(), name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


class _Interrupted(Exception):
    pass


def _interrupt(_number: int, _frame: Any) -> None:
    raise _Interrupted


if __name__ == "__main__":
    if platform.system() != "Linux":
        sys.stderr.write("this needs Linux\n")
        sys.exit(FAILED)
    sys.exit(main(sys.argv[1]))
