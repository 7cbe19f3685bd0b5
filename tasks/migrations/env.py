"""Run by alembic: apply the ledger's revisions on the connection that `tasks.ledger_database` opened."""

from alembic import context

from tasks.ledger_schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
)
with context.begin_transaction():
    context.run_migrations()
