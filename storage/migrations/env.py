"""Alembic's environment: runs in the transaction that `Database.migrate` opened, never in one of its own."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=context.config.attributes["target_metadata"],
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()
