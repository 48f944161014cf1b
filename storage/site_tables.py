"""Tables of the site's people, senders and models, and of what is tried out; `tables` has those of studies."""

from sqlalchemy import JSON, BigInteger, Boolean, Column, ForeignKey, Index, Table, Text, UniqueConstraint, text

from storage.tables import Id, Words, count, metadata, when, words

users = Table(
    "users",
    metadata,
    Column("id", Id, primary_key=True),
    Column("login", Words, nullable=False),  # folded to lower case
    words("display_name"),
    Column("role", Text, nullable=False),
    words("password_hash"),  # Argon2id; empty for who signs in elsewhere
    Column("must_change", Boolean, nullable=False, server_default=text("false")),
    Column("disabled", Boolean, nullable=False, server_default=text("false")),
    words("issuer"),  # of OpenID Connect; empty: a local user
    words("subject"),
    when("created_at"),
    words("created_by"),
    when("password_changed_at", nullable=True),
    when("last_login_at", nullable=True),
    UniqueConstraint("login", name="uq_users_login"),
)
Index("ix_users_subject", users.c.issuer, users.c.subject)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("secret_sha256", Text, nullable=False),
    Column("user_id", Id, ForeignKey("users.id", name="fk_sessions_user_id"), nullable=False),
    Column("csrf_token", Text, nullable=False),
    words("address"),
    when("created_at"),
    when("last_seen_at"),
    when("expires_at"),
    UniqueConstraint("secret_sha256", name="uq_sessions_secret_sha256"),
)
Index("ix_sessions_user_id", sessions.c.user_id)

# What the limit on log-ins counts; forgotten after a day.
login_attempts = Table(
    "login_attempts",
    metadata,
    Column("id", Id, primary_key=True),
    words("login"),
    words("address"),
    Column("succeeded", Boolean, nullable=False),
    when("created_at"),
)
Index("ix_login_attempts_login", login_attempts.c.login, login_attempts.c.created_at)
Index("ix_login_attempts_address", login_attempts.c.address, login_attempts.c.created_at)

# Every association that ended, as its acceptor saw it.
associations = Table(
    "associations",
    metadata,
    Column("id", Id, primary_key=True),
    Column("association_id", Words, nullable=False),
    words("calling_ae_title"),
    words("called_ae_title"),
    words("peer_address"),
    when("opened_at"),
    when("closed_at"),
    count("instances"),
    count("refused"),  # C-STOREs that were answered with a failure
    Column("bytes", BigInteger, nullable=False, server_default="0"),
    words("outcome"),
    words("reason"),
)
Index("ix_associations_closed_at", associations.c.closed_at, associations.c.id)
Index("ix_associations_association_id", associations.c.association_id)
Index("ix_associations_outcome", associations.c.outcome, associations.c.closed_at, associations.c.id)
Index(
    "ix_associations_calling_ae_title",
    associations.c.calling_ae_title,
    associations.c.closed_at,
    associations.c.id,
)

# Who was turned away, counted: one row for each caller, address and reason.
rejected_callers = Table(
    "rejected_callers",
    metadata,
    Column("id", Id, primary_key=True),
    words("calling_ae_title"),
    words("called_ae_title"),
    words("peer_address"),
    words("reason"),
    words("certificate"),  # that it showed last: SHA-256 fingerprint, with its common name; empty: none
    count("attempts"),
    when("first_at"),
    when("last_at"),
    UniqueConstraint(
        "calling_ae_title", "called_ae_title", "peer_address", "reason", name="uq_rejected_callers_caller"
    ),
)
Index("ix_rejected_callers_last_at", rejected_callers.c.last_at)

# Who may send besides the [[caller]] sections of node.toml.
allowed_callers = Table(
    "allowed_callers",
    metadata,
    Column("id", Id, primary_key=True),
    Column("ae_title", Words, nullable=False),
    Column("host", Words, nullable=False),
    words("certificate"),  # that it must show: SHA-256 fingerprint or a name in it; empty: any
    words("created_by"),
    when("created_at"),
    UniqueConstraint("ae_title", "host", name="uq_allowed_callers_ae_title_host"),
)

# Who sent before and is silent for longer than it should be; gone with its next image.
silences = Table(
    "silences",
    metadata,
    Column("id", Id, primary_key=True),
    words("calling_ae_title"),
    words("modality"),
    when("last_at"),  # of its last image
    when("noticed_at"),
    when("muted_at", nullable=True),
    words("muted_by"),
    UniqueConstraint("calling_ae_title", "modality", name="uq_silences_calling_ae_title_modality"),
)

# The last sign of life of every process of the node, and what it says of itself.
heartbeats = Table(
    "heartbeats",
    metadata,
    Column("id", Id, primary_key=True),
    Column("stage", Text, nullable=False),
    Column("process", Words, nullable=False),
    when("started_at"),
    when("seen_at"),
    Column("detail", JSON, nullable=False),
    UniqueConstraint("stage", "process", name="uq_heartbeats_stage_process"),
)

# What admins decided about model packages; the newest row of a name counts, node.toml where there is none.
model_changes = Table(
    "model_changes",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Words, nullable=False),
    Column("state", Text, nullable=False),
    words("version"),
    words("digest"),
    words("reason"),
    words("changed_by"),
    when("created_at"),
)
Index("ix_model_changes_name", model_changes.c.name, model_changes.c.id)

# Files that somebody tries on the drop page: gone once `expires_at` has passed, never part of a study.
drops = Table(
    "drops",
    metadata,
    Column("id", Id, primary_key=True),
    Column("key", Text, nullable=False),  # random: who knows it may ask for it
    words("owner"),
    words("purpose"),
    Column("options", JSON, nullable=False),
    when("created_at"),
    when("expires_at"),
    UniqueConstraint("key", name="uq_drops_key"),
)
Index("ix_drops_expires_at", drops.c.expires_at)

drop_files = Table(
    "drop_files",
    metadata,
    Column("id", Id, primary_key=True),
    Column("drop_id", Id, ForeignKey("drops.id", name="fk_drop_files_drop_id"), nullable=False),
    words("name"),
    words("location"),  # empty once the file is deleted
    Column("size", BigInteger, nullable=False, server_default="0"),
    Column("state", Text, nullable=False),
    words("reason"),
    Column("result", JSON, nullable=False),
    when("created_at"),
    when("updated_at"),
)
Index("ix_drop_files_drop_id", drop_files.c.drop_id, drop_files.c.id)

# Heat maps of images, profile research only; made when somebody asks for one.
heat_maps = Table(
    "heat_maps",
    metadata,
    Column("id", Id, primary_key=True),
    Column("instance_id", Id, ForeignKey("instances.id", name="fk_heat_maps_instance_id"), nullable=False),
    Column("model_digest", Text, nullable=False),
    Column("finding", Text, nullable=False),
    Column("state", Text, nullable=False),
    words("location"),
    words("reason"),
    when("created_at"),
    UniqueConstraint("instance_id", "model_digest", "finding", name="uq_heat_maps_instance_id_model_digest_finding"),
)
