"""Past openings are indexed when an incident closes, not when it opens: one entry in no order less per new alert."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_IS_CLOSED = sa.text("closed_at IS NOT NULL")
_WHERE: dict[str, Any] = {"sqlite_where": _IS_CLOSED, "postgresql_where": _IS_CLOSED}


def upgrade() -> None:
    """Index closed incidents alone."""
    op.drop_index("ix_incidents_opened", "incidents")
    op.create_index("ix_incidents_past", "incidents", ["key", "opened_at"], **_WHERE)


def downgrade() -> None:
    """Index all incidents again."""
    op.drop_index("ix_incidents_past", "incidents")
    op.create_index("ix_incidents_opened", "incidents", ["key", "opened_at"])
