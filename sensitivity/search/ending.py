"""Which of a study's workers ends it, with a winner and a recipe? `Ending`: one of them, once.

When a study is complete all of its workers come to their end at about the same time. The first one
claims the end, and verifies and describes. The others are told its name and are done. If the one
that ends the study dies, its claim dies too: the same command, run again, ends the study.

    ending = Ending(store, worker)           # before the trials begin
    other = ending.take("tiny-flux-nvfp4-b200-1a2b3c4d")
    if other is None:                        # this worker ends it
        ...
        ending.note()                        # once there is a result
    ending.release()

That a study was ended is kept with it, with the number of its trials. A worker that was there when
that happened does not end it a second time; one that begins later does, from the scores that are
kept. Who has a database alone ends every study itself, and keeps nothing of it.
"""

import optuna

from sensitivity.search.claims import Claim, Claims, short_key
from sensitivity.search.dialects import database_now
from sensitivity.search.optuna_storage import open_storage
from sensitivity.search.patience import patient
from sensitivity.search.seals import count_states
from sensitivity.search.store import Store
from sensitivity.search.workers import Worker

ENDED = "ended"
"""User attribute of a study: {"at": seconds by the database's clock, "by": the worker, "trials":
how many were scored or stopped}."""


class Ending:
    """The end of studies for one worker, which begins now.

    Args:
        store: the database.
        worker: this process; None where the database may not be shared.
    """

    def __init__(self, store: Store, worker: Worker | None) -> None:
        self._store, self._claims = store, None
        if worker is not None and store.is_shared:
            self._claims = Claims(store, worker)
            self._began = patient(self._now)
        self._claim: Claim | None = None
        self._study: optuna.Study | None = None

    def take(self, study: str) -> str | None:
        """None if this worker is to end the study, else the name of the one that does, or did."""
        if self._claims is None:
            return None
        claims, scope = self._claims, short_key(f"end of {study}")
        self._claim = patient(lambda: claims.take(scope, "end"))
        if self._claim is None:
            return next((own.worker for own in patient(lambda: claims.live(scope))), "another one")
        self._study = optuna.load_study(study_name=study, storage=open_storage(self._store))
        ended = self._study.user_attrs.get(ENDED)
        if (
            isinstance(ended, dict)
            and ended.get("at", 0.0) > self._began
            and ended.get("trials") == self._trials()
        ):
            self.release()
            return str(ended.get("by"))
        return None

    def note(self) -> None:
        """Keep that the study has its end."""
        if self._claims is None or self._claim is None or self._study is None:
            return
        study, facts = (
            self._study,
            {
                "at": patient(self._now),
                "by": self._claims.worker.name,
                "trials": self._trials(),
            },
        )
        patient(lambda: study.set_user_attr(ENDED, facts))

    def release(self) -> None:
        """Let others end the study."""
        if self._claims is not None and self._claim is not None:
            self._claims.release(self._claim)
        self._claim = None

    def _now(self) -> float:
        with self._store.reading() as session:
            return database_now(session.connection())

    def _trials(self) -> int:
        if self._study is None:
            return 0
        with self._store.reading() as session:
            states = count_states(session.connection(), self._study._study_id)
        return states["COMPLETE"] + states["PRUNED"]
