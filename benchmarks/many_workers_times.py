"""What does a worker ask of the database and of the proposer, and how long does it take?

`measure` fills an empty database with the rows of N workers and their claims, and times one worker
beside them, for each N; medians of `REPEATS`. `Times.at` reads between the measured numbers.
"""

import json
import secrets
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
import optuna
from ask_time import SPREAD
from optuna.trial import TrialState, create_trial
from sqlalchemy import Connection, func, select

from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName
from sensitivity.core.storage_url import parse_storage
from sensitivity.latency.devices import get_device
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.search.candidates import Candidates, Choice
from sensitivity.search.claims import Claims, remove_claim, trials_scope
from sensitivity.search.dialects import database_now
from sensitivity.search.finished_rows import choice_digest
from sensitivity.search.grouping import make_candidates
from sensitivity.search.optuna_storage import open_storage, sealed
from sensitivity.search.proposers import KnapsackProposer, Observation, Proposal
from sensitivity.search.store import Store
from sensitivity.search.tables import ClaimRow, FinishedRow, WorkerRow
from sensitivity.search.workers import Worker
from sensitivity.shapes.run import run_shapes
from sensitivity.spec.loading import resolve_spec

REPEATS = 15
FINISHED = 200
"""Trials that are finished already."""
STUDY = "many-workers"


@dataclass(frozen=True)
class Times:
    """Seconds of each step, by the number of workers.

    Attributes:
        machine: where they were measured.
        settings: of the measurement.
        steps: {"read_s", "propose_s", "take_s", "finish_s", "beat_s": {workers: seconds}}.
    """

    machine: Mapping[str, str]
    settings: Mapping[str, Any]
    steps: Mapping[str, Mapping[int, float]]

    def at(self, step: str, workers: int) -> float:
        """Seconds of a step with so many workers, linear between the measured numbers."""
        known = sorted(self.steps[step].items())
        return float(np.interp(workers, [n for n, _ in known], [s for _, s in known]))

    def to_json(self) -> dict[str, Any]:
        """As an object of JSON."""
        return {"machine": dict(self.machine), "settings": self.settings, "steps": self.steps}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Times":
        """What `to_json` made."""
        steps = {
            step: {int(n): float(seconds) for n, seconds in rows.items()}
            for step, rows in data["steps"].items()
        }
        return cls(data["machine"], data["settings"], steps)


def measure(storage: str, numbers: Sequence[int]) -> Times:
    """The times with so many workers, in an empty database."""
    candidates, errors = _flux()
    steps: dict[str, dict[int, float]] = {}
    with Store.open(parse_storage(storage), shared=True) as store:
        database = _Filled(store, candidates)
        for number in numbers:
            database.fill(number)
            for step, seconds in {
                **database.times(),
                "propose_s": _proposing(candidates, errors, database.choices, number),
            }.items():
                steps.setdefault(step, {})[number] = seconds
            shown = ", ".join(f"{step} {1e3 * rows[number]:.1f} ms" for step, rows in steps.items())
            print(f"{number} workers: {shown}", flush=True)
        kind = store.engine.dialect.name
    settings = {
        "engine": kind,
        "repeats": REPEATS,
        "finished": FINISHED,
        "groups": len(candidates.groups),
        "model": "flux1-dev, every Linear for itself, nvfp4",
    }
    return Times(describe_environment("cpu"), settings, steps)


def _flux() -> tuple[Candidates, dict[tuple[int, int], float]]:
    """FLUX.1-dev's Linears, and errors that are random."""
    spec, formats = resolve_spec("flux1-dev"), (FormatName.NVFP4,)
    latency = PredictedLatency(get_device("b200"))
    candidates = make_candidates(
        run_shapes(spec).table, spec, formats=formats, latency=latency, granularity="layer"
    )
    rng = np.random.default_rng(0)
    middle, spread = SPREAD[FormatName.NVFP4]
    errors = {
        (g, 1): float(middle * rng.lognormal(0, spread))
        for g, group in enumerate(candidates.groups)
        if group.members[1]
    }
    return candidates, errors


class _Filled:
    """A database with a study of `FINISHED` trials, and with workers that do nothing."""

    def __init__(self, store: Store, candidates: Candidates) -> None:
        self.store, self.candidates = store, candidates
        self.worker = Worker.join(store, device="cpu", study=STUDY)
        self.claims = Claims(store, self.worker)
        self.storage = open_storage(store)
        self.study = optuna.create_study(
            storage=self.storage, study_name=STUDY, directions=["minimize", "minimize"]
        )
        self.rng = np.random.default_rng(1)
        self.choices = [self._choice() for _ in range(FINISHED)]
        for choice in self.choices:
            self._finish(choice)

    def fill(self, number: int) -> None:
        """Have `number` - 1 other workers, each with a claim."""
        with self.store.writing() as session:
            connection = session.connection()
            now = database_now(connection)
            names = set(connection.execute(select(WorkerRow.worker)).scalars())
            for place in range(number - 1):
                name = f"elsewhere:{place}:00000000"
                if name in names:
                    continue
                session.add(
                    WorkerRow(
                        worker=name,
                        seen=now,
                        began=now,
                        lease_s=86_400.0,
                        activity=self.worker.activity.model_dump_json(),
                    )
                )
                choice = self._choice()
                session.add(
                    ClaimRow(
                        scope=trials_scope(STUDY),
                        item=choice_digest(choice),
                        worker=name,
                        token=secrets.token_hex(16),
                        taken=now,
                        details=json.dumps({"choice": choice}),
                    )
                )

    def times(self) -> dict[str, float]:
        """Median seconds of each step."""
        found: dict[str, list[float]] = {}
        for _ in range(REPEATS):
            choice = self._choice()
            steps: tuple[tuple[str, Callable[[], Any]], ...] = (
                ("read_s", self._read),
                ("take_s", partial(self._take, choice)),
                ("finish_s", partial(self._finish, choice)),
                ("beat_s", self.worker.beat),
            )
            for step, call in steps:
                begun = time.perf_counter()
                call()
                found.setdefault(step, []).append(time.perf_counter() - begun)
        return {step: statistics.median(seconds) for step, seconds in found.items()}

    def _read(self) -> None:
        self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        self.claims.live(trials_scope(STUDY))

    def _take(self, choice: Choice) -> None:
        self.claims.take(trials_scope(STUDY), choice_digest(choice), {"choice": choice})

    def _finish(self, choice: Choice) -> None:
        now = datetime.now()
        template = create_trial(
            state=TrialState.COMPLETE,
            values=[0.1, 0.01],
            user_attrs={"choice": json.dumps(choice), "score": json.dumps({"mean": 0.1} | _SCORE)},
        )
        template.datetime_start = template.datetime_complete = now
        study_id = self.study._study_id

        def kept(connection: Connection, trial_id: int) -> dict[str, Any]:
            place = connection.execute(
                select(func.count()).where(FinishedRow.study_id == study_id)
            ).scalar_one()
            row = {"choice": choice_digest(choice), "place": place, "trial_id": trial_id}
            connection.execute(FinishedRow.__table__.insert().values(study_id=study_id, **row))  # type: ignore[attr-defined]
            remove_claim(connection, trials_scope(STUDY), choice_digest(choice))
            return {"index": place}

        sealed(self.storage).add_finished(study_id, template, and_then=kept)

    def _choice(self) -> Choice:
        draws = self.rng.random(len(self.candidates.groups)) < 0.8
        chosen = tuple(
            int(drawn and bool(group.members[1]))
            for drawn, group in zip(draws, self.candidates.groups, strict=True)
        )
        return self.candidates.canonical(chosen)


_SCORE: dict[str, Any] = {"per_prompt": [0.01 * place for place in range(32)]}


def _proposing(
    candidates: Candidates,
    errors: dict[tuple[int, int], float],
    tried: Sequence[Choice],
    number: int,
) -> float:
    """Median seconds of a proposal with `number` - 1 pending ones."""
    rng = np.random.default_rng(2)
    proposer = KnapsackProposer(candidates, seed=0, errors=errors)
    history = [Observation(choice=c, typical=float(rng.lognormal(-3, 0.5))) for c in tried]
    pending = [
        Proposal(
            choice=candidates.canonical(
                tuple(int(bool(g.members[1]) and rng.random() < 0.8) for g in candidates.groups)
            )
        )
        for _ in range(number - 1)
    ]
    seen = {*tried, *(other.choice for other in pending)}
    proposer.propose(history, seen, 0, pending)
    return _median(lambda index: proposer.propose(history, seen, index, pending), repeats=5)


def _median(call: Callable[[int], Any], *, repeats: int) -> float:
    seconds = []
    for index in range(repeats):
        begun = time.perf_counter()
        call(index)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)
