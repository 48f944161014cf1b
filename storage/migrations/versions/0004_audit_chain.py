"""The audit trail as a chain: seals over its entries, and what is known of its verification and of its export; the
certificates that callers showed, or must show.

Types are written out, not imported from `storage.tables`: a revision stays what it was when it was released.
"""

import hashlib
import json
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_TIME = sa.DateTime(timezone=True)


def _text(name: str) -> sa.Column:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _required(name: str, kind: type[sa.types.TypeEngine] = sa.Text) -> sa.Column:
    return sa.Column(name, kind, nullable=False)


def _count(name: str) -> sa.Column:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def upgrade() -> None:
    """Make the tables and the seal that the chain begins with."""
    op.add_column("rejected_callers", _text("certificate"))
    op.add_column("allowed_callers", _text("certificate"))
    op.add_column("audit_events", sa.Column("seal", sa.BigInteger, nullable=True))
    op.create_index("ix_audit_events_seal", "audit_events", ["seal", "id"])
    seals = op.create_table(
        "audit_seals",
        sa.Column("number", _ID, primary_key=True, autoincrement=False),
        _required("kind"),
        _text("previous"),
        _required("digest"),
        _count("first_entry"),
        _count("last_entry"),
        _count("entries"),
        _required("leaves", sa.LargeBinary),
        sa.Column("created_at", _TIME, nullable=False),
        sa.UniqueConstraint("previous", name="uq_audit_seals_previous"),
        sa.UniqueConstraint("digest", name="uq_audit_seals_digest"),
    )
    op.create_table(
        "audit_standings",
        sa.Column("name", sa.Text, primary_key=True, nullable=False),
        _count("seal"),
        _count("entry"),
        _text("owner"),
        sa.Column("leased_until", _TIME, nullable=True),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
    )
    _begin(op.get_bind(), seals)


def _begin(connection: sa.Connection, seals: sa.Table) -> None:
    """Number 0 covers nothing: it says up to which entry nobody had sealed anything when the chain began."""
    last = connection.execute(sa.text("SELECT coalesce(max(id), 0) FROM audit_events")).scalar_one()
    at = datetime.now(UTC)
    told = at.isoformat(timespec="microseconds")
    head = json.dumps([0, "origin", "", 0, last, 0, told], separators=(",", ":"))
    connection.execute(
        sa.insert(seals).values(
            number=0,
            kind="origin",
            previous="",
            digest=hashlib.sha256(b"cxr-node audit seal 1\n" + head.encode() + b"\n").hexdigest(),
            first_entry=0,
            last_entry=last,
            entries=0,
            leaves=b"",
            created_at=at.replace(tzinfo=None) if connection.dialect.name == "sqlite" else at,
        )
    )


def downgrade() -> None:
    """Take them away again; entries stay."""
    op.drop_table("audit_standings")
    op.drop_table("audit_seals")
    op.drop_index("ix_audit_events_seal", "audit_events")
    op.drop_column("audit_events", "seal")
    op.drop_column("allowed_callers", "certificate")
    op.drop_column("rejected_callers", "certificate")
