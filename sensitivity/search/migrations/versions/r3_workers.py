"""Schema 3: several processes work on a study; workers, what they have taken, what is finished."""

import sqlalchemy as sa
from alembic import op

from sensitivity.search.finished_rows import fill_finished

revision, down_revision = "3", "2"


def upgrade() -> None:
    """Make the tables, list what is finished, and remove the workers' rows of schema 2."""
    op.create_table(
        "sensitivity_workers",
        sa.Column("worker", sa.String(128), primary_key=True),
        sa.Column("seen", sa.Float, nullable=False),
        sa.Column("began", sa.Float, nullable=False),
        sa.Column("lease_s", sa.Float, nullable=False),
        sa.Column("activity", sa.String, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "sensitivity_claims",
        sa.Column("scope", sa.String(200), primary_key=True),
        sa.Column("item", sa.String(200), primary_key=True),
        sa.Column("worker", sa.String(128), nullable=False),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("taken", sa.Float, nullable=False),
        sa.Column("details", sa.String, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "sensitivity_trials",
        sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("choice", sa.String(64), primary_key=True),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("trial_id", sa.Integer, nullable=False),
        sa.UniqueConstraint("study_id", "place"),
        if_not_exists=True,
    )
    fill_finished(op.get_bind())
    op.execute("DELETE FROM sensitivity_meta WHERE key LIKE 'worker:%'")
