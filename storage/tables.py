"""The tables, as the newest migration leaves them. A test compares both, so neither can drift."""

import json
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects import sqlite

# NaN is no JSON: PostgreSQL refuses it and SQLite would not, so both are kept from seeing it.
to_json = partial(json.dumps, allow_nan=False)


class Instant(TypeDecorator[datetime]):
    """An aware time, UTC, to the microsecond; equal on SQLite (text of fixed width, so it sorts) and PostgreSQL."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a time zone; storage takes aware times only")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Words(TypeDecorator[str]):
    """Text that a sender may have written: what no database can hold (NUL, lone surrogates) is taken out."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return str(value).replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


# SQLite makes row numbers by itself for INTEGER primary keys only.
Id = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData()


def words(name: str, **options: Any) -> Column[str]:
    return Column(name, Words, nullable=False, server_default="", **options)


def count(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0")


def when(name: str, *, nullable: bool = False) -> Column[datetime]:
    return Column(name, Instant, nullable=nullable)


CONTEXT = (
    "patient_name",
    "patient_id",
    "issuer_of_patient_id",
    "birth_date",
    "sex",
    "age",
    "accession_number",
    "study_id",
    "study_date",
    "study_time",
    "study_description",
    "referring_physician_name",
    "modality",
    "body_part",
    "view",
    "ordered_priority",
)

studies = Table(
    "studies",
    metadata,
    Column("id", Id, primary_key=True),
    Column("study_instance_uid", Words, nullable=False),
    *(words(name) for name in CONTEXT),
    count("ordered_rank"),
    words("ai_priority"),
    words("effective_priority"),
    count("priority_rank"),
    words("status"),
    Column("flagged", Boolean, nullable=False, server_default=text("false")),
    when("notified_at", nullable=True),
    count("revision"),
    count("conflicts"),
    words("calling_ae_title"),
    when("first_received_at"),
    when("last_received_at"),
    words("ordered_reason"),
    words("origin"),
    when("read_at", nullable=True),
    count("reopened"),
    # When it left the worklist because nobody read it in time; an image that comes later brings it back.
    when("retired_at", nullable=True),
    when("opened_at", nullable=True),  # by a reader, the first time
    words("opened_by"),
    words("verdict"),  # of the newest feedback on the current revision
    words("search"),  # name, ID and accession number, folded; the name first, so that it sorts
    UniqueConstraint("study_instance_uid", name="uq_studies_study_instance_uid"),
)
# Partial: the worklist walks what waits to be read, never the history.
ON_LIST = "read_at IS NULL AND retired_at IS NULL AND origin <> 'backfill'"
Index(
    "ix_studies_by_priority",
    studies.c.priority_rank.desc(),
    studies.c.first_received_at,
    studies.c.study_instance_uid,
    sqlite_where=text(ON_LIST),
    postgresql_where=text(ON_LIST),
)
Index(
    "ix_studies_by_waiting",
    studies.c.first_received_at,
    studies.c.study_instance_uid,
    sqlite_where=text(ON_LIST),
    postgresql_where=text(ON_LIST),
)
# All that a filter asks, so that counting what it leaves reads the index alone.
Index(
    "ix_studies_on_list",
    studies.c.flagged.desc(),
    studies.c.status.desc(),
    studies.c.first_received_at,
    studies.c.modality,
    studies.c.ordered_rank,
    studies.c.verdict,
    studies.c.opened_at,
    sqlite_where=text(ON_LIST),
    postgresql_where=text(ON_LIST),
)
Index(
    "ix_studies_by_name",
    studies.c.search,
    studies.c.study_instance_uid,
    studies.c.flagged,
    studies.c.status,
    sqlite_where=text(ON_LIST),
    postgresql_where=text(ON_LIST),
)
Index(
    "ix_studies_to_retire",
    studies.c.last_received_at,
    sqlite_where=text(ON_LIST),
    postgresql_where=text(ON_LIST),
)
Index("ix_studies_sender", studies.c.calling_ae_title, studies.c.modality, studies.c.last_received_at)
Index("ix_studies_last_received_at", studies.c.last_received_at, studies.c.id)
Index("ix_studies_accession_number", studies.c.accession_number)

instances = Table(
    "instances",
    metadata,
    Column("id", Id, primary_key=True),
    Column("sop_instance_uid", Words, nullable=False),
    Column("series_instance_uid", Words, nullable=False),
    Column("study_instance_uid", Words, nullable=False),
    Column("sop_class_uid", Words, nullable=False),
    Column("transfer_syntax_uid", Words, nullable=False),
    count("variant"),
    Column("size", BigInteger, nullable=False),
    Column("location", Text, nullable=False),
    words("calling_ae_title"),
    words("called_ae_title"),
    words("peer_address"),
    words("association_id"),
    when("received_at"),
    when("deleted_at", nullable=True),
)
# Partial: an instance that retention took away may come again, as a new row.
Index(
    "uq_instances_sop_instance_uid_variant",
    instances.c.sop_instance_uid,
    instances.c.variant,
    unique=True,
    sqlite_where=text("deleted_at IS NULL"),
    postgresql_where=text("deleted_at IS NULL"),
)
Index(
    "ix_instances_study_instance_uid",
    instances.c.study_instance_uid,
    instances.c.variant,
    instances.c.sop_instance_uid,
)
Index(
    "ix_instances_received_at",
    instances.c.received_at,
    sqlite_where=text("deleted_at IS NULL"),
    postgresql_where=text("deleted_at IS NULL"),
)
Index("ix_instances_location", instances.c.location)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("key", Words, nullable=False),
    Column("state", Text, nullable=False),
    count("priority"),
    when("run_at"),
    count("attempts"),
    words("lease_owner"),
    when("lease_expires_at", nullable=True),
    count("wanted"),
    count("claimed"),
    words("reason"),
    Column("payload", JSON, nullable=False),
    when("created_at"),
    when("settled_at", nullable=True),
    UniqueConstraint("kind", "key", name="uq_jobs_kind_key"),
)
# Partial: what a claim looks through is the backlog, never the history. No index on `state` alone: with statistics of
# an hour ago PostgreSQL takes it for the better one, and walks the backlog.
Index(
    "ix_jobs_claim",
    jobs.c.kind,
    jobs.c.priority.desc(),
    jobs.c.run_at,
    jobs.c.id,
    sqlite_where=text("state = 'SCHEDULED'"),
    postgresql_where=text("state = 'SCHEDULED'"),
)
Index(
    "ix_jobs_run_at",
    jobs.c.kind,
    jobs.c.run_at,
    sqlite_where=text("state = 'SCHEDULED'"),
    postgresql_where=text("state = 'SCHEDULED'"),
)
Index(
    "ix_jobs_lease_expires_at",
    jobs.c.lease_expires_at,
    sqlite_where=text("state = 'IN_PROGRESS'"),
    postgresql_where=text("state = 'IN_PROGRESS'"),
)
Index(
    "ix_jobs_completed",
    jobs.c.settled_at,
    sqlite_where=text("state = 'COMPLETED'"),
    postgresql_where=text("state = 'COMPLETED'"),
)
Index(
    "ix_jobs_failed",
    jobs.c.settled_at,
    jobs.c.id,
    sqlite_where=text("state = 'FAILED'"),
    postgresql_where=text("state = 'FAILED'"),
)

results = Table(
    "results",
    metadata,
    Column("id", Id, primary_key=True),
    Column("study_instance_uid", Words, nullable=False),
    Column("revision", Integer, nullable=False),
    when("created_at"),
    Column("status", Text, nullable=False),
    Column("flagged", Boolean, nullable=False),
    Column("ai_priority", Text, nullable=False),
    Column("outcome", JSON, nullable=False),
    when("superseded_at", nullable=True),
    UniqueConstraint("study_instance_uid", "revision", name="uq_results_study_instance_uid_revision"),
)

Index("ix_results_status", results.c.status, results.c.created_at)

result_objects = Table(
    "result_objects",
    metadata,
    Column("id", Id, primary_key=True),
    Column("result_id", Id, ForeignKey("results.id", name="fk_result_objects_result_id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("sop_class_uid", Text, nullable=False),
    Column("sop_instance_uid", Text, nullable=False),
    Column("location", Text, nullable=False),
    when("created_at"),
    UniqueConstraint("sop_instance_uid", name="uq_result_objects_sop_instance_uid"),
)
Index("ix_result_objects_result_id", result_objects.c.result_id)

predictions = Table(
    "predictions",
    metadata,
    Column(
        "instance_id",
        Id,
        ForeignKey("instances.id", name="fk_predictions_instance_id"),
        primary_key=True,
        nullable=False,
    ),
    Column("model_digest", Text, primary_key=True, nullable=False),
    Column("finding", Text, primary_key=True, nullable=False),
    Column("model", Text, nullable=False),
    Column("model_version", Text, nullable=False),
    Column("score", Float(53), nullable=False),
    Column("probability", Float(53), nullable=False),
    when("created_at"),
)

# Covers what statistics ask of one model: they must not touch the rows of every image.
Index(
    "ix_predictions_model_digest",
    predictions.c.model_digest,
    predictions.c.finding,
    predictions.c.created_at,
    predictions.c.probability,
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Id, primary_key=True),
    Column("result_id", Id, ForeignKey("results.id", name="fk_deliveries_result_id"), nullable=False),
    Column("study_instance_uid", Words, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("destination", Text, nullable=False),
    Column("state", Text, nullable=False),
    count("attempts"),
    words("reason"),
    words("sop_instance_uid"),
    words("sop_class_uid"),
    when("delivered_at", nullable=True),
    when("updated_at"),
    words("proof"),
    words("proof_method"),
    words("proof_reason"),
    when("proof_at", nullable=True),
    count("resends"),
    UniqueConstraint("result_id", "kind", "destination", name="uq_deliveries_result_id_kind_destination"),
)
Index("ix_deliveries_study_instance_uid", deliveries.c.study_instance_uid, deliveries.c.revision)
Index("ix_deliveries_state", deliveries.c.state, deliveries.c.updated_at)

# What a destination's lane remembers beyond one process, and what a person told it.
destination_states = Table(
    "destination_states",
    metadata,
    Column("name", Words, primary_key=True, nullable=False),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    words("paused_by"),
    count("failures"),
    when("resting_until", nullable=True),
    words("last_error"),
    when("last_failure_at", nullable=True),
    when("last_success_at", nullable=True),
    words("last_test"),
    when("last_test_at", nullable=True),
    when("updated_at"),
)

# Storage Commitment transactions that the node asked for (SCU), and those that it was asked for (SCP).
commitments = Table(
    "commitments",
    metadata,
    Column("transaction_uid", Words, primary_key=True, nullable=False),
    Column("delivery_id", Id, ForeignKey("deliveries.id", name="fk_commitments_delivery_id"), nullable=False),
    Column("destination", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("failure_reason", Integer, nullable=True),
    when("asked_at"),
    when("answered_at", nullable=True),
)
Index("ix_commitments_delivery_id", commitments.c.delivery_id)

commitment_requests = Table(
    "commitment_requests",
    metadata,
    Column("id", Id, primary_key=True),
    Column("transaction_uid", Words, nullable=False),
    Column("calling_ae_title", Words, nullable=False),
    words("called_ae_title"),
    words("peer_address"),
    Column("items", JSON, nullable=False),
    when("created_at"),
    when("reported_at", nullable=True),
    words("reason"),
    UniqueConstraint(
        "transaction_uid", "calling_ae_title", name="uq_commitment_requests_transaction_uid_calling_ae_title"
    ),
)

# What a sender says a study consists of: MPPS and Instance Availability Notification.
manifests = Table(
    "manifests",
    metadata,
    Column("id", Id, primary_key=True),
    Column("source", Text, nullable=False),
    Column("sop_instance_uid", Words, nullable=False),
    Column("study_instance_uid", Words, nullable=False),
    Column("state", Text, nullable=False),
    Column("instances", JSON, nullable=False),
    Column("attributes", JSON, nullable=False),
    words("calling_ae_title"),
    when("created_at"),
    when("updated_at"),
    UniqueConstraint(
        "source",
        "sop_instance_uid",
        "study_instance_uid",
        name="uq_manifests_source_sop_instance_uid_study_instance_uid",
    ),
)
Index("ix_manifests_study_instance_uid", manifests.c.study_instance_uid)

# What the RIS ordered: HL7 orders that came in, answers of its Modality Worklist.
orders = Table(
    "orders",
    metadata,
    Column("id", Id, primary_key=True),
    Column("source", Text, nullable=False),
    Column("order_key", Words, nullable=False),
    words("accession_number"),
    words("patient_id"),
    words("issuer_of_patient_id"),
    words("study_instance_uid"),
    words("placer_order_number"),
    words("filler_order_number"),
    words("requested_procedure_id"),
    words("priority"),
    words("priority_text"),
    words("status"),
    when("created_at"),
    when("updated_at"),
    UniqueConstraint("source", "order_key", name="uq_orders_source_order_key"),
)
Index("ix_orders_accession_number", orders.c.accession_number)
Index("ix_orders_study_instance_uid", orders.c.study_instance_uid)

# HL7 messages and their acknowledgements, word for word.
messages = Table(
    "messages",
    metadata,
    Column("id", Id, primary_key=True),
    Column("direction", Text, nullable=False),
    Column("peer", Words, nullable=False),
    words("control_id"),
    words("message_type"),
    Column("delivery_id", Id, ForeignKey("deliveries.id", name="fk_messages_delivery_id"), nullable=True),
    words("body"),
    words("acknowledgement"),
    words("code"),
    when("created_at"),
)
Index("ix_messages_peer", messages.c.peer, messages.c.control_id)
Index("ix_messages_delivery_id", messages.c.delivery_id)
Index("ix_messages_created_at", messages.c.created_at)

# Unified Procedure Steps that somebody created or acted on; a study's own are derived from it until then.
work_items = Table(
    "work_items",
    metadata,
    Column("id", Id, primary_key=True),
    Column("sop_instance_uid", Words, nullable=False),
    words("study_instance_uid"),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    words("transaction_uid"),
    words("performer"),
    Column("attributes", JSON, nullable=False),
    words("announced"),
    when("created_at"),
    when("updated_at"),
    UniqueConstraint("sop_instance_uid", name="uq_work_items_sop_instance_uid"),
)
Index("ix_work_items_study_instance_uid", work_items.c.study_instance_uid)
Index("ix_work_items_updated_at", work_items.c.updated_at)

ups_subscriptions = Table(
    "ups_subscriptions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("ae_title", Words, nullable=False),
    words("sop_instance_uid"),
    Column("keys", JSON, nullable=False),
    Column("deletion_lock", Boolean, nullable=False, server_default=text("false")),
    when("created_at"),
    UniqueConstraint("ae_title", "sop_instance_uid", name="uq_ups_subscriptions_ae_title_sop_instance_uid"),
)

# UPS events on their way: in order for each receiver, gone once it has them.
ups_events = Table(
    "ups_events",
    metadata,
    Column("id", Id, primary_key=True),
    Column("ae_title", Words, nullable=False),
    Column("event_type", Integer, nullable=False),
    Column("sop_instance_uid", Words, nullable=False),
    Column("information", JSON, nullable=False),
    when("created_at"),
)
Index("ix_ups_events_ae_title", ups_events.c.ae_title, ups_events.c.id)

# Back-catalogue runs, and the studies that each fetches.
backfills = Table(
    "backfills",
    metadata,
    Column("id", Id, primary_key=True),
    Column("source", Words, nullable=False),
    Column("query", JSON, nullable=False),
    Column("state", Text, nullable=False),
    words("reason"),
    when("created_at"),
    when("updated_at"),
)

backfill_studies = Table(
    "backfill_studies",
    metadata,
    Column(
        "backfill_id",
        Id,
        ForeignKey("backfills.id", name="fk_backfill_studies_backfill_id"),
        primary_key=True,
        nullable=False,
    ),
    Column("study_instance_uid", Words, primary_key=True, nullable=False),
    Column("state", Text, nullable=False),
    count("expected"),
    count("attempts"),
    words("reason"),
    when("updated_at"),
)
Index("ix_backfill_studies_study_instance_uid", backfill_studies.c.study_instance_uid)

# What readers say of results.
feedback = Table(
    "feedback",
    metadata,
    Column("id", Id, primary_key=True),
    Column("result_id", Id, ForeignKey("results.id", name="fk_feedback_result_id"), nullable=False),
    Column("study_instance_uid", Words, nullable=False),
    Column("revision", Integer, nullable=False),
    words("finding"),
    words("observation_uid"),
    Column("verdict", Text, nullable=False),
    words("reader"),
    words("comment"),
    words("sop_instance_uid"),
    when("created_at"),
)
Index("ix_feedback_study_instance_uid", feedback.c.study_instance_uid, feedback.c.id)

audit_events = Table(
    "audit_events",
    metadata,
    Column("id", Id, primary_key=True),
    when("created_at"),
    Column("event", Text, nullable=False),
    words("actor"),
    words("study_instance_uid"),
    Column("detail", JSON, nullable=False),
    Column("seal", BigInteger, nullable=True),  # the link of the chain that covers it, see audit_chain
)
Index("ix_audit_events_seal", audit_events.c.seal, audit_events.c.id)
Index("ix_audit_events_study_instance_uid", audit_events.c.study_instance_uid, audit_events.c.id)
Index("ix_audit_events_event", audit_events.c.event, audit_events.c.id)
Index("ix_audit_events_actor", audit_events.c.actor, audit_events.c.id)
Index("ix_audit_events_created_at", audit_events.c.created_at, audit_events.c.id)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Words, nullable=False),
    Column("role", Text, nullable=False),
    Column("secret_sha256", Text, nullable=False),
    when("created_at"),
    words("created_by"),
    when("last_used_at", nullable=True),
    when("expires_at", nullable=True),
    UniqueConstraint("name", name="uq_tokens_name"),
    UniqueConstraint("secret_sha256", name="uq_tokens_secret_sha256"),
)


def insert(dialect: str, table: Table) -> Any:
    """Return the INSERT of the dialect: both know ON CONFLICT, the generic one does not."""
    if dialect == "sqlite":
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # loaded where it is used: it takes 4 MB

    return postgresql.insert(table)
