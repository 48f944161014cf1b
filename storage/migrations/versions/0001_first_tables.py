"""The first tables.

Types are written out, not imported from `storage.tables`: a revision stays what it was when it was released.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
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


def _index(name: str, table: str, columns: list, *, where: str = "", unique: bool = False) -> None:
    condition: dict[str, Any] = {"sqlite_where": sa.text(where), "postgresql_where": sa.text(where)} if where else {}
    op.create_index(name, table, columns, unique=unique, **condition)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "studies",
        _id(),
        _required("study_instance_uid"),
        _text("patient_name"),
        _text("patient_id"),
        _text("issuer_of_patient_id"),
        _text("birth_date"),
        _text("sex"),
        _text("age"),
        _text("accession_number"),
        _text("study_id"),
        _text("study_date"),
        _text("study_time"),
        _text("study_description"),
        _text("referring_physician_name"),
        _text("modality"),
        _text("body_part"),
        _text("view"),
        _text("ordered_priority"),
        _count("ordered_rank"),
        _text("ai_priority"),
        _text("effective_priority"),
        _count("priority_rank"),
        _text("status"),
        sa.Column("flagged", sa.Boolean, nullable=False, server_default=sa.text("false")),
        _time("notified_at", nullable=True),
        _count("revision"),
        _count("conflicts"),
        _text("calling_ae_title"),
        _time("first_received_at"),
        _time("last_received_at"),
        sa.UniqueConstraint("study_instance_uid", name="uq_studies_study_instance_uid"),
    )
    _index("ix_studies_last_received_at", "studies", ["last_received_at", "id"])

    op.create_table(
        "instances",
        _id(),
        _required("sop_instance_uid"),
        _required("series_instance_uid"),
        _required("study_instance_uid"),
        _required("sop_class_uid"),
        _required("transfer_syntax_uid"),
        _count("variant"),
        sa.Column("size", sa.BigInteger, nullable=False),
        _required("location"),
        _text("calling_ae_title"),
        _text("called_ae_title"),
        _text("peer_address"),
        _text("association_id"),
        _time("received_at"),
        _time("deleted_at", nullable=True),
    )
    _index(
        "uq_instances_sop_instance_uid_variant",
        "instances",
        ["sop_instance_uid", "variant"],
        where="deleted_at IS NULL",
        unique=True,
    )
    _index("ix_instances_study_instance_uid", "instances", ["study_instance_uid", "variant", "sop_instance_uid"])
    _index("ix_instances_received_at", "instances", ["received_at"], where="deleted_at IS NULL")
    _index("ix_instances_location", "instances", ["location"])

    op.create_table(
        "jobs",
        _id(),
        _required("kind"),
        _required("key"),
        _required("state"),
        _count("priority"),
        _time("run_at"),
        _count("attempts"),
        _text("lease_owner"),
        _time("lease_expires_at", nullable=True),
        _count("wanted"),
        _count("claimed"),
        _text("reason"),
        sa.Column("payload", sa.JSON, nullable=False),
        _time("created_at"),
        _time("settled_at", nullable=True),
        sa.UniqueConstraint("kind", "key", name="uq_jobs_kind_key"),
    )
    _index("ix_jobs_claim", "jobs", ["kind", sa.text("priority DESC"), "run_at", "id"], where="state = 'SCHEDULED'")
    _index("ix_jobs_run_at", "jobs", ["kind", "run_at"], where="state = 'SCHEDULED'")
    _index("ix_jobs_lease_expires_at", "jobs", ["lease_expires_at"], where="state = 'IN_PROGRESS'")
    _index("ix_jobs_completed", "jobs", ["settled_at"], where="state = 'COMPLETED'")
    _index("ix_jobs_failed", "jobs", ["settled_at", "id"], where="state = 'FAILED'")

    op.create_table(
        "results",
        _id(),
        _required("study_instance_uid"),
        sa.Column("revision", sa.Integer, nullable=False),
        _time("created_at"),
        _required("status"),
        sa.Column("flagged", sa.Boolean, nullable=False),
        _required("ai_priority"),
        sa.Column("outcome", sa.JSON, nullable=False),
        _time("superseded_at", nullable=True),
        sa.UniqueConstraint("study_instance_uid", "revision", name="uq_results_study_instance_uid_revision"),
    )

    op.create_table(
        "result_objects",
        _id(),
        sa.Column("result_id", _ID, sa.ForeignKey("results.id", name="fk_result_objects_result_id"), nullable=False),
        _required("kind"),
        _required("sop_class_uid"),
        _required("sop_instance_uid"),
        _required("location"),
        _time("created_at"),
        sa.UniqueConstraint("sop_instance_uid", name="uq_result_objects_sop_instance_uid"),
    )
    _index("ix_result_objects_result_id", "result_objects", ["result_id"])

    op.create_table(
        "predictions",
        sa.Column("instance_id", _ID, sa.ForeignKey("instances.id", name="fk_predictions_instance_id")),
        _required("model_digest"),
        _required("finding"),
        _required("model"),
        _required("model_version"),
        sa.Column("score", sa.Float(53), nullable=False),
        sa.Column("probability", sa.Float(53), nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("instance_id", "model_digest", "finding"),
    )

    op.create_table(
        "deliveries",
        _id(),
        sa.Column("result_id", _ID, sa.ForeignKey("results.id", name="fk_deliveries_result_id"), nullable=False),
        _required("study_instance_uid"),
        sa.Column("revision", sa.Integer, nullable=False),
        _required("kind"),
        _required("destination"),
        _required("state"),
        _count("attempts"),
        _text("reason"),
        _text("sop_instance_uid"),
        _text("sop_class_uid"),
        _time("delivered_at", nullable=True),
        _time("updated_at"),
        sa.UniqueConstraint("result_id", "kind", "destination", name="uq_deliveries_result_id_kind_destination"),
    )
    _index("ix_deliveries_study_instance_uid", "deliveries", ["study_instance_uid", "revision"])
    _index("ix_deliveries_state", "deliveries", ["state", "updated_at"])

    op.create_table(
        "audit_events",
        _id(),
        _time("created_at"),
        _required("event"),
        _text("actor"),
        _text("study_instance_uid"),
        sa.Column("detail", sa.JSON, nullable=False),
    )
    _index("ix_audit_events_study_instance_uid", "audit_events", ["study_instance_uid", "id"])

    op.create_table(
        "tokens",
        _id(),
        _required("name"),
        _required("role"),
        _required("secret_sha256"),
        _time("created_at"),
        sa.UniqueConstraint("name", name="uq_tokens_name"),
        sa.UniqueConstraint("secret_sha256", name="uq_tokens_secret_sha256"),
    )


def downgrade() -> None:
    """Remove them, those that refer to others first."""
    for table in (
        "tokens",
        "audit_events",
        "deliveries",
        "predictions",
        "result_objects",
        "results",
        "jobs",
        "instances",
        "studies",
    ):
        op.drop_table(table)
