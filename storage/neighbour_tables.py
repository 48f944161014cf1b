"""Tables of what others say and ask: destinations, senders, RIS, readers of the worklist; `tables` has the studies."""

from sqlalchemy import JSON, Boolean, Column, ForeignKey, Index, Integer, Table, Text, UniqueConstraint, text

from storage.columns import Id, Words, count, metadata, when, words

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
