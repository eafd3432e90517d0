"""The parts file: what the processes of one machine need to find each other and their settings.

Written by the supervisor (0600) before it starts them, read by each at its start, and again when told to reload. Holds
paths of secrets, never secrets.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway.errors import CrossfadeError

VERSION: Final = 1
ACCEPTED_NAME: Final = "migration.accepted"


class PartsFileError(CrossfadeError):
    """The parts file cannot be used."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a worker or the control process is told.

    Attributes:
        data_dir: Absolute.
        redis_url: Where Redis is.
        redis_password_file: Holds its password, or None.
        internal_token_file: Holds the token between gateway and services, or None.
        force_secret_file: Holds the secret of `Crossfade-Force`, or None.
        bootstrap_token_file: Holds the approver's token that `up` made, or None.
        bundled: Base URLs of the bundled services that run, by service: `{"approach1": "http://127.0.0.1:40001"}`.
        settings: Content of `config/gateway.yaml` after all overrides, as the settings model dumps it.
    """

    data_dir: str
    redis_url: str
    redis_password_file: str | None = None
    internal_token_file: str | None = None
    force_secret_file: str | None = None
    bootstrap_token_file: str | None = None
    bundled: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def migration_file(self) -> Path:
        """The migration file in use; `crossfade apply` may name another one at any time.

        Raises:
            PartsFileError: It is not known.
        """
        try:
            return Path(self.migration_pointer.read_text(encoding="utf-8").strip())
        except OSError as exc:
            raise PartsFileError(f"{self.migration_pointer} cannot be read: {exc.strerror}") from exc

    @property
    def accepted_file(self) -> Path:
        """The copy of the migration file that was last found right, which every process loads.

        Not the operator's file itself: a process that is started again may find that one half edited, broken or gone,
        and would not come back, or come back with what nobody has told it to use. Where no supervisor made a copy, the
        file itself.

        Raises:
            PartsFileError: It is not known.
        """
        copy = Path(self.data_dir) / ACCEPTED_NAME
        return copy if copy.exists() else self.migration_file

    @property
    def migration_pointer(self) -> Path:
        """The file that holds the absolute path of the migration file."""
        return Path(self.data_dir) / "migration.path"

    def write(self, path: Path) -> None:
        """Writes the file, readable by its owner only, in one step."""
        temporary = path.with_name(path.name + ".tmp")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"version": VERSION, **asdict(self)}, file, indent=1)
        temporary.replace(path)

    @classmethod
    def read(cls, path: Path) -> Parts:
        """Reads the file.

        Raises:
            PartsFileError: It is missing, damaged or of another version.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("version", None) != VERSION:
                raise PartsFileError(f"{path} was written by another version of crossfade; restart it")
            return cls(**content)
        except (OSError, ValueError, TypeError, AttributeError) as exc:
            raise PartsFileError(f"{path} cannot be used: {exc}") from exc


def read_secret(path: str | None) -> bytes | None:
    """Content of a secret's file, without surrounding white space; None for no file.

    Raises:
        PartsFileError: It cannot be read or is empty.
    """
    if path is None:
        return None
    try:
        secret = Path(path).read_bytes().strip()
    except OSError as exc:
        raise PartsFileError(f"{path} cannot be read: {exc.strerror}") from exc
    if not secret:
        raise PartsFileError(f"{path} is empty")
    return secret
