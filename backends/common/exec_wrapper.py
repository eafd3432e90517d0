"""Runs one command under limits.

    python -I -S exec_wrapper.py LEASH UID GID CPU_S MEMORY FILE_SIZE PROCESSES PROGRAM ARGUMENT…

A program of its own instead of `preexec_fn`, which is not safe in a process with threads. It stays beside the command:
when the pipe LEASH ends, because the service let go of it or died, every process of the command is killed. It ends
when the last of them has ended, with the exit code of the command (128 + the signal that ended it).

UID and GID of 0 or more are dropped to; -1 stays. PROCESSES of 0 sets no limit. Standard library only, and little of
it: it starts once for every command.
"""

import ctypes
import os
import resource
import select
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_SIGKILL = 9  # the module `signal` takes twice as long to import as all others here
_POLL_S = 0.02
_KILLED = 128 + _SIGKILL
_CANNOT_RUN = 126


def main() -> None:
    """Starts the command and sees to its end."""
    leash = int(sys.argv[1])
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None:
        # Orphans of the command become our children, whatever session or group they moved to.
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    keeper = os.getpid()
    command = os.fork()
    if command == 0:
        try:
            _become(keeper, leash, libc)
        finally:
            os._exit(_CANNOT_RUN)
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    has_ended = _wait(command, leash)
    # Before it is reaped: until then its number, and so that of its group, belongs to nobody else.
    _kill_group(command)
    code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
    _sweep()
    os._exit(_KILLED if not has_ended else code if code >= 0 else 128 - code)


def _become(keeper: int, leash: int, libc: "ctypes.CDLL | None") -> None:
    uid, gid, cpu_s, memory, file_size, processes = (int(text) for text in sys.argv[2:8])
    command = sys.argv[8:]
    os.close(leash)
    os.setsid()
    os.umask(0o077)
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_CPU, cpu_s), (resource.RLIMIT_FSIZE, file_size)]
    limits.append((resource.RLIMIT_AS, memory))
    if processes:
        limits.append((resource.RLIMIT_NPROC, processes))
    for limit, value in limits:
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    if uid >= 0:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    if libc is not None:
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        # After the change of user, which clears it.
        libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
        if os.getppid() != keeper:
            return
    # A path, not a name: looking it up would import modules that the new user may not be able to read.
    os.execve(command[0], command, os.environ)  # noqa: S606 - no shell; the command is built by git_command


def _wait(command: int, leash: int) -> bool:
    """Whether the command ended before the leash did."""
    if hasattr(os, "pidfd_open"):
        ended = os.pidfd_open(command)
        return ended in select.select([ended, leash], [], [])[0]
    while not select.select([leash], [], [], _POLL_S)[0]:
        if os.waitid(os.P_PID, command, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
    return False


def _sweep() -> None:
    """Kills what the command left running, and waits for the last of it."""
    while True:
        try:
            children = open("/proc/self/task/%d/children" % os.getpid()).read()  # noqa: SIM115, PTH123, UP031 - pathlib is slow to import
        except OSError:
            children = ""
        for child in children.split():
            _kill(int(child))
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, _SIGKILL)
    except (ProcessLookupError, PermissionError):
        _kill(group)


def _kill(process: int) -> None:
    try:
        os.kill(process, _SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main()
