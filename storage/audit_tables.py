"""Tables around the audit trail: its seals, and what is known of its verification and export."""

from sqlalchemy import JSON, BigInteger, Column, LargeBinary, Table, Text, UniqueConstraint, text

from storage.tables import Id, Words, metadata, when, words


def _number(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


# Each seal is a link of the chain; `leaves` holds id (8 bytes, big endian) and SHA-256 of every entry that it covers.
audit_seals = Table(
    "audit_seals",
    metadata,
    Column("number", Id, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    words("previous"),
    Column("digest", Text, nullable=False),
    _number("first_entry"),
    _number("last_entry"),
    _number("entries"),
    Column("leaves", LargeBinary, nullable=False),
    when("created_at"),
    UniqueConstraint("previous", name="uq_audit_seals_previous"),  # two links never follow the same one
    UniqueConstraint("digest", name="uq_audit_seals_digest"),
)

# How far somebody came along the chain, and what came of it.
audit_standings = Table(
    "audit_standings",
    metadata,
    Column("name", Words, primary_key=True, nullable=False),
    _number("seal"),
    _number("entry"),
    words("owner"),
    when("leased_until", nullable=True),
    Column("detail", JSON, nullable=False),
    when("updated_at"),
)
