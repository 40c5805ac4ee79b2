"""How well does each estimator rank against leave-one-in LPIPS, at what cost, and on which scale
does LPIPS add up over groups?

    uv run python benchmarks/calibration_quality.py [--model tiny-flux] [--format nvfp4 ...]
        [--granularity layer] [--subsets 24] [--storage DB]

Truth: LPIPS of the study's held-out and search prompts with one group quantized, every group and
format. Each estimator is then run with several (states, prompts): seconds, cost in trial
equivalents, Spearman's rank correlation with the truth and how many of the ten worst they share,
for each format. Additivity: random subsets of the groups are scored, and (sum of LPIPS^p)^(1/p)
over their members is compared with what was seen, for p in 1, 1.5, 2, 3: Spearman, quartiles of
observed / predicted, and the standard deviation of its logarithm. The same with the estimators'
errors in place of leave-one-in LPIPS, scaled by one factor.

Truth and subsets cost hundreds of trials. They are kept in --storage (any study database of the
model serves), so that a stop loses nothing and a second run takes the estimators' time alone.
Seconds of what was in the storage are not counted anew: an estimator is timed in a database of its
own, always.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName, parse_formats
from sensitivity.errors import SensitivityError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.search.calibration.jobs import Errors, EstimatorName
from sensitivity.search.calibration.stored import calibrate, calibration_cost
from sensitivity.search.candidates import Candidates, Choice
from sensitivity.search.store import Store, assignment_key
from sensitivity.spec.loading import resolve_spec
from sensitivity.workflows.prepare import prepare
from sensitivity.workflows.requests import SearchRequest

SETTINGS = {
    EstimatorName.LOCAL: [(2, 4)],
    EstimatorName.GRADIENT: [(2, 4), (4, 4)],
    EstimatorName.OUTPUT: [(1, 4), (2, 4), (4, 4)],
    EstimatorName.PREVIEW: [(1, 2), (1, 4), (2, 4)],
}
POWERS = (1.0, 1.5, 2.0, 3.0)
TOP = 10
Array = NDArray[np.float64]


def score(evaluator: Evaluator, store: Store, candidates: Candidates, choice: Choice) -> float:
    """Mean LPIPS over all search and held-out prompts of a choice; from the store where it is
    known.
    """
    formats, values = candidates.decode(choice), []
    for split in ("search", "held_out"):
        evaluation, name = evaluator.evaluation_key(split), assignment_key(formats)
        known = store.find_score(evaluation, name)
        if known is None:
            begun = time.monotonic()
            known = evaluator.score(formats, split)
            store.save_score(evaluation, name, known, seconds=time.monotonic() - begun)
        values += known.per_prompt
    return float(np.mean(values))


def singles(candidates: Candidates) -> dict[tuple[int, int], Choice]:
    """{(group, option): the choice that quantizes it alone}."""
    none = candidates.none_quantized
    return {
        (g, option): (*none[:g], option, *none[g + 1 :])
        for g, group in enumerate(candidates.groups)
        for option in range(1, len(candidates.formats))
        if group.members[option]
    }


def subsets(candidates: Candidates, count: int) -> Iterator[Choice]:
    """Random choices; the share of groups that is quantized is random for each."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        share = rng.uniform(0.1, 1.0)
        options = rng.integers(1, len(candidates.formats), len(candidates.groups))
        yield candidates.canonical([int(o) if rng.random() < share else 0 for o in options])


def spearman(a: Sequence[float] | Array, b: Sequence[float] | Array) -> float:
    """Spearman's rank correlation; NaN for fewer than three."""
    return float(spearmanr(a, b)[0]) if len(a) > 2 else float("nan")


def overlap(a: Sequence[float], b: Sequence[float]) -> int:
    """How many of the ten largest of `a` are among the ten largest of `b`."""
    return len(set(np.argsort(a)[-TOP:].tolist()) & set(np.argsort(b)[-TOP:].tolist()))


def quality(errors: Errors, truth: Errors, candidates: Candidates) -> dict[str, dict[str, float]]:
    """{format: Spearman and top-10 overlap with the truth}."""
    found = {}
    for option, name in enumerate(candidates.formats):
        keys = [key for key in truth if key[1] == option]
        if keys:
            pair = [errors[key] for key in keys], [truth[key] for key in keys]
            found[str(name)] = {"spearman": spearman(*pair), "top10": overlap(*pair)}
    return found


def additivity(
    damage: Errors, observed: dict[Choice, float], *, power: float, scaled: bool
) -> dict[str, float]:
    """How (sum of damage^power)^(1 / power) over the members of each subset compares with its
    LPIPS. `scaled`: one factor puts the median right.
    """
    predicted = np.array(
        [
            sum(damage[g, o] ** power for g, o in enumerate(choice) if o) ** (1 / power)
            for choice in observed
        ]
    )
    seen = np.array(list(observed.values()))
    keep = (predicted > 0) & (seen > 0)
    ratio = seen[keep] / predicted[keep]
    ratio = ratio / np.median(ratio) if scaled else ratio
    low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
    rho = spearman(predicted[keep], seen[keep])
    return {
        "power": power,
        "spearman": rho,
        "q25": float(low),
        "q50": float(middle),
        "q75": float(high),
        "sd_log": float(np.log(ratio).std()),
    }


def measure(
    evaluator: Evaluator, candidates: Candidates, name: EstimatorName, states: int, prompts: int
) -> tuple[Errors, float, float]:
    """(errors, seconds, trial equivalents) of an estimator, nothing known before."""
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "fresh.db") as fresh:
        cost = calibration_cost(
            evaluator, candidates, fresh, estimator=name, states=states, prompts=prompts
        )
        begun = time.monotonic()
        errors = calibrate(
            evaluator, candidates, fresh, estimator=name, states=states, prompts=prompts
        )
        return errors, time.monotonic() - begun, cost.trials


def print_additivity(label: str, row: dict[str, float]) -> None:
    """One line of the second table."""
    print(
        f"{label:<26} {row['power']:5} {row['spearman']:9.3f}   {row['q25']:.2f} {row['q50']:.2f}"
        f" {row['q75']:.2f}   {row['sd_log']:.3f}",
        flush=True,
    )


def main() -> None:
    """Score what is missing, print the tables, then everything as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny-flux")
    parser.add_argument("--format", action="append")
    parser.add_argument("--granularity", default="layer", choices=["group", "layer"])
    parser.add_argument("--estimator", action="append", choices=[str(name) for name in SETTINGS])
    parser.add_argument("--subsets", type=int, default=24)
    parser.add_argument(
        "--storage", type=Path, default=Path("sensitivity-runs/calibration-quality.db")
    )
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    formats: tuple[FormatName, ...] = parse_formats(options.format or ["nvfp4"])
    machine = describe_environment(options.device)
    print(" ".join(f"{key}={value}" for key, value in machine.items()))
    with Store.open(options.storage) as store:
        prepared = prepare(
            resolve_spec(options.model),
            SearchRequest(formats=formats, granularity=options.granularity, device=options.device),
        )
        result = compare(
            prepared.evaluator,
            prepared.candidates,
            store,
            options.estimator or list(SETTINGS),
            options.subsets,
        )
    about = {
        "model": options.model,
        "granularity": options.granularity,
        "formats": [str(name) for name in formats],
    }
    print(json.dumps({"calibration_quality": about | result, "machine": dict(machine)}))


def compare(
    evaluator: Evaluator, candidates: Candidates, store: Store, names: Sequence[str], count: int
) -> dict[str, object]:
    """Both tables, printed as they are made."""
    truth: Errors = {}
    for done, (key, choice) in enumerate(singles(candidates).items(), 1):
        truth[key] = score(evaluator, store, candidates, choice)
        if done % 25 == 0:
            print(f"leave-one-in LPIPS: {done} scored", flush=True)
    observed = {
        choice: score(evaluator, store, candidates, choice)
        for choice in subsets(candidates, count)
        if any(choice)
    }
    rows, sums = [], []
    print(
        f"{'estimator':<10} {'states':>6} {'prompts':>7} {'seconds':>8} {'trials':>7}  Spearman,"
        " top-10 overlap with leave-one-in LPIPS"
    )
    for name in map(EstimatorName, names):
        for states, prompts in SETTINGS[name]:
            try:
                errors, seconds, trials = measure(evaluator, candidates, name, states, prompts)
            except SensitivityError as error:
                print(f"{name:<10} {states:6} {prompts:7}  {error}")
                continue
            good = quality(errors, truth, candidates)
            rows.append(
                {
                    "estimator": str(name),
                    "states": states,
                    "prompts": prompts,
                    "seconds": seconds,
                    "trials": trials,
                    "quality": good,
                }
            )
            shown = "  ".join(
                f"{fmt} {q['spearman']:.3f} {q['top10']:.0f}/10" for fmt, q in good.items()
            )
            print(
                f"{name:<10} {states:6} {prompts:7} {seconds:8.1f} {trials:7.2f}  {shown}",
                flush=True,
            )
            sums += [
                {
                    "of": f"{name} {states}x{prompts}",
                    **additivity(errors, observed, power=p, scaled=True),
                }
                for p in POWERS
            ]
    sums += [
        {"of": "leave-one-in LPIPS", **additivity(truth, observed, power=p, scaled=False)}
        for p in POWERS
    ]
    print(
        f"{'(sum x^p)^(1/p) of':<26} {'p':>5} {'Spearman':>9}   observed / predicted: quartiles, sd"
        f" of log; {len(observed)} random subsets"
    )
    for row in sums:
        print_additivity(str(row["of"]), row)
    return {"estimators": rows, "additivity": sums, "subsets": len(observed)}


if __name__ == "__main__":
    main()
