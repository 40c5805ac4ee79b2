"""Who of all workers does an item of work? `Claims`: an item has one living holder at most.

A worker claims an item before it begins, and releases it after it has kept the result. A claim
counts while its worker lives (`search.workers`), and has no lease of its own. The claims of dead
workers are removed by whoever asks next for something in the same scope.

    claims = Claims(database, worker)
    claim = claims.take(trials_scope(study), item, {"label": "none"})     # None: another has it
    claims.live(trials_scope(study))                                      # all, of all workers
    claims.release(claim)

To take is one transaction under a lock of the scope: dead claims go, the living ones are looked at,
the new one is inserted. A worker that was paused for long may find that another has its item now:
to hold a claim avoids double work, but it does not protect a result. What is finished is protected
by the key of its row.

Conventions. A scope or item of more than 200 characters is known by its beginning and its sha256. A
transaction whose answer was lost may have been committed: what it may have taken is removed as soon
as the database answers, so the same call may be made again.
"""

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, and_, delete, insert, or_, select
from sqlalchemy.exc import SQLAlchemyError

from sensitivity.errors import SensitivityError
from sensitivity.search.database import Database
from sensitivity.search.dialects import database_now, lock_name
from sensitivity.search.tables import ClaimRow, Table
from sensitivity.search.workers import Worker, alive_of

LONGEST = 200
"""Characters of a scope and of an item, as the table has them."""
_CLAIMS = Table.metadata.tables[ClaimRow.__tablename__]


@dataclass(frozen=True, slots=True)
class Claim:
    """An item that a worker has taken.

    Attributes:
        scope, item: what it is.
        worker: the name of its holder.
        token: of this very claim; the same item taken again has another one.
        details: what its holder says of it.
    """

    scope: str
    item: str
    worker: str
    token: str
    details: Mapping[str, Any] = field(default_factory=dict)


Allowed = Callable[[Connection, Sequence[Claim]], bool]
"""Called in the transaction with the living claims of the scope: whether one more may be taken."""


def always(_connection: Connection, _claims: Sequence[Claim]) -> bool:
    """Every claim is allowed."""
    return True


def trials_scope(study: str) -> str:
    """The scope of the trials of a study."""
    return short_key(f"trials {study}")


def short_key(text: str) -> str:
    """A scope or an item in at most `LONGEST` characters; different texts stay different."""
    if len(text) <= LONGEST:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text[: LONGEST - len(digest) - 1]} {digest}"


class Claims:
    """What one worker takes, and sees that others have taken.

    Args:
        database: where; it may be written.
        worker: who takes.
    """

    def __init__(self, database: Database, worker: Worker) -> None:
        self.database, self.worker = database, worker

    def take(
        self,
        scope: str,
        item: str,
        details: Mapping[str, Any] | None = None,
        *,
        allowed: Allowed = always,
    ) -> Claim | None:
        """Take an item; None where a living worker has it, this one too, or it is not allowed.

        Args:
            scope: what the item is one of.
            item: its name there.
            details: values that JSON can hold, for others to read.
            allowed: has the last word.

        Raises:
            StoreError, OutputError: as `Database.writing`. Nothing is taken then.
            RuntimeError: this process is a fork of the worker's.
        """
        if not self.worker.is_own:
            raise RuntimeError(f"{self.worker.name} is the worker of another process: join here")
        claim = Claim(
            short_key(scope),
            short_key(item),
            self.worker.name,
            secrets.token_hex(16),
            details or {},
        )
        try:
            with self.database.writing() as session:
                connection = session.connection()
                lock_name(connection, f"claims {claim.scope}")
                self.worker.remove_unwanted(connection)
                living, _dead = _reap(connection, claim.scope)
                taken = any(own.item == claim.item for own in living)
                if taken or not allowed(connection, living):
                    return None
                _insert(connection, claim)
        except BaseException:  # Ctrl-C too: the transaction may have been committed
            self.worker.discard(claim.token)
            raise
        return claim

    def live(self, scope: str) -> list[Claim]:
        """The claims of living workers, this one's too, the first taken first."""
        with self.database.reading() as session:
            return living_claims(session.connection(), scope)

    def release(self, claim: Claim) -> None:
        """Let others have the item, unless somebody has taken it since.

        It raises nothing: a database that does not answer gets it later.
        """
        self._remove(_CLAIMS.c.token == claim.token, [claim.token])

    def release_all(self) -> None:
        """Release whatever this worker holds, as `release`."""
        self._remove(_CLAIMS.c.worker == self.worker.name, [])

    def reap(self, scope: str) -> list[Claim]:
        """Remove the claims of dead workers, and say which they were."""
        with self.database.writing() as session:
            connection = session.connection()
            lock_name(connection, f"claims {short_key(scope)}")
            return _reap(connection, short_key(scope))[1]

    def _remove(self, which: Any, tokens: list[str]) -> None:
        if not self.worker.is_own:
            return
        try:
            with self.database.writing() as session:
                session.connection().execute(delete(_CLAIMS).where(which))
        except (SensitivityError, SQLAlchemyError):
            for token in tokens:
                self.worker.discard(token)


def remove_claim(connection: Connection, scope: str, item: str) -> None:
    """Remove the claim on an item, whoever holds it, in a transaction of the caller's: the item is
    done.
    """
    connection.execute(
        delete(_CLAIMS).where(
            _CLAIMS.c.scope == short_key(scope), _CLAIMS.c.item == short_key(item)
        )
    )


def living_claims(connection: Connection, scope: str) -> list[Claim]:
    """The claims of living workers, the first taken first, in a transaction of the caller's."""
    return _divided(connection, short_key(scope))[0]


def holders(connection: Connection, scope: str) -> list[str]:
    """The worker of each claim of a scope, dead ones too."""
    query = select(_CLAIMS.c.worker).where(_CLAIMS.c.scope == short_key(scope))
    return list(connection.scalars(query.order_by(_CLAIMS.c.taken, _CLAIMS.c.item)))


def _reap(connection: Connection, scope: str) -> tuple[list[Claim], list[Claim]]:
    """Remove the claims of dead workers; the caller has the lock of the scope.

    Returns (those of the living, those that were removed).
    """
    living, dead = _divided(connection, scope)
    if dead:
        same = [and_(_CLAIMS.c.item == own.item, _CLAIMS.c.token == own.token) for own in dead]
        connection.execute(delete(_CLAIMS).where(_CLAIMS.c.scope == scope, or_(*same)))
    return living, dead


def _divided(connection: Connection, scope: str) -> tuple[list[Claim], list[Claim]]:
    """The claims of a scope: those of the living and those of the dead, the first taken first."""
    query = select(_CLAIMS).where(_CLAIMS.c.scope == scope)
    found = [
        Claim(row.scope, row.item, row.worker, row.token, json.loads(row.details))
        for row in connection.execute(query.order_by(_CLAIMS.c.taken, _CLAIMS.c.item))
    ]
    alive = alive_of(connection, {own.worker for own in found})
    living = [own for own in found if own.worker in alive]
    return living, [own for own in found if own.worker not in alive]


def _insert(connection: Connection, claim: Claim) -> None:
    connection.execute(
        insert(_CLAIMS).values(
            scope=claim.scope,
            item=claim.item,
            worker=claim.worker,
            token=claim.token,
            taken=database_now(connection),
            details=json.dumps(dict(claim.details)),
        )
    )
