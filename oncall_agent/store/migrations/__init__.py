"""Alembic's revisions of the schema; `oncall_agent.store.migrate` runs them."""
