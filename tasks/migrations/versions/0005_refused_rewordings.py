"""Rewordings that a reviewer refused, which no edit dataset holds from then on."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "mendflow_refused_rewordings",
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("model_name", sa.String(255), nullable=False),
        sa.Column("prompt_digest", sa.String(64), nullable=False),
        sa.Column("rewording", sa.Text(), nullable=False),
        sa.Column("refused", sa.Boolean(), nullable=False),
        sa.Column("reviewer", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_mendflow_refused_rewordings"),
    )
    op.create_index(
        "ix_mendflow_refused_rewordings_model_name_prompt_digest",
        "mendflow_refused_rewordings",
        ["model_name", "prompt_digest"],
    )


def downgrade() -> None:
    op.drop_table("mendflow_refused_rewordings")
