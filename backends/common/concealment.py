"""Keeps what this process was started with from others of the same user, its own sandboxes first of all."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def conceal() -> None:
    """Closes `/proc/<pid>/environ`, memory and descriptors of this process to everybody but root. Linux only.

    A variable that is removed from the environment is still to be read there, as it was at the start. Programs that
    are started from here are not concealed: they are given none of the secrets.
    """
    if sys.platform == "linux":
        # prctl(2); it cannot fail with these arguments.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
