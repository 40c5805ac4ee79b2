"""How long does a proposal take at full size, and how large is the front?

FLUX.1-dev's and LTX-2's shapes, every Linear for itself.

Prices are those of the study (predicted, B200). Damages are random: lognormal with the spread that
layers of tiny-flux have in LPIPS when quantized alone (LOG.md: sd of the logarithm 1.4 in nvfp4,
0.7 in eight-bit formats), the same numbers with another error as calibration. So times and sizes
mean something here, quality does not.

    uv run python benchmarks/ask_time.py [--trials 50]
"""

import argparse
import json
import time

import numpy as np

from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName
from sensitivity.latency.devices import get_device
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.search.candidates import baselines
from sensitivity.search.front import pareto_front
from sensitivity.search.grouping import make_candidates
from sensitivity.search.proposers import KnapsackProposer, Observation
from sensitivity.shapes.run import run_shapes
from sensitivity.spec.loading import resolve_spec

SPREAD = {
    FormatName.NVFP4: (0.001, 1.4),
    FormatName.MXFP8: (0.0003, 0.7),
    FormatName.FP8: (0.0003, 0.7),
}


def play(model: str, formats: tuple[FormatName, ...], trials: int) -> dict[str, object]:
    """A search in an additive world of this model's shapes."""
    spec = resolve_spec(model)
    table = run_shapes(spec).table
    candidates = make_candidates(
        table,
        spec,
        formats=formats,
        latency=PredictedLatency(get_device("b200")),
        granularity="layer",
    )
    rng = np.random.default_rng(0)
    damage, errors = {}, {}
    for g, group in enumerate(candidates.groups):
        for option, fmt in enumerate(formats, 1):
            if group.members[option]:
                middle, spread = SPREAD[fmt]
                damage[g, option] = float(middle * rng.lognormal(0, spread))
                errors[g, option] = damage[g, option] * float(rng.lognormal(0, 0.9))
    proposer = KnapsackProposer(candidates, seed=0, errors=errors)
    history, asked = list[Observation](), list[float]()
    start = [choice for _, choice in baselines(candidates)]
    for trial in range(trials):
        begun = time.perf_counter()
        choice = (
            start[trial]
            if trial < len(start)
            else proposer.next_choice(history, {obs.choice for obs in history}, trial)
        )
        if trial >= len(start):
            asked.append(1e3 * (time.perf_counter() - begun))
        typical = sum(damage[g, o] for g, o in enumerate(choice) if o) * rng.lognormal(0, 0.15)
        history.append(Observation(choice=choice, typical=float(typical)))
    front = pareto_front([(candidates.latency_s(obs.choice), obs.typical) for obs in history])
    patterns = max(
        max(proposer.patterns.count(obs.choice).values()) for obs in history[len(start) :]
    )
    return {
        "model": model,
        "linears": len(candidates.fqns),
        "groups": len(candidates.groups),
        "formats": "+".join(formats),
        "ask_ms_median": float(np.median(asked)),
        "ask_ms_max": max(asked),
        "front": len(front),
        "trials": trials,
        "most_block_patterns": patterns,
    }


def main() -> None:
    """Print the table, then JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=50)
    trials, machine = parser.parse_args().trials, describe_environment("cpu")
    print(f"machine {machine.get('device')}")
    rows = []
    for model in ("flux1-dev", "ltx2"):
        for formats in (
            (FormatName.NVFP4,),
            (FormatName.MXFP8, FormatName.NVFP4),
            (FormatName.FP8, FormatName.MXFP8, FormatName.NVFP4),
        ):
            rows.append(play(model, formats, trials))
            print(
                " ".join(
                    f"{key} {value:.1f}" if isinstance(value, float) else f"{key} {value}"
                    for key, value in rows[-1].items()
                ),
                flush=True,
            )
    print(json.dumps({"benchmark": "ask_time", "machine": machine, "results": rows}))


if __name__ == "__main__":
    main()
