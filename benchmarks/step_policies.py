"""What does a search gain that chooses step policies with the skip-list, at equal seconds?

    python benchmarks/step_policies.py --model tiny-flux --out runs/steps --device cuda \
        [--trials 50] [--mode bf16] [--setting 0] [--seeds 2] [--time-limit-s 500]

Two searches with the same layer sensitivities and the same number of trials: one over skip-lists
whose every step is quantized ("plain"), one over skip-lists and policies. Baselines come on top, as
in a search. Trials of both are run in turns, so that a time limit cuts both alike.

Of each, the list is taken that its own trials together say is best at a saving: the least estimated
typical LPIPS among those that save at least so many predicted seconds. Savings are parts of what
the fastest plain list saves. These lists are then drawn for fresh prompts, which no search has
seen. The table has their typical LPIPS, and the ratio prompt by prompt with its 95 % interval.

Scores are kept in the folder: the same command goes on where it stopped. `rows.jsonl` has a row for
each seed and saving as it is known. The last line of stdout is JSON.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scored_model import ScoredModel

from sensitivity.core.step_policy import EdgeMode
from sensitivity.fidelity.typical import log_damages, typical
from sensitivity.search.calibration.by_step import calibrate_steps
from sensitivity.search.calibration.stored import calibrate
from sensitivity.search.candidates import Candidates, Choice, baselines
from sensitivity.search.estimate import estimate_all
from sensitivity.search.proposers import KnapsackProposer, Observation
from sensitivity.search.step_policies import EdgeSteps
from sensitivity.search.step_table import StepTable
from sensitivity.search.store import Store

PARTS = (0.2, 0.35, 0.5, 0.62, 0.75, 0.9)
"""Savings at which both are compared, as parts of the largest of a plain list."""
RESAMPLES = 2000
Array = NDArray[np.float64]


@dataclass
class Search:
    """One search of one seed.

    Attributes:
        candidates: what it chooses from.
        proposer: of its seed.
        history: what its proposer has heard.
        logs: logarithms of the LPIPS of each prompt, trial by trial.
    """

    candidates: Candidates
    proposer: KnapsackProposer
    history: list[Observation] = field(default_factory=list)
    logs: list[Sequence[float]] = field(default_factory=list)

    @property
    def proposals(self) -> int:
        """Trials so far, without baselines."""
        return max(0, len(self.history) - len(baselines(self.candidates)))

    def next_choice(self) -> Choice:
        """A baseline that is missing, or a proposal."""
        seen = {obs.choice for obs in self.history}
        missing = [choice for _, choice in baselines(self.candidates) if choice not in seen]
        if missing:
            return missing[0]
        return self.proposer.next_choice(self.history, seen, self.proposals)

    def run_trial(self, model: ScoredModel) -> None:
        """Score one more choice on the search prompts."""
        choice = self.next_choice()
        found = model.score(self.candidates.decode(choice), "search")
        known = found.latent and min(found.latent) > 0
        self.history.append(
            Observation(
                choice=choice,
                typical=typical(found.per_prompt, model.floor),
                latent=float(np.exp(np.log(found.latent).mean())) if known else None,
            )
        )
        self.logs.append(log_damages(found.per_prompt, model.floor).tolist())

    def best(self, saving_s: float) -> Choice | None:
        """The choice with the least estimated typical LPIPS among those that save so much."""
        found = estimate_all(self.proposer, self.history, self.logs)
        fast = [
            (float(value), obs.choice)
            for value, obs in zip(found, self.history, strict=True)
            if self.candidates.bf16_s - self.candidates.latency_s(obs.choice) >= saving_s * 0.9999
        ]
        return min(fast)[1] if fast else None


def ratio(ours: Array, theirs: Array) -> tuple[float, float, float]:
    """exp(mean) of the differences of logarithms, prompt by prompt, with a bootstrap's 95 %."""
    rng, apart = np.random.default_rng(0), ours - theirs
    means = apart[rng.integers(len(apart), size=(RESAMPLES, len(apart)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(np.exp(apart.mean())), float(np.exp(low)), float(np.exp(high))


def compare(
    model: ScoredModel, plain: Search, stepped: Search, *, most_s: float, deadline: float
) -> Iterator[dict[str, Any]]:
    """A row for each saving, until the time is over."""
    for part in PARTS:
        if time.monotonic() > deadline:
            return
        rows, values = {}, {}
        for name, search in (("plain", plain), ("stepped", stepped)):
            choice = search.best(part * most_s)
            if choice is None:
                break
            assignment = search.candidates.decode(choice)
            found = model.score(assignment, "held_out")
            values[name] = log_damages(found.per_prompt, model.floor)
            seconds = search.candidates.latency_s(choice)
            rows[name] = {
                "typical": typical(found.per_prompt, model.floor),
                "mean": float(np.mean(found.per_prompt)),
                "speedup": search.candidates.bf16_s / seconds,
                "policy": assignment.policy.key,
                "trials": search.proposals,
            }
        if len(rows) == 2:
            value, low, high = ratio(values["stepped"], values["plain"])
            yield {"part": part, **rows, "ratio": value, "ci95": [low, high]}


def mean_ratio(rows: Sequence[dict[str, Any]], part: float) -> float | None:
    """The geometric mean over seeds; None where there is no row."""
    found = [np.log(row["ratio"]) for row in rows if row["part"] == part]
    return float(np.exp(np.mean(found))) if found else None


def show(row: dict[str, Any]) -> None:
    """One line of the table."""
    plain, stepped = row["plain"], row["stepped"]
    print(
        f"{row['seed']:4} {row['part']:8.2f} {plain['speedup']:7.3f}x {plain['typical']:9.5f}"
        f" {stepped['speedup']:7.3f}x {stepped['typical']:9.5f}  {row['ratio']:5.2f}"
        f" [{row['ci95'][0]:.2f}, {row['ci95'][1]:.2f}]  {stepped['policy'] or 'plain'}",
        flush=True,
    )


def searches(
    model: ScoredModel, asked: argparse.Namespace, store: Store
) -> tuple[list[tuple[Search, Search]], float, StepTable | None]:
    """A plain search and one over policies of each seed, the largest saving of a plain list, and
    what each part of a run does of the damage.
    """
    plain = model.candidates(asked.setting)
    stepped = model.candidates(asked.setting, EdgeSteps(mode=EdgeMode(asked.mode)))
    errors = calibrate(model.evaluator, plain, store)
    table: StepTable | None = calibrate_steps(model.evaluator, stepped, store)
    pairs = [
        (
            Search(plain, KnapsackProposer(plain, seed=seed, errors=errors)),
            Search(stepped, KnapsackProposer(stepped, seed=seed, errors=errors, steps=table)),
        )
        for seed in range(asked.seeds)
    ]
    return pairs, pairs[0][0].proposer.knapsack.most_gain, table


def main() -> None:
    """Run both searches and compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny-flux")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--fresh", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--setting", type=int, default=0)
    parser.add_argument("--mode", choices=[mode.value for mode in EdgeMode], default="bf16")
    parser.add_argument("--time-limit-s", type=float, default=1e9)
    asked = parser.parse_args()
    deadline = time.monotonic() + asked.time_limit_s
    asked.out.mkdir(parents=True, exist_ok=True)
    model = ScoredModel(asked.model, asked.out, device=asked.device, fresh=asked.fresh, rank=0)
    with Store.open(asked.out / "calibration.db") as store:
        pairs, most_s, table = searches(model, asked, store)
    print(f"{asked.model} on {asked.device}, edge steps in {asked.mode}; {asked.fresh} prompts")
    print("seed  savings   plain   typical stepped   typical  ratio [95 %]  policy")
    rows: list[dict[str, Any]] = []
    with (asked.out / "rows.jsonl").open("a", encoding="utf-8", buffering=1) as file:
        for seed, (plain, stepped) in enumerate(pairs):
            while plain.proposals < asked.trials and time.monotonic() < deadline:
                plain.run_trial(model)
                stepped.run_trial(model)
            for found in compare(model, plain, stepped, most_s=most_s, deadline=deadline + 60):
                row = {"seed": seed, **found}
                rows.append(row)
                file.write(json.dumps({"model": asked.model, "mode": asked.mode} | row) + "\n")
                show(row)
    summary = {
        "model": asked.model,
        "device": asked.device,
        "mode": asked.mode,
        "setting": asked.setting,
        "trials": asked.trials,
        "fresh": asked.fresh,
        "parts": [] if table is None else [list(part) for part in table.parts],
        "shares": [] if table is None else list(next(iter(table.shares.values()))),
        "a16": {} if table is None else table.a16,
        "ratio_by_part": {str(part): mean_ratio(rows, part) for part in PARTS},
        "rows": rows,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
