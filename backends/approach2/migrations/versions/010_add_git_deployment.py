"""The name of the deployment, by which its sandboxes are told from those of others in the same account."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "010_add_git_deployment"
down_revision = "009_add_git_sandbox_tables"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table; whoever starts first writes its row."""
    op.create_table(
        "git_deployment",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(64), nullable=False),
    )


def downgrade() -> None:
    """Removes it."""
    op.drop_table("git_deployment")
