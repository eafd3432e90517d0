"""Runs one command under limits: `python -I -S exec_wrapper.py UID CPU_S MEMORY FILE_SIZE PROCESSES PROGRAM ARGUMENT…`.

A program of its own instead of `preexec_fn`, which is not safe in a process with threads. UID 0 or more drops to that
user (and the group of the same number); -1 stays. The command ends with the service that started it, however that ends.
Standard library only: it starts once for every command.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def main() -> None:
    """Sets the limits, drops privileges, becomes the command."""
    uid, cpu_s, memory, file_size, processes = (int(text) for text in sys.argv[1:6])
    command = sys.argv[6:]
    parent = os.getppid()
    os.umask(0o077)
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_CPU, cpu_s), (resource.RLIMIT_FSIZE, file_size)]
    limits.append((resource.RLIMIT_AS, memory))
    if uid >= 0:
        # Counted by user: only one that is nobody else's can be bounded by it.
        limits.append((resource.RLIMIT_NPROC, processes))
    for limit, value in limits:
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    if uid >= 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        # After the change of user, which clears it.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
    # A path, not a name: looking it up would import modules that the new user may not be able to read.
    os.execve(command[0], command, os.environ)  # noqa: S606 - no shell; the command is built by git_command


if __name__ == "__main__":
    main()
