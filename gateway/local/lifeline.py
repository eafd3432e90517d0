"""Runs a program that knows no lifeline so that it ends with the supervisor, even when that is killed with -9.

`python -I -S lifeline.py PIPE PROGRAM ARGUMENT…`: leaves a watcher behind and becomes PROGRAM, whose process id is that
of this one. The watcher ends when the program does; when PIPE, inherited from the supervisor, reaches its end, it ends
the program. Standard library only and started on its own: importing the gateway would cost what Redis costs.
"""

import contextlib
import os
import select
import signal
import sys
import time

PATIENCE_S = 5.0
_DESCRIPTORS = 1024


def watch(lifeline: int, alive: int, program: int) -> None:
    """Waits for the end of either; ends the program when the lifeline comes first.

    `alive` is a pipe that the program holds open, so its process id cannot have passed to another one meanwhile.
    """
    ready, _, _ = select.select([lifeline, alive], [], [])
    if alive in ready:
        return
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(program, sign)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if select.select([alive], [], [], deadline - time.monotonic())[0]:
                return


def main() -> None:
    """Forks the watcher twice, so that nobody must wait for it, and becomes the program."""
    lifeline, command = int(sys.argv[1]), sys.argv[2:]
    program = os.getpid()
    alive, held = os.pipe()
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            os.setsid()
            # The watcher must hold nothing that shows the program to be alive, such as its lock.
            os.closerange(3, min(alive, lifeline))
            os.closerange(min(alive, lifeline) + 1, max(alive, lifeline))
            os.closerange(max(alive, lifeline) + 1, _DESCRIPTORS)
            watch(lifeline, alive, program)
        os._exit(0)
    os.waitpid(child, 0)
    os.close(alive)
    os.close(lifeline)
    os.set_inheritable(held, True)
    os.execv(command[0], command)  # noqa: S606 - a fixed program without a shell


if __name__ == "__main__":
    main()
