"""Results that arrive: proof of delivery, orders, manifests, work items, back-catalogue runs, readers' feedback.

Types are written out, not imported from `storage.tables`: a revision stays what it was when it was released.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_TIME = sa.DateTime(timezone=True)


def _text(name: str) -> sa.Column:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _required(name: str) -> sa.Column:
    return sa.Column(name, sa.Text, nullable=False)


def _count(name: str) -> sa.Column:
    return sa.Column(name, sa.Integer, nullable=False, server_default="0")


def _time(name: str, *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, _TIME, nullable=nullable)


def _id() -> sa.Column:
    return sa.Column("id", _ID, primary_key=True)


def upgrade() -> None:
    """Make the tables and columns."""
    op.add_column("studies", _text("ordered_reason"))
    op.add_column("studies", _text("origin"))
    op.add_column("studies", _time("read_at", nullable=True))
    op.add_column("studies", _count("reopened"))
    op.create_index("ix_studies_accession_number", "studies", ["accession_number"])
    op.add_column("deliveries", _text("proof"))
    op.add_column("deliveries", _text("proof_method"))
    op.add_column("deliveries", _text("proof_reason"))
    op.add_column("deliveries", _time("proof_at", nullable=True))
    op.add_column("deliveries", _count("resends"))
    op.create_table(
        "destination_states",
        sa.Column("name", sa.Text, primary_key=True, nullable=False),
        sa.Column("paused", sa.Boolean, nullable=False, server_default=sa.text("false")),
        _text("paused_by"),
        _count("failures"),
        _time("resting_until", nullable=True),
        _text("last_error"),
        _time("last_failure_at", nullable=True),
        _time("last_success_at", nullable=True),
        _text("last_test"),
        _time("last_test_at", nullable=True),
        _time("updated_at"),
    )
    op.create_table(
        "commitments",
        sa.Column("transaction_uid", sa.Text, primary_key=True, nullable=False),
        sa.Column(
            "delivery_id", _ID, sa.ForeignKey("deliveries.id", name="fk_commitments_delivery_id"), nullable=False
        ),
        _required("destination"),
        _required("state"),
        sa.Column("failure_reason", sa.Integer, nullable=True),
        _time("asked_at"),
        _time("answered_at", nullable=True),
    )
    op.create_index("ix_commitments_delivery_id", "commitments", ["delivery_id"])
    op.create_table(
        "commitment_requests",
        _id(),
        _required("transaction_uid"),
        _required("calling_ae_title"),
        _text("called_ae_title"),
        _text("peer_address"),
        sa.Column("items", sa.JSON, nullable=False),
        _time("created_at"),
        _time("reported_at", nullable=True),
        _text("reason"),
        sa.UniqueConstraint(
            "transaction_uid", "calling_ae_title", name="uq_commitment_requests_transaction_uid_calling_ae_title"
        ),
    )
    op.create_table(
        "manifests",
        _id(),
        _required("source"),
        _required("sop_instance_uid"),
        _required("study_instance_uid"),
        _required("state"),
        sa.Column("instances", sa.JSON, nullable=False),
        sa.Column("attributes", sa.JSON, nullable=False),
        _text("calling_ae_title"),
        _time("created_at"),
        _time("updated_at"),
        sa.UniqueConstraint(
            "source",
            "sop_instance_uid",
            "study_instance_uid",
            name="uq_manifests_source_sop_instance_uid_study_instance_uid",
        ),
    )
    op.create_index("ix_manifests_study_instance_uid", "manifests", ["study_instance_uid"])
    op.create_table(
        "orders",
        _id(),
        _required("source"),
        _required("order_key"),
        _text("accession_number"),
        _text("patient_id"),
        _text("issuer_of_patient_id"),
        _text("study_instance_uid"),
        _text("placer_order_number"),
        _text("filler_order_number"),
        _text("requested_procedure_id"),
        _text("priority"),
        _text("priority_text"),
        _text("status"),
        _time("created_at"),
        _time("updated_at"),
        sa.UniqueConstraint("source", "order_key", name="uq_orders_source_order_key"),
    )
    op.create_index("ix_orders_accession_number", "orders", ["accession_number"])
    op.create_index("ix_orders_study_instance_uid", "orders", ["study_instance_uid"])
    op.create_table(
        "messages",
        _id(),
        _required("direction"),
        _required("peer"),
        _text("control_id"),
        _text("message_type"),
        sa.Column("delivery_id", _ID, sa.ForeignKey("deliveries.id", name="fk_messages_delivery_id"), nullable=True),
        _text("body"),
        _text("acknowledgement"),
        _text("code"),
        _time("created_at"),
    )
    op.create_index("ix_messages_created_at", "messages", ["created_at"])
    op.create_index("ix_messages_delivery_id", "messages", ["delivery_id"])
    op.create_index("ix_messages_peer", "messages", ["peer", "control_id"])
    op.create_table(
        "work_items",
        _id(),
        _required("sop_instance_uid"),
        _text("study_instance_uid"),
        _required("kind"),
        _required("state"),
        _text("transaction_uid"),
        _text("performer"),
        sa.Column("attributes", sa.JSON, nullable=False),
        _text("announced"),
        _time("created_at"),
        _time("updated_at"),
        sa.UniqueConstraint("sop_instance_uid", name="uq_work_items_sop_instance_uid"),
    )
    op.create_index("ix_work_items_study_instance_uid", "work_items", ["study_instance_uid"])
    op.create_index("ix_work_items_updated_at", "work_items", ["updated_at"])
    op.create_table(
        "ups_subscriptions",
        _id(),
        _required("ae_title"),
        _text("sop_instance_uid"),
        sa.Column("keys", sa.JSON, nullable=False),
        sa.Column("deletion_lock", sa.Boolean, nullable=False, server_default=sa.text("false")),
        _time("created_at"),
        sa.UniqueConstraint("ae_title", "sop_instance_uid", name="uq_ups_subscriptions_ae_title_sop_instance_uid"),
    )
    op.create_table(
        "ups_events",
        _id(),
        _required("ae_title"),
        sa.Column("event_type", sa.Integer, nullable=False),
        _required("sop_instance_uid"),
        sa.Column("information", sa.JSON, nullable=False),
        _time("created_at"),
    )
    op.create_index("ix_ups_events_ae_title", "ups_events", ["ae_title", "id"])
    op.create_table(
        "backfills",
        _id(),
        _required("source"),
        sa.Column("query", sa.JSON, nullable=False),
        _required("state"),
        _text("reason"),
        _time("created_at"),
        _time("updated_at"),
    )
    op.create_table(
        "backfill_studies",
        sa.Column(
            "backfill_id",
            _ID,
            sa.ForeignKey("backfills.id", name="fk_backfill_studies_backfill_id"),
            primary_key=True,
            nullable=False,
        ),
        sa.Column("study_instance_uid", sa.Text, primary_key=True, nullable=False),
        _required("state"),
        _count("expected"),
        _count("attempts"),
        _text("reason"),
        _time("updated_at"),
    )
    op.create_index("ix_backfill_studies_study_instance_uid", "backfill_studies", ["study_instance_uid"])
    op.create_table(
        "feedback",
        _id(),
        sa.Column("result_id", _ID, sa.ForeignKey("results.id", name="fk_feedback_result_id"), nullable=False),
        _required("study_instance_uid"),
        sa.Column("revision", sa.Integer, nullable=False),
        _text("finding"),
        _text("observation_uid"),
        _required("verdict"),
        _text("reader"),
        _text("comment"),
        _text("sop_instance_uid"),
        _time("created_at"),
    )
    op.create_index("ix_feedback_study_instance_uid", "feedback", ["study_instance_uid", "id"])


def downgrade() -> None:
    """Remove them, those that refer to others first."""
    for table in (
        "feedback",
        "backfill_studies",
        "backfills",
        "ups_events",
        "ups_subscriptions",
        "work_items",
        "messages",
        "orders",
        "manifests",
        "commitment_requests",
        "commitments",
        "destination_states",
    ):
        op.drop_table(table)
    op.drop_index("ix_studies_accession_number", "studies")
    for table, columns in (
        ("studies", ("reopened", "read_at", "origin", "ordered_reason")),
        ("deliveries", ("resends", "proof_at", "proof_reason", "proof_method", "proof")),
    ):
        for column in columns:
            op.drop_column(table, column)
