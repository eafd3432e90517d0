"""Has the processes of this machine read another definition, and waits until they have.

Points `<data-dir>/migration.path` to the file and signals the supervisor; puts the pointer back when it refuses.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, Final

from gateway.cli.connection import Control
from gateway.cli.shown import CommandError
from gateway.parts import Parts

_LIMIT_S: Final = 30.0
_POLL_S: Final = 0.1
_ANSWER_S: Final = 5.0
_SILENT_S: Final = 5.0
"""A worker silent for so long is gone or going; the next one reads the file anyway."""

Document = dict[str, Any]


class Reload:
    """One reload."""

    def __init__(self, control: Control, file: Path) -> None:
        """Does nothing yet.

        Args:
            control: Of this machine.
            file: Absolute path of the migration file.
        """
        assert control.runtime is not None
        self._control = control
        self._runtime: Document = control.runtime
        self._file = file
        self._pointer = Parts.read(control.place.directory / "parts.json").migration_pointer

    def perform(self, digest: str, *, is_needed: bool) -> None:
        """Points to the file and, if need be, has it read.

        Args:
            digest: Of the definition that is to be in force.
            is_needed: Whether another definition is in force now.

        Raises:
            CommandError: It is not in force; the pointer is as it was.
        """
        before = self._pointer.read_text(encoding="utf-8")
        _replace(self._pointer, f"{self._file}\n")
        try:
            # Also where only the policy differs: what is started later shall find the file as it was applied.
            self._signal()
            if is_needed:
                self._wait(digest)
        except CommandError:
            _replace(self._pointer, before)
            raise

    def _signal(self) -> None:
        pid = int(self._runtime["pids"]["supervisor"])
        self._count = self._reloads()["count"]
        try:
            os.kill(pid, signal.SIGHUP)
        except (ProcessLookupError, PermissionError) as exc:
            raise CommandError(
                "failed", f"the supervisor (pid {pid}) cannot be told to reload: {exc.strerror}"
            ) from exc

    def _wait(self, digest: str) -> None:
        deadline = time.monotonic() + _LIMIT_S
        while time.monotonic() < deadline:
            shown = self._reloads()
            if shown["count"] > self._count and shown["state"] == "failed":
                raise CommandError("failed", f"the definition was refused: {shown['why']}; nothing was changed")
            status = self._control.get("/v1/status")
            if _is_everywhere(status, digest):
                return
            time.sleep(_POLL_S)
        raise CommandError("failed", f"the definition is not in force everywhere after {_LIMIT_S:.0f} s; see the logs")

    def _reloads(self) -> Document:
        import httpx

        try:
            answer = httpx.get(f"{self._runtime['ops']}/readyz", timeout=_ANSWER_S, trust_env=False)
            shown: Document = answer.json()["reload"]
        except (httpx.HTTPError, ValueError, KeyError) as exc:
            raise CommandError("failed", f"the supervisor does not answer on its ops port: {exc}") from exc
        return shown


def _is_everywhere(status: Document, digest: str) -> bool:
    heard = [worker for worker in status["workers"] if (worker["silent_s"] or 0) < _SILENT_S]
    return status["definition"] == digest and all(worker["definition"] == digest for worker in heard)


def _replace(path: Path, content: str) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
    temporary.replace(path)
