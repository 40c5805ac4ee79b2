"""Schema 2: each row has a checksum, Optuna's trials have seals, and deaths are counted."""

import sqlalchemy as sa
from alembic import op

from sensitivity.search.seals import seal_all
from sensitivity.search.tables import checksum_of

revision, down_revision = "2", "1"

KEYS = {
    "sensitivity_scores": ("evaluation", "assignment"),
    "sensitivity_layers": ("calibration", "assignment"),
    "sensitivity_shape_times": ("machine", "compile_mode", "shape"),
    "sensitivity_attempts": ("evaluation", "assignment"),
}
OTHERS = {
    "sensitivity_scores": ("net", "mean", "score", "seconds", "created"),
    "sensitivity_layers": ("error",),
    "sensitivity_shape_times": ("described", "row", "created"),
    "sensitivity_attempts": ("deaths",),
}
"""{table: columns of its key, and further columns}; a checksum is over all of them, in order."""


def upgrade() -> None:
    """Make the tables, and give what is there its checksums."""
    op.create_table(
        "sensitivity_attempts",
        sa.Column("evaluation", sa.String(64), primary_key=True),
        sa.Column("assignment", sa.String(64), primary_key=True),
        sa.Column("deaths", sa.Integer, nullable=False),
        sa.Column("checksum", sa.String(64)),
        if_not_exists=True,
    )
    op.create_table(
        "sensitivity_seals",
        sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("checksums", sa.String, nullable=False),
        if_not_exists=True,
    )
    found = sa.inspect(op.get_bind())
    without = [
        table
        for table in KEYS
        if found.has_table(table)
        and "checksum" not in {column["name"] for column in found.get_columns(table)}
    ]
    for table in without:
        op.add_column(table, sa.Column("checksum", sa.String(64)))
        _fill(table)
    if without and found.has_table("studies") and found.has_table("trials"):
        seal_all(op.get_bind())


def _fill(table: str) -> None:
    """Give each row of a table its checksum."""
    columns = (*KEYS[table], *OTHERS[table])
    names = ", ".join(f'"{column}"' for column in columns)
    rows = op.get_bind().execute(sa.text(f"SELECT {names} FROM {table}")).all()
    which = " AND ".join(f"{key} = :{key}" for key in KEYS[table])
    update = sa.text(f"UPDATE {table} SET checksum = :checksum WHERE {which}")
    for row in rows:
        keys = dict(zip(KEYS[table], row, strict=False))
        op.get_bind().execute(update, {**keys, "checksum": checksum_of([table, *row])})
