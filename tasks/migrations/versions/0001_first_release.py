"""The ledger as first released."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Spelled out rather than taken from `ledger_schema`: a released revision never changes, the schema does.


def _moment() -> sa.DateTime:
    return sa.DateTime(timezone=True)


def _of_correction(table: str) -> list[sa.schema.SchemaItem]:
    return [
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("model_name", sa.String(255), nullable=False),
        sa.Column("correction_id", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=f"pk_{table}"),
        sa.ForeignKeyConstraint(
            ["model_name", "correction_id"],
            ["mendflow_corrections.model_name", "mendflow_corrections.id"],
            name=f"fk_{table}_mendflow_corrections",
        ),
    ]


def upgrade() -> None:
    op.create_table(
        "mendflow_models",
        sa.Column("name", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_mendflow_models"),
    )
    op.create_table(
        "mendflow_corrections",
        sa.Column("model_name", sa.String(255), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("prompt_digest", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("model_name", "id", name="pk_mendflow_corrections"),
        sa.ForeignKeyConstraint(
            ["model_name"], ["mendflow_models.name"], name="fk_mendflow_corrections_mendflow_models"
        ),
    )
    op.create_index(
        "ix_mendflow_corrections_model_name_prompt_digest",
        "mendflow_corrections",
        ["model_name", "prompt_digest"],
    )
    op.create_table(
        "mendflow_reports",
        *_of_correction("mendflow_reports"),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("reporter", sa.Text(), nullable=False),
        sa.Column("reported_at", _moment(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("wrong_output", sa.Text(), nullable=False),
        sa.Column("desired_output", sa.Text()),
        sa.Column("chat", sa.Boolean(), nullable=False),
        sa.Column("subject", sa.Text()),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("equivalents", sa.JSON(), nullable=False),
        sa.Column("locality", sa.JSON(), nullable=False),
        sa.UniqueConstraint("model_name", "correction_id", "source", name="uq_mendflow_reports_model_name"),
    )
    op.create_table(
        "mendflow_transitions",
        *_of_correction("mendflow_transitions"),
        sa.Column("from_state", sa.String(32)),
        sa.Column("to_state", sa.String(32), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("run_id", sa.String(255), nullable=False),
        sa.Column("at", _moment(), nullable=False),
    )
    op.create_index(
        "ix_mendflow_transitions_model_name_correction_id_sequence",
        "mendflow_transitions",
        ["model_name", "correction_id", "sequence"],
    )
    op.create_table(
        "mendflow_answers",
        *_of_correction("mendflow_answers"),
        sa.Column("answered_as", sa.String(64), nullable=False),
        sa.Column("desired_output", sa.Text(), nullable=False),
        sa.Column("reviewer", sa.Text(), nullable=False),
        sa.Column("at", _moment(), nullable=False),
        sa.UniqueConstraint("model_name", "correction_id", name="uq_mendflow_answers_model_name"),
    )
    op.create_table(
        "mendflow_leases",
        sa.Column("model_name", sa.String(255), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("process", sa.Text(), nullable=False),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("acquired_at", _moment(), nullable=False),
        sa.Column("expires_at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("model_name", name="pk_mendflow_leases"),
    )
    op.create_table(
        "mendflow_promotions",
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("model_name", sa.String(255), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("from_version", sa.String(255)),
        sa.Column("to_version", sa.String(255)),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("phase", sa.String(32), nullable=False),
        sa.Column("run_id", sa.String(255), nullable=False),
        sa.Column("at", _moment(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_mendflow_promotions"),
    )
    op.create_index(
        "ix_mendflow_promotions_model_name_sequence", "mendflow_promotions", ["model_name", "sequence"]
    )


def downgrade() -> None:
    for table in (
        "promotions",
        "leases",
        "answers",
        "transitions",
        "reports",
        "corrections",
        "models",
    ):
        op.drop_table(f"mendflow_{table}")
