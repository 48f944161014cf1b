"""The tables, as the newest migration leaves them. A test compares both, so neither can drift.

Here are those of studies, jobs, results and deliveries; the others are kept where they belong and known here too.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from storage.columns import Id, Instant, Words, count, insert, metadata, to_json, when, words
from storage.neighbour_tables import (
    backfill_studies,
    backfills,
    commitment_requests,
    commitments,
    destination_states,
    feedback,
    manifests,
    messages,
    orders,
    ups_events,
    ups_subscriptions,
    work_items,
)

__all__ = [
    "CONTEXT",
    "Id",
    "Instant",
    "Words",
    "audit_events",
    "backfill_studies",
    "backfills",
    "commitment_requests",
    "commitments",
    "count",
    "deliveries",
    "destination_states",
    "feedback",
    "insert",
    "instances",
    "jobs",
    "manifests",
    "messages",
    "metadata",
    "orders",
    "predictions",
    "result_objects",
    "results",
    "studies",
    "to_json",
    "tokens",
    "ups_events",
    "ups_subscriptions",
    "when",
    "words",
    "work_items",
]

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
# Whose turn it is: one look at what was read last.
READ = "read_at IS NOT NULL"
Index("ix_studies_read", studies.c.read_at.desc(), sqlite_where=text(READ), postgresql_where=text(READ))
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
