"""What Alembic runs: on the connection that it is given, in the transaction that is already open."""

from __future__ import annotations

from alembic import context

from oncall_agent.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=False,
    render_as_batch=False,
)
context.run_migrations()
