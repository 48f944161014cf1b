"""Monitoring: what was measured of each image, and where every chart stands.

Types are written out, not imported from `storage.monitoring_tables`: a revision stays what it was when it was released.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_TIME = sa.DateTime(timezone=True)


def _text(name: str) -> sa.Column:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _key(name: str) -> sa.Column:
    return sa.Column(name, sa.Text, primary_key=True, nullable=False)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "image_measures",
        sa.Column(
            "instance_id",
            _ID,
            sa.ForeignKey("instances.id", name="fk_image_measures_instance_id"),
            primary_key=True,
            nullable=False,
        ),
        sa.Column("created_at", _TIME, nullable=False),
        _text("exclusion"),
        sa.Column("age_years", sa.Float(53), nullable=True),
        _text("sex"),
        _text("view"),
        _text("modality"),
        sa.Column("mean_gray", sa.Float(53), nullable=True),
        sa.Column("contrast", sa.Float(53), nullable=True),
        sa.Column("upright", sa.Float(53), nullable=True),
    )
    op.create_index("ix_image_measures_created_at", "image_measures", ["created_at", "instance_id"])
    op.create_table(
        "monitors",
        _key("name"),
        _key("model_digest"),
        _key("finding"),
        _text("model"),
        _text("model_version"),
        _text("alarm"),
        sa.Column("alarm_at", _TIME, nullable=True),
        sa.Column("state", sa.JSON, nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
    )


def downgrade() -> None:
    """Take them away again; scores and results stay."""
    op.drop_table("monitors")
    op.drop_index("ix_image_measures_created_at", "image_measures")
    op.drop_table("image_measures")
