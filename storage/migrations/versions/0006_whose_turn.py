"""Whose turn it is: an index on what was read last."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_READ = sa.text("read_at IS NOT NULL")


def upgrade() -> None:
    """Make the index."""
    op.create_index("ix_studies_read", "studies", [sa.text("read_at DESC")], sqlite_where=_READ, postgresql_where=_READ)


def downgrade() -> None:
    """Take it away again."""
    op.drop_index("ix_studies_read", "studies")
