"""How good is the front that 10, 20 or 50 trials find, ours and others'?

Real scores of a trained model, hypervolume on prompts that chose nothing.

Every arm (`search_arms.py`) sees the mean LPIPS of the study's search prompts. Its front at 10, 20
and 50 trials is generated again on fresh prompts, which neither the search nor the study has used,
and the hypervolume (seconds x LPIPS) of those values counts, relative to that of everything which
any arm at any budget found. A front is taken in two ways: by the scores (what a user of the sampler
sees) and by the estimates of `search.estimate`. A scored skip-list is a fact: it is kept in --out
and never scored again.

    python benchmarks/search_quality.py --out runs/quality --device cuda --processes 14 \\
        --time-limit-s 500
    python benchmarks/search_quality.py --out runs/quality --analyse

The second prints tables from what is there; its last line is JSON.

Time-limited and resumable: jobs that are not done are taken up by the next call with the same
--out. `--model` takes the study of another model of the same scenes (`other_models.py`);
`--settings` and `--arms` choose among what is compared.
"""

import argparse
import contextlib
import json
import multiprocessing
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from search_arms import ARMS, SEEDLESS, World

from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName
from sensitivity.search.calibration.stored import calibrate
from sensitivity.search.candidates import Candidates, Choice
from sensitivity.search.estimate import estimate_all
from sensitivity.search.front import hypervolume, pareto_front
from sensitivity.search.grouping import make_candidates
from sensitivity.search.proposers import KnapsackProposer
from sensitivity.search.store import Store
from sensitivity.spec.loading import resolve_spec
from sensitivity.workflows.prepare import Prepared, prepare
from sensitivity.workflows.requests import SearchRequest

COUNTS = (10, 20, 50)
LONG = ("tpe", "nsga2", "random")
NVFP4, MXFP8, FP8 = FormatName.NVFP4, FormatName.MXFP8, FormatName.FP8
SETTINGS = [
    ((NVFP4,), "group"),
    ((MXFP8, NVFP4), "group"),
    ((FP8, MXFP8, NVFP4), "group"),
    ((NVFP4,), "layer"),
    ((MXFP8, NVFP4), "layer"),
]
Job = tuple[int, str, int, int]  # setting, arm, seed, trials


def jobs_of(args: argparse.Namespace) -> list[Job]:
    """What is run, the most telling first."""
    jobs: list[Job] = []
    for setting in args.settings:
        for arm in args.arms or ARMS:
            ablation = arm.startswith("ours, ") and arm not in (
                "ours, no calibration",
                "ours, output calibration",
            )
            if ablation and setting > 1 and not args.arms:
                continue
            many = 1 if arm in SEEDLESS else min(args.seeds, 4) if arm == "gp" else args.seeds
            jobs += [(setting, arm, seed, max(COUNTS)) for seed in range(many)]
    jobs.sort(key=lambda job: (job[2] >= 2, job[2], job[0]))
    return [(args.settings[0], arm, 100, args.long) for arm in LONG if args.long] + jobs


def fresh_prompts(count: int, seed: int) -> list[str]:
    """Captions of held-out scenes that the study does not use."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "studies" / "tiny-flux" / "training"))
    from gates import held_out_scenes
    from scenes import captions

    spec = resolve_spec("tiny-flux")
    used = {*spec.prompts.search, *spec.prompts.held_out}
    return list(
        dict.fromkeys(
            text for text in captions(held_out_scenes(4 * count, seed)) if text not in used
        )
    )[:count]


class Landscape:
    """Scores of a model on the search prompts and on fresh ones, kept in a file."""

    def __init__(self, model: str, folder: Path, *, device: str, fresh: int, rank: int) -> None:
        spec = resolve_spec(model)
        prompts = spec.prompts.model_copy(
            update={"held_out": tuple(fresh_prompts(fresh, 20261121)), "held_out_seed": 50_000}
        )
        section = spec.search.model_copy(update={"batch_size": fresh, "chunk": None, "order": ()})
        self.spec = spec.model_copy(update={"prompts": prompts, "search": section})
        self.prepared: Prepared = prepare(
            self.spec,
            SearchRequest(formats=(NVFP4,), device=device, cache_folder=folder / f"cache{rank}"),
        )
        self.evaluator = self.prepared.evaluator
        self.known: dict[tuple[str, str], list[float]] = {}
        for path in sorted(folder.glob("scores*.jsonl")):
            for line in path.read_text().splitlines():
                with contextlib.suppress(ValueError):
                    row = json.loads(line)
                    self.known[row["key"], row["split"]] = row["per_prompt"]
        self._file = (folder / "scores.jsonl").open("a", buffering=1)

    def candidates(self, setting: int) -> Candidates:
        formats, granularity = SETTINGS[setting]
        return make_candidates(
            self.prepared.priced,
            self.spec,
            formats=formats,
            latency=self.prepared.latency,
            granularity=granularity,
            unfit=self.evaluator.switch.unfit(),
        )  # type: ignore[arg-type]

    def score(self, formats: dict[str, FormatName], split: Any) -> list[float]:
        quantized = {fqn: fmt for fqn, fmt in sorted(formats.items()) if fmt is not FormatName.BF16}
        key = json.dumps({fqn: str(fmt) for fqn, fmt in quantized.items()})
        if (key, split) not in self.known:
            self.known[key, split] = list(self.evaluator.score(quantized, split).per_prompt)
            self._file.write(
                json.dumps({"key": key, "split": split, "per_prompt": self.known[key, split]})
                + "\n"
            )
        return self.known[key, split]


def make_world(landscape: Landscape, setting: int, store: Store) -> World:
    """The arms' knowledge of a setting."""
    candidates = landscape.candidates(setting)
    published = next((candidates.canonical(choice) for _, choice in candidates.published), None)
    weights = {linear.fqn: linear.k * linear.n for linear in landscape.prepared.priced.linears}
    bits = {FormatName.BF16: 16.0, FP8: 8.0, MXFP8: 8.25, NVFP4: 4.5}
    saved = {
        (g, o): sum(weights[fqn] for fqn in group.members[o]) * (16 - bits[fmt]) / 8
        for g, group in enumerate(candidates.groups)
        for o, fmt in enumerate(candidates.formats)
        if o and group.members[o]
    }
    errors = {
        name: calibrate(landscape.evaluator, candidates, store, estimator=name)
        for name in ("gradient", "output")
    }
    return World(candidates, errors, saved, published)


def fronts(world: World, choices: list[Choice], table: list[list[float]]) -> dict[str, list[int]]:
    """Indices of the front by scores and by estimates."""
    seconds = [world.candidates.latency_s(choice) for choice in choices]
    means = [float(np.mean(row)) for row in table]
    proposer = KnapsackProposer(world.candidates, seed=0, errors=dict(world.errors["gradient"]))
    estimates = estimate_all(proposer, choices, table)
    return {
        "score": pareto_front(list(zip(seconds, means, strict=True))),
        "estimate": pareto_front(list(zip(seconds, map(float, estimates), strict=True))),
    }


def run_job(landscape: Landscape, world: World, job: Job, deadline: float) -> dict[str, Any] | None:
    """Play an arm, generate its fronts on the fresh prompts; None if time is up."""
    _, name, seed, trials = job
    arm, choices, table, asked = (
        ARMS[name](world, seed),
        list[Choice](),
        list[list[float]](),
        list[float](),
    )
    with contextlib.suppress(StopIteration):
        choice = next(arm)
        while True:
            table.append(landscape.score(world.candidates.decode(choice), "search"))
            choices.append(choice)
            if len(choices) == trials:
                break
            if time.monotonic() > deadline:
                return None
            begun = time.perf_counter()
            choice = arm.send(float(np.mean(table[-1])))
            asked.append(time.perf_counter() - begun)
    result: dict[str, Any] = {
        "job": job,
        "trials": len(choices),
        "ask_ms": 1e3 * float(np.median(asked or [0.0])),
        "fronts": {},
    }
    marks = [count for count in (*COUNTS, 100, 150, 200, 500, 1000) if count <= len(choices)] or [
        len(choices)
    ]
    for count in sorted({*marks, *(COUNTS if len(choices) < min(COUNTS) else ())}):
        some = min(count, len(choices))
        for rule, front in fronts(world, choices[:some], table[:some]).items():
            points = []
            for i in front:
                if time.monotonic() > deadline:
                    return None
                held = float(
                    np.mean(landscape.score(world.candidates.decode(choices[i]), "held_out"))
                )
                points.append((world.candidates.latency_s(choices[i]), held))
            result["fronts"][f"{rule}@{count}"] = points
    return result


def work(rank: int, args: argparse.Namespace, counter: Any, deadline: float) -> None:
    """One process: jobs in turn until there are none or time is up."""
    torch.set_num_threads(1 if args.processes > 1 else torch.get_num_threads())
    devices = torch.cuda.device_count() if args.device == "cuda" else 0
    landscape = Landscape(
        args.model,
        args.out,
        device=f"cuda:{rank % devices}" if devices else args.device,
        fresh=args.fresh,
        rank=rank,
    )
    jobs, done, worlds = (
        jobs_of(args),
        {tuple(row["job"]) for row in results_in(args.out)},
        dict[int, World](),
    )
    with (
        Store.open(args.out / f"calibration{rank}.db") as store,
        (args.out / "results.jsonl").open("a", buffering=1) as file,
    ):
        while time.monotonic() < deadline:
            with counter.get_lock():
                at, counter.value = counter.value, counter.value + 1
            if at >= len(jobs):
                break
            if jobs[at] in done:
                continue
            setting = jobs[at][0]
            if setting not in worlds:
                worlds[setting] = make_world(landscape, setting, store)
            result = run_job(landscape, worlds[setting], jobs[at], deadline)
            if result is not None:
                file.write(json.dumps(result) + "\n")


def results_in(folder: Path, kind: str = "results") -> Iterator[dict[str, Any]]:
    """Finished jobs."""
    for path in sorted(folder.glob(f"{kind}*.jsonl")):
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def analyse(folder: Path) -> dict[str, Any]:
    """Hypervolumes relative to everything found, mean and 95 % interval over seeds.

    `reference*.jsonl`: results of other arms, whose points count as found.
    """
    results = list({json.dumps(row["job"]): row for row in results_in(folder)}.values())
    answer: dict[str, Any] = {}
    everything: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in [*results, *results_in(folder, "reference")]:
        formats = "+".join(SETTINGS[row["job"][0]][0])
        everything[formats] += [
            tuple(point) for points in row["fronts"].values() for point in points
        ]
    for setting, (formats, granularity) in enumerate(SETTINGS):
        points = everything["+".join(formats)]
        if not any(row["job"][0] == setting for row in results):
            continue
        alls = [
            row for row in results if row["job"][0] == setting and row["job"][1] == "rule of thumb"
        ]
        corner = (
            max(seconds for seconds, _ in points),
            max((p[1] for row in alls for p in row["fronts"]["score@10"]), default=0.05) * 1.5,
        )
        best = hypervolume(points, reference=corner)
        values: dict[tuple[str, str], list[float]] = defaultdict(list)
        asked: dict[str, list[float]] = defaultdict(list)
        for row in results:
            if row["job"][0] == setting:
                name = row["job"][1] + (" (long)" if row["job"][3] > max(COUNTS) else "")
                asked[name].append(row["ask_ms"])
                for key, front in row["fronts"].items():
                    values[name, key].append(
                        hypervolume([tuple(p) for p in front], reference=corner) / best
                    )
        answer[f"{'+'.join(formats)} {granularity}"] = {
            f"{name}|{key}": {"mean": float(np.mean(v)), "ci95": interval(v), "seeds": len(v)}
            for (name, key), v in sorted(values.items())
        } | {
            "reference_points": len(set(points)),
            "corner": corner,
            "ask_ms": {name: float(np.median(v)) for name, v in asked.items()},
        }
    return answer


def interval(values: list[float]) -> list[float]:
    """95 % Student interval of the mean."""
    if len(values) < 2:
        return [values[0], values[0]]
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return [float(np.mean(values)) - half, float(np.mean(values)) + half]


def show(answer: dict[str, Any]) -> None:
    """The tables."""
    for setting, rows in answer.items():
        print(
            f"\n{setting}: hypervolume on fresh prompts relative to all {rows['reference_points']}"
            f" points found; corner {rows['corner']}"
        )
        print(
            f"{'arm':28}{'ask ms':>8}"
            + "".join(
                f"{rule + ' @' + str(n):>24}" for rule in ("estimate", "score") for n in COUNTS
            )
        )
        for name in dict.fromkeys(key.split("|")[0] for key in rows if "|" in key):
            cells = []
            for rule in ("estimate", "score"):
                for count in COUNTS:
                    cell = rows.get(f"{name}|{rule}@{count}")
                    cells.append(
                        f"{cell['mean']:.3f} [{cell['ci95'][0]:.3f}, {cell['ci95'][1]:.3f}]"
                        if cell
                        else ""
                    )
            print(
                f"{name:28}{rows['ask_ms'][name]:8.1f}" + "".join(f"{cell:>24}" for cell in cells)
            )
            longer = {
                key.split("@")[1]: rows[key]["mean"]
                for key in rows
                if key.startswith(f"{name}|score@") and int(key.split("@")[1]) > max(COUNTS)
            }
            if longer:
                print(
                    "   "
                    + ", ".join(
                        f"{n} trials {value:.3f}"
                        for n, value in sorted(longer.items(), key=lambda item: int(item[0]))
                    )
                )


def main() -> None:
    """Run what is missing, then say what is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of scores and results; resumable"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, default=1, help="spread over all CUDA devices")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--fresh", type=int, default=96, help="fresh prompts")
    parser.add_argument("--model", default="tiny-flux", help="a study of tiny-flux's scenes")
    parser.add_argument(
        "--settings",
        type=int,
        nargs="+",
        default=list(range(len(SETTINGS))),
        help=f"indices of {[('+'.join(f), g) for f, g in SETTINGS]}",
    )
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=[])
    parser.add_argument(
        "--long",
        type=int,
        default=0,
        help="one run of this many trials of TPE, NSGA-II and random in the first setting",
    )
    parser.add_argument("--time-limit-s", type=float, default=1e9)
    parser.add_argument("--analyse", action="store_true", help="run nothing")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.analyse:
        context, deadline = (
            multiprocessing.get_context("spawn"),
            time.monotonic() + args.time_limit_s,
        )
        counter = context.Value("i", 0)
        workers = [
            context.Process(target=work, args=(rank, args, counter, deadline))
            for rank in range(args.processes)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    answer, machine = analyse(args.out), describe_environment(args.device)
    print(
        f"machine {machine.get('device')}, torch {machine.get('torch')}; {args.fresh} fresh prompts"
    )
    show(answer)
    print(
        json.dumps(
            {
                "benchmark": "search_quality",
                "machine": machine,
                "settings": vars(args) | {"out": str(args.out)},
                "results": answer,
            },
            default=str,
        )
    )


if __name__ == "__main__":
    main()
