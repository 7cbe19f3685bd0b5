"""Reports of a model are found by their source."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_mendflow_reports_model_name_source", "mendflow_reports", ["model_name", "source"])


def downgrade() -> None:
    op.drop_index("ix_mendflow_reports_model_name_source", "mendflow_reports")
