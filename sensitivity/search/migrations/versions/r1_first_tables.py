"""Schema 1: scores, layer sensitivities and times of shapes, without checksums."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "1", None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "sensitivity_meta",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("value", sa.String, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "sensitivity_scores",
        sa.Column("evaluation", sa.String(64), primary_key=True),
        sa.Column("assignment", sa.String(64), primary_key=True),
        sa.Column("net", sa.String(32), nullable=False),
        sa.Column("mean", sa.Float, nullable=False),
        sa.Column("score", sa.String, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "sensitivity_layers",
        sa.Column("calibration", sa.String(64), primary_key=True),
        sa.Column("assignment", sa.String(64), primary_key=True),
        sa.Column("error", sa.Float, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "sensitivity_shape_times",
        sa.Column("machine", sa.String(64), primary_key=True),
        sa.Column("compile_mode", sa.String(32), primary_key=True),
        sa.Column("shape", sa.String(128), primary_key=True),
        sa.Column("described", sa.String, nullable=False),
        sa.Column("row", sa.String, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        if_not_exists=True,
    )
