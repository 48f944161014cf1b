"""Alembic's environment: runs in the transaction that `Database.migrate` opened, never in one of its own."""

from alembic import context

from storage.faults import fault_point

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=context.config.attributes["target_metadata"],
    transactional_ddl=True,
    render_as_batch=True,
    on_version_apply=lambda **_: fault_point("storage.migrating"),
)
context.run_migrations()
