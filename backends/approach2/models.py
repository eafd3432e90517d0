"""The tables of approach 2. How a database comes to have them: `migrations`."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class SandboxState(StrEnum):
    """What a sandbox is there for."""

    CREATING = "creating"
    """Noted before it is made, so that no instance takes it for a leak of another."""
    WARM = "warm"
    """Empty, waiting for a workspace."""
    ASSIGNED = "assigned"


class Base(DeclarativeBase):
    """All tables of approach 2."""


class GitSandbox(Base):
    """A sandbox, and the workspace that it serves. Times are in UTC, without a zone: every database stores them alike.

    The fingerprint of the workspace (`inventory.Record`) stands in four parts of 32 bits, so that the database itself
    can add them up.
    """

    __tablename__ = "git_sandboxes"
    __table_args__ = (UniqueConstraint("agent_id", "task_id", name="uq_git_sandboxes_workspace"),)

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    state: Mapped[str] = mapped_column(String(16), index=True)
    agent_id: Mapped[str | None] = mapped_column(String(128))
    task_id: Mapped[str | None] = mapped_column(String(128))
    created_at: Mapped[datetime]
    assigned_at: Mapped[datetime | None]
    workspace_hash: Mapped[str | None] = mapped_column(String(32), index=True)
    version: Mapped[int] = mapped_column(BigInteger, server_default="0")
    updated_at: Mapped[datetime | None]
    repository: Mapped[str | None] = mapped_column(Text)
    branch: Mapped[str | None] = mapped_column(Text)
    head: Mapped[str | None] = mapped_column(String(64))
    digest: Mapped[str | None] = mapped_column(String(64))
    fingerprint_0: Mapped[int] = mapped_column(BigInteger, server_default="0")
    fingerprint_1: Mapped[int] = mapped_column(BigInteger, server_default="0")
    fingerprint_2: Mapped[int] = mapped_column(BigInteger, server_default="0")
    fingerprint_3: Mapped[int] = mapped_column(BigInteger, server_default="0")


class GitDeployment(Base):
    """The one row that says which deployment this database is of: the mark of its sandboxes and locks."""

    __tablename__ = "git_deployment"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(64))


class GitCall(Base):
    """A keyed call and its answer (`calls.Noted`)."""

    __tablename__ = "git_calls"

    workspace_hash: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime] = mapped_column(index=True)
    answer: Mapped[str | None] = mapped_column(Text)
