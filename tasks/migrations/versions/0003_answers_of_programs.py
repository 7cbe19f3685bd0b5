"""Answers that a program gave are told from those of people; all that there are were given by people."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("mendflow_reports", sa.Column("answerer", sa.Text(), nullable=False, server_default=""))
    op.add_column(
        "mendflow_answers", sa.Column("program", sa.Boolean(), nullable=False, server_default=sa.false())
    )


def downgrade() -> None:
    op.drop_column("mendflow_answers", "program")
    op.drop_column("mendflow_reports", "answerer")
