"""A whole search without a model: an evaluator that computes numbers from names, and its outcome.

outcome(database)               # searches or goes on, verifies, and says what was chosen
read_outcome(database)          # as `select` does: reads, proposes nothing
"""

import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch

from sensitivity.core.format_name import FormatName, quantized
from sensitivity.core.storage_url import Storage
from sensitivity.fidelity.score import PartialScore, Score, score_of
from sensitivity.fidelity.sharing import Alone, Sharing
from sensitivity.search import loop, priors
from sensitivity.search.candidates import Candidates, Group
from sensitivity.search.finished import Wanted, list_optuna_studies, pick_study
from sensitivity.search.front import Constraints
from sensitivity.search.held_out import HeldOutScores
from sensitivity.search.proposers import SamplerName
from sensitivity.search.settings import SearchSettings, study_name
from sensitivity.search.shortlist import Contest
from sensitivity.search.store import Store
from sensitivity.search.winner import choose_winner
from sensitivity.spec.study_spec import FidelitySection

MODEL = "fake"
PROMPTS = 6
CHUNK = 4
GROUPS = 4
BASELINES, BUDGET = 3, 3
CANDIDATES = Candidates(
    formats=(FormatName.BF16, FormatName.NVFP4),
    groups=tuple(
        Group(
            name=f"x[{g}]",
            fqns=(f"x.{g}",),
            members=((), (f"x.{g}",)),
            gains_s=(0.0, 0.1 + 0.03 * g),
        )
        for g in range(GROUPS)
    ),
    fixed={},
    refused={},
    fqns=tuple(f"x.{g}" for g in range(GROUPS)),
    rule_of_thumb=(1, 0) + (1,) * (GROUPS - 2),
    bf16_s=3.0,
)
CONSTRAINTS = Constraints(max_lpips=0.06)


def settings(sampler: str = "knapsack", *, budget: int = BUDGET) -> SearchSettings:
    """What the search is asked for."""
    return SearchSettings(
        formats=(FormatName.NVFP4,), target="b200", budget=budget, sampler=SamplerName(sampler)
    )


class FakeEvaluator:
    """Stands for `fidelity.evaluator.Evaluator`: a score is computed from the names of what is
    quantized.

    `scored` counts the scores, by split. With `chunk` it asks after so many prompts.
    """

    def __init__(self, *, chunk: int | None = None) -> None:
        prompts = SimpleNamespace(search=[f"p{i}" for i in range(PROMPTS)])
        self.spec = SimpleNamespace(
            name=MODEL,
            fidelity=FidelitySection(),
            search=SimpleNamespace(chunk=chunk),
            prompts=prompts,
        )
        self.scored = {"search": 0, "held_out": 0}
        self.switch = SimpleNamespace(set=lambda _formats: None)
        self.compiled, self.damage_floor = False, 0.0
        self.noise_floors: dict[str, float] = {}
        self.panel = None
        self.sharing: Sharing = Alone()
        self.media_generator = SimpleNamespace(counting=lambda _told: nullcontext())

    def evaluation_key(self, split: str) -> str:
        return hashlib.sha256(f"evaluation {split}".encode()).hexdigest()

    def interim_looks(self, _split: str) -> int:
        return 1

    def prompts(self, _split: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
        return tuple(self.spec.prompts.search), tuple(range(PROMPTS))

    def references(self, _split: str) -> None: ...

    def undrawn(self, _split: str) -> int:
        return 0

    def recover(self) -> None: ...

    def judged(self, score: Score) -> Score:
        return score

    def score(
        self,
        formats: Mapping[str, FormatName],
        split: str,
        *,
        after_batch: Any = None,  # noqa: ARG002 - the evaluator's signature
        keep_going: Any = None,
    ) -> Score | PartialScore:
        self.scored[split] += 1
        names = sorted(quantized(formats))
        values = tuple(
            sum(0.004 * (1 + int(name[-1])) * (1 + chance(split, name, i)) for name in names)
            for i in range(PROMPTS)
        )
        chunk = self.spec.search.chunk
        if chunk is not None and keep_going is not None and not keep_going(values[:chunk]):
            return PartialScore(net="tiny", per_prompt=values[:chunk], prompts=PROMPTS)
        return score_of(torch.tensor(values, dtype=torch.float64), net="tiny", noise_floor=None)


def chance(*what: object) -> float:
    """A pseudo-random number in [0, 1) that depends on these values only."""
    return int(hashlib.sha256(repr(what).encode()).hexdigest()[:8], 16) / 2**32


def calibrate(_evaluator: Any, candidates: Candidates, store: Store, **_more: Any) -> Any:
    """Stands for `search.calibration.stored.calibrate`: known errors are read, others computed."""
    known, errors = store.find_sensitivities("calibration"), {}
    for g, group in enumerate(candidates.groups):
        if group.name not in known:
            store.save_sensitivity("calibration", group.name, 0.01 * (1 + chance(group.name)))
        known = store.find_sensitivities("calibration")
        errors[g, 1] = known[group.name]
    return errors


def search(
    database: Storage, evaluator: FakeEvaluator, asked: SearchSettings, monkeypatch: Any
) -> list[Any]:
    """Search or go on, verify, and say what was tried and chosen."""
    monkeypatch.setattr(priors, "calibrate", calibrate)
    cost = SimpleNamespace(describe=lambda: "none", known=0, jobs=GROUPS, numbers=0, trials=1.0)
    monkeypatch.setattr(priors, "calibration_cost", lambda *_: cost)
    with Store.open(database) as store:
        result = loop.run_search(evaluator, CANDIDATES, store, asked)  # type: ignore[arg-type]
        return _outcome(result, evaluator, store, compute=True)


def select(
    database: Storage, evaluator: FakeEvaluator, asked: SearchSettings, *, verify: bool = False
) -> list[Any]:
    """Choose again as `workflows.select` does."""
    with Store.open(database) if verify else Store.read(database, makes_again=False) as store:
        kept = pick_study(
            list_optuna_studies(store, MODEL), Wanted(), model=MODEL, database=database
        )
        own = kept.settings or asked
        name = study_name(evaluator, CANDIDATES, own)  # type: ignore[arg-type]
        if name != kept.name:
            raise AssertionError(f"{name} is not {kept.name}: `select` refuses it with words")
        result = loop.read_search(store, kept.name, CANDIDATES)
        return [*_outcome(result, evaluator, store, compute=verify)[:-1], own.budget]


def _outcome(result: Any, evaluator: FakeEvaluator, store: Store, *, compute: bool) -> list[Any]:
    scores = HeldOutScores(
        evaluator=evaluator,  # type: ignore[arg-type]
        store=store,
        candidates=CANDIDATES,
        compute=compute,
    )
    contest = Contest.of(result.trials, CONSTRAINTS, bf16_s=CANDIDATES.bf16_s)
    winner = choose_winner(contest, score=scores)
    tried = [(t.index, t.choice, t.label, t.latency_s, t.score, t.estimate) for t in result.trials]
    stopped = [(t.index, t.choice, t.stop) for t in result.stopped]
    chosen = None if winner.chosen is None else winner.chosen.index
    return [tried, stopped, winner.first.index, chosen, dict(winner.held_out), BUDGET]
