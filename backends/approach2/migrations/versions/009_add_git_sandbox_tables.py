"""Sandboxes with the workspaces they serve, and the keyed calls of those workspaces."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "009_add_git_sandbox_tables"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes both tables."""
    op.create_table(
        "git_sandboxes",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("agent_id", sa.String(128)),
        sa.Column("task_id", sa.String(128)),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("assigned_at", sa.DateTime()),
        sa.Column("workspace_hash", sa.String(32)),
        sa.Column("version", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("updated_at", sa.DateTime()),
        sa.Column("repository", sa.Text()),
        sa.Column("branch", sa.Text()),
        sa.Column("head", sa.String(64)),
        sa.Column("digest", sa.String(64)),
        *(sa.Column(f"fingerprint_{n}", sa.BigInteger(), nullable=False, server_default="0") for n in range(4)),
        sa.UniqueConstraint("agent_id", "task_id", name="uq_git_sandboxes_workspace"),
    )
    op.create_index("ix_git_sandboxes_state", "git_sandboxes", ["state"])
    op.create_index("ix_git_sandboxes_workspace_hash", "git_sandboxes", ["workspace_hash"])
    op.create_table(
        "git_calls",
        sa.Column("workspace_hash", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("answer", sa.Text()),
    )
    op.create_index("ix_git_calls_at", "git_calls", ["at"])


def downgrade() -> None:
    """Removes both."""
    op.drop_table("git_calls")
    op.drop_table("git_sandboxes")
