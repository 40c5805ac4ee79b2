"""How is an older database brought up to date? By the revisions in `versions`, in one transaction.

Alembic runs them (https://alembic.sqlalchemy.org), without its configuration file and its command.
Its version table is ours, `tables.VERSION`: the one of Optuna's tables, `alembic_version`, is left
to Optuna. A revision is called as the schema that it leads to.

    upgrade(connection, start="1")                   # runs revisions 2, 3, ... of `versions`

Revisions name tables and columns as they were then: the records of `search.tables` go on to change.
They may be run again over tables that are there already. A new database gets its tables from
`search.tables` at once, which a test compares with what the revisions make.

A new schema needs a file `versions/rN_what.py` with `revision = "N"`, SCHEMA and OLDER in
`search.schema`, and a database of the schema before in tests/data/databases.
"""

from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from sensitivity.search.tables import VERSION

FOLDER = Path(__file__).parent


def upgrade(connection: Connection, *, start: str | None) -> None:
    """Run all revisions after `start`, None for all of them, in the connection's transaction."""
    from alembic.migration import MigrationContext  # 0.1 s, and rarely needed
    from alembic.operations import Operations
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(FOLDER))

    def steps(heads: Any, _context: Any) -> Any:
        return script._upgrade_revs("head", heads)

    options = {"version_table": VERSION.name, "fn": steps}
    context = MigrationContext.configure(connection, opts=options)
    stamp(connection, start)
    with Operations.context(context):
        context.run_migrations()


def stamp(connection: Connection, revision: str | None) -> None:
    """Keep that the database is at a revision; None is before the first."""
    VERSION.create(connection, checkfirst=True)
    connection.execute(VERSION.delete())
    if revision is not None:
        connection.execute(VERSION.insert().values(version_num=revision))
