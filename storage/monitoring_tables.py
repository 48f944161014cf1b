"""Tables of monitoring: what was measured of each image, and where every chart stands."""

from sqlalchemy import JSON, Column, Float, ForeignKey, Index, Table, Text

from storage.tables import Id, Words, metadata, when, words

# One row for each image whose pixels were looked at.
image_measures = Table(
    "image_measures",
    metadata,
    Column(
        "instance_id",
        Id,
        ForeignKey("instances.id", name="fk_image_measures_instance_id"),
        primary_key=True,
        nullable=False,
    ),
    when("created_at"),
    words("exclusion"),  # why its pixels excluded it; empty: they did not
    Column("age_years", Float(53), nullable=True),
    words("sex"),
    words("view"),
    words("modality"),
    Column("mean_gray", Float(53), nullable=True),
    Column("contrast", Float(53), nullable=True),
    Column("upright", Float(53), nullable=True),
)
Index("ix_image_measures_created_at", image_measures.c.created_at, image_measures.c.instance_id)

# One row a chart. Empty `model_digest`: a chart of the node, not of a model.
monitors = Table(
    "monitors",
    metadata,
    Column("name", Words, primary_key=True, nullable=False),
    Column("model_digest", Text, primary_key=True, nullable=False),
    Column("finding", Text, primary_key=True, nullable=False),
    words("model"),
    words("model_version"),
    words("alarm"),  # empty: none
    when("alarm_at", nullable=True),
    Column("state", JSON, nullable=False),
    when("started_at"),
    when("updated_at"),
)
