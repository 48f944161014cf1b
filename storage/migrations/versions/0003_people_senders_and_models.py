"""The web side: users and sessions, senders, model changes, tried files, and the worklist's indexes.

Types are written out, not imported from `storage.tables`: a revision stays what it was when it was released.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from storage.folding import searched

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_TIME = sa.DateTime(timezone=True)
_SEARCHED = ("patient_name", "patient_id", "accession_number")
_BATCH = 1000
_ON_LIST = sa.text("read_at IS NULL AND retired_at IS NULL AND origin <> 'backfill'")


def _text(name: str) -> sa.Column:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _required(name: str) -> sa.Column:
    return sa.Column(name, sa.Text, nullable=False)


def _count(name: str, kind: type[sa.Integer] = sa.Integer) -> sa.Column:
    return sa.Column(name, kind, nullable=False, server_default="0")


def _flag(name: str) -> sa.Column:
    return sa.Column(name, sa.Boolean, nullable=False, server_default=sa.text("false"))


def _time(name: str, *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, _TIME, nullable=nullable)


def _id() -> sa.Column:
    return sa.Column("id", _ID, primary_key=True)


def _refers(name: str, table: str, to: str) -> sa.Column:
    return sa.Column(name, _ID, sa.ForeignKey(f"{to}.id", name=f"fk_{table}_{name}"), nullable=False)


def upgrade() -> None:
    """Make the tables, columns and indexes."""
    op.add_column("studies", _time("retired_at", nullable=True))
    op.add_column("studies", _time("opened_at", nullable=True))
    op.add_column("studies", _text("opened_by"))
    op.add_column("studies", _text("verdict"))
    op.add_column("studies", _text("search"))
    _fill_search()
    indexes: list[tuple[str, list[Any]]] = [
        ("ix_studies_by_priority", [sa.text("priority_rank DESC"), "first_received_at", "study_instance_uid"]),
        ("ix_studies_by_waiting", ["first_received_at", "study_instance_uid"]),
        (
            "ix_studies_on_list",
            [
                sa.text("flagged DESC"),
                sa.text("status DESC"),
                "first_received_at",
                "modality",
                "ordered_rank",
                "verdict",
                "opened_at",
            ],
        ),
        ("ix_studies_by_name", ["search", "study_instance_uid", "flagged", "status"]),
        ("ix_studies_to_retire", ["last_received_at"]),
    ]
    for name, columns in indexes:
        op.create_index(name, "studies", columns, sqlite_where=_ON_LIST, postgresql_where=_ON_LIST)
    op.create_index("ix_studies_sender", "studies", ["calling_ae_title", "modality", "last_received_at"])
    op.create_index("ix_audit_events_event", "audit_events", ["event", "id"])
    op.create_index("ix_audit_events_actor", "audit_events", ["actor", "id"])
    op.create_index("ix_audit_events_created_at", "audit_events", ["created_at", "id"])
    op.create_index("ix_results_status", "results", ["status", "created_at"])
    op.create_index(
        "ix_predictions_model_digest", "predictions", ["model_digest", "finding", "created_at", "probability"]
    )
    op.add_column("tokens", _text("created_by"))
    op.add_column("tokens", _time("last_used_at", nullable=True))
    op.add_column("tokens", _time("expires_at", nullable=True))
    _people()
    _senders()
    _models_and_drops()


def _fill_search() -> None:
    """Make the studies that are here findable. Their words are put together as those of new ones, by the same rule:
    a column that two rules filled could not be searched."""
    connection, after = op.get_bind(), 0
    studies = sa.table("studies", *(sa.column(name) for name in ("id", "search", *_SEARCHED)))
    while True:
        rows = connection.execute(
            sa.select(studies.c.id, *(studies.c[name] for name in _SEARCHED))
            .where(studies.c.id > after)
            .order_by(studies.c.id)
            .limit(_BATCH)
        ).all()
        if not rows:
            return
        after = rows[-1].id
        connection.execute(
            sa.update(studies).where(studies.c.id == sa.bindparam("row")).values(search=sa.bindparam("words")),
            [{"row": row.id, "words": searched(*row[1:])} for row in rows],
        )


def _people() -> None:
    op.create_table(
        "users",
        _id(),
        _required("login"),
        _text("display_name"),
        _required("role"),
        _text("password_hash"),
        _flag("must_change"),
        _flag("disabled"),
        _text("issuer"),
        _text("subject"),
        _time("created_at"),
        _text("created_by"),
        _time("password_changed_at", nullable=True),
        _time("last_login_at", nullable=True),
        sa.UniqueConstraint("login", name="uq_users_login"),
    )
    op.create_index("ix_users_subject", "users", ["issuer", "subject"])
    op.create_table(
        "sessions",
        _id(),
        _required("secret_sha256"),
        _refers("user_id", "sessions", "users"),
        _required("csrf_token"),
        _text("address"),
        _time("created_at"),
        _time("last_seen_at"),
        _time("expires_at"),
        sa.UniqueConstraint("secret_sha256", name="uq_sessions_secret_sha256"),
    )
    op.create_index("ix_sessions_user_id", "sessions", ["user_id"])
    op.create_table(
        "login_attempts",
        _id(),
        _text("login"),
        _text("address"),
        sa.Column("succeeded", sa.Boolean, nullable=False),
        _time("created_at"),
    )
    op.create_index("ix_login_attempts_login", "login_attempts", ["login", "created_at"])
    op.create_index("ix_login_attempts_address", "login_attempts", ["address", "created_at"])


def _senders() -> None:
    op.create_table(
        "associations",
        _id(),
        _required("association_id"),
        _text("calling_ae_title"),
        _text("called_ae_title"),
        _text("peer_address"),
        _time("opened_at"),
        _time("closed_at"),
        _count("instances"),
        _count("refused"),
        _count("bytes", sa.BigInteger),
        _text("outcome"),
        _text("reason"),
    )
    op.create_index("ix_associations_closed_at", "associations", ["closed_at", "id"])
    op.create_index("ix_associations_association_id", "associations", ["association_id"])
    op.create_index("ix_associations_outcome", "associations", ["outcome", "closed_at", "id"])
    op.create_index("ix_associations_calling_ae_title", "associations", ["calling_ae_title", "closed_at", "id"])
    op.create_table(
        "rejected_callers",
        _id(),
        _text("calling_ae_title"),
        _text("called_ae_title"),
        _text("peer_address"),
        _text("reason"),
        _count("attempts"),
        _time("first_at"),
        _time("last_at"),
        sa.UniqueConstraint(
            "calling_ae_title", "called_ae_title", "peer_address", "reason", name="uq_rejected_callers_caller"
        ),
    )
    op.create_index("ix_rejected_callers_last_at", "rejected_callers", ["last_at"])
    op.create_table(
        "allowed_callers",
        _id(),
        _required("ae_title"),
        _required("host"),
        _text("created_by"),
        _time("created_at"),
        sa.UniqueConstraint("ae_title", "host", name="uq_allowed_callers_ae_title_host"),
    )
    op.create_table(
        "silences",
        _id(),
        _text("calling_ae_title"),
        _text("modality"),
        _time("last_at"),
        _time("noticed_at"),
        _time("muted_at", nullable=True),
        _text("muted_by"),
        sa.UniqueConstraint("calling_ae_title", "modality", name="uq_silences_calling_ae_title_modality"),
    )
    op.create_table(
        "heartbeats",
        _id(),
        _required("stage"),
        _required("process"),
        _time("started_at"),
        _time("seen_at"),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.UniqueConstraint("stage", "process", name="uq_heartbeats_stage_process"),
    )


def _models_and_drops() -> None:
    op.create_table(
        "model_changes",
        _id(),
        _required("name"),
        _required("state"),
        _text("version"),
        _text("digest"),
        _text("reason"),
        _text("changed_by"),
        _time("created_at"),
    )
    op.create_index("ix_model_changes_name", "model_changes", ["name", "id"])
    op.create_table(
        "drops",
        _id(),
        _required("key"),
        _text("owner"),
        _text("purpose"),
        sa.Column("options", sa.JSON, nullable=False),
        _time("created_at"),
        _time("expires_at"),
        sa.UniqueConstraint("key", name="uq_drops_key"),
    )
    op.create_index("ix_drops_expires_at", "drops", ["expires_at"])
    op.create_table(
        "drop_files",
        _id(),
        _refers("drop_id", "drop_files", "drops"),
        _text("name"),
        _text("location"),
        _count("size", sa.BigInteger),
        _required("state"),
        _text("reason"),
        sa.Column("result", sa.JSON, nullable=False),
        _time("created_at"),
        _time("updated_at"),
    )
    op.create_index("ix_drop_files_drop_id", "drop_files", ["drop_id", "id"])
    op.create_table(
        "heat_maps",
        _id(),
        _refers("instance_id", "heat_maps", "instances"),
        _required("model_digest"),
        _required("finding"),
        _required("state"),
        _text("location"),
        _text("reason"),
        _time("created_at"),
        sa.UniqueConstraint(
            "instance_id", "model_digest", "finding", name="uq_heat_maps_instance_id_model_digest_finding"
        ),
    )


def downgrade() -> None:
    """Take them away again."""
    for name in (
        "heat_maps",
        "drop_files",
        "drops",
        "model_changes",
        "heartbeats",
        "silences",
        "allowed_callers",
        "rejected_callers",
        "associations",
        "login_attempts",
        "sessions",
        "users",
    ):
        op.drop_table(name)
    for name in ("created_by", "last_used_at", "expires_at"):
        op.drop_column("tokens", name)
    op.drop_index("ix_predictions_model_digest", "predictions")
    op.drop_index("ix_results_status", "results")
    for name in ("event", "actor", "created_at"):
        op.drop_index(f"ix_audit_events_{name}", "audit_events")
    for name in ("by_priority", "by_waiting", "on_list", "by_name", "to_retire", "sender"):
        op.drop_index(f"ix_studies_{name}", "studies")
    for name in ("retired_at", "opened_at", "opened_by", "verdict", "search"):
        op.drop_column("studies", name)
