"""What do thousands of skip-lists do to a trained model? Tables of real scores.

One skip-list a line: its choice, LPIPS of each search prompt and of each of N fresh prompts, and
the relative errors of the final latents (`table_files.py` reads them). `ceiling.py` fits damages to
a table, `landscapes.py` plays searches on what was fitted, `interval_coverage.py` checks intervals
on it.

    python benchmarks/score_tables.py --model tiny-flux --out runs/table-tiny-flux \
        --device cuda --processes 14 --fresh 160 --time-limit-s 300
    python benchmarks/score_tables.py --model tiny-flux --out runs/table-tiny-flux --ceiling ...

The lists, in this order: what people make by hand, then in turn random ones, those that quantize
most seconds for the least calibrated error (with errors blurred, so that they differ), and each
group alone. They depend on nothing but their number, so a call goes on where the last one ended.
With `--ceiling` the lists are those that `ceiling.py` names after a fit to the table so far; they
are kept in `ceiling.json`.

Formats and granularity are those of the first setting of `scored_model.py`, NVFP4 groups, or of
`--setting`. The last line is JSON.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ceiling import KEPT, front_of_table, kept_front, lists_to_score
from scored_model import SETTINGS, TABLE_SEED, ScoredModel, id_of
from scored_rows import rounded, rows_in
from search_arms import World
from table_files import described_world, read_table, world_from

from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName
from sensitivity.errors import UserError
from sensitivity.search.calibration.jobs import EstimatorName
from sensitivity.search.calibration.stored import calibrate
from sensitivity.search.candidates import Choice, baselines
from sensitivity.search.store import Store

WANTED = ("gradient", "output", "rollout")
"""Estimators whose errors a table holds, where the package has them."""
BITS = {
    FormatName.BF16: 16.0,
    FormatName.FP8: 8.0,
    FormatName.MXFP8: 8.25,
    FormatName.NVFP4: 4.5,
}


def make_world(
    model: ScoredModel, setting: int, store: Store, wanted: Sequence[str] = WANTED
) -> tuple[World, dict[str, float]]:
    """What the arms may know of a setting, and the seconds that each estimator took."""
    candidates, seconds = model.candidates(setting), dict[str, float]()
    published = next((candidates.canonical(choice) for _, choice in candidates.published), None)
    weights = {linear.fqn: linear.k * linear.n for linear in model.prepared.priced.linears}
    saved = {
        (g, o): sum(weights[fqn] for fqn in group.members[o]) * (16 - BITS[fmt]) / 8
        for g, group in enumerate(candidates.groups)
        for o, fmt in enumerate(candidates.formats)
        if o and group.members[o]
    }
    errors = {}
    for name in (estimator for estimator in EstimatorName if str(estimator) in wanted):
        begun = time.monotonic()
        try:
            errors[str(name)] = calibrate(model.evaluator, candidates, store, estimator=name)
        except UserError as error:
            print(f"no {name} errors: {error}", flush=True)
        seconds[str(name)] = time.monotonic() - begun
    return World(candidates, errors, saved, published), seconds


def nth_list(world: World, number: int) -> tuple[str, Choice]:
    """(kind, choice) of the list with this number, from 0."""
    candidates = world.candidates
    first = [(label, choice) for label, choice in baselines(candidates) if any(choice)]
    if number < len(first):
        return first[number]
    items = [
        (g, o)
        for g, group in enumerate(candidates.groups)
        for o in range(1, len(candidates.formats))
        if group.members[o]
    ]
    number -= len(first)
    rng = np.random.default_rng([20261129, number])
    turn, kind = divmod(number, 3)
    if kind == 2 and turn < len(items):
        group, option = items[turn]
        return "alone", tuple(option if g == group else 0 for g in range(len(candidates.groups)))
    if kind == 1:
        taken = np.flatnonzero(rng.random(len(items)) < rng.uniform(0.05, 0.95))
        return "random", _with(candidates.groups, [items[i] for i in rng.permutation(taken)])
    errors = next(iter(world.errors.values()), {})
    gains = np.array([candidates.groups[g].gains_s[o] for g, o in items])
    power, blur = rng.uniform(0.5, 2.0), rng.normal(0, rng.uniform(0.2, 0.8), len(items))
    logs = np.log([max(errors.get(item, 1.0), 1e-12) for item in items])
    worth = np.where(gains > 0, np.maximum(gains, 1e-12) / np.exp(power * logs + blur), 0.0)
    order = np.argsort(-worth)[: (gains > 0).sum()]
    return "prefix", _with(
        candidates.groups, [items[i] for i in order[: rng.integers(1, len(order) + 1)]]
    )


def _with(groups: Sequence[Any], items: Sequence[tuple[int, int]]) -> Choice:
    """The choice that takes these (group, option) pairs; of two of one group the first."""
    taken: dict[int, int] = {}
    for group, option in items:
        taken.setdefault(group, option)
    return tuple(taken.get(g, 0) for g in range(len(groups)))


def describe(args: argparse.Namespace) -> None:
    """Write `world.json`, in a process that ends before the others begin."""
    torch.set_num_threads(args.threads)
    model = _model(args, 0)
    with Store.open(args.out / "calibration.db") as store:
        world, seconds = make_world(model, args.setting, store, args.estimators)
    described = described_world(world) | {
        "model": args.model,
        "setting": args.setting,
        "fresh": args.fresh,
        "search": len(model.spec.prompts.search),
        "floor": model.floor,
        "calibration_s": seconds,
        "machine": describe_environment(args.device),
    }
    partial = args.out / "world.json.partial"
    partial.write_text(json.dumps(described))
    partial.rename(args.out / "world.json")


def _model(args: argparse.Namespace, rank: int) -> ScoredModel:
    devices = torch.cuda.device_count() if args.device == "cuda" else 0
    device = f"cuda:{rank % devices}" if devices else args.device
    return ScoredModel(
        args.model,
        args.out,
        device=device,
        fresh=args.fresh,
        rank=rank,
        seed=TABLE_SEED,
        keep=False,
    )


def work(
    rank: int, args: argparse.Namespace, counter: Any, deadline: float, wanted: list[Choice]
) -> None:
    """One process: lists in turn until time is up, or `wanted` ends."""
    torch.set_num_threads(args.threads)
    described = json.loads((args.out / "world.json").read_text())
    world, done = world_from(described), {tuple(row["choice"]) for row in rows_in(args.out, "rows")}
    model = _model(args, rank)
    with (args.out / f"rows-{rank:02}.jsonl").open("a", buffering=1) as file:
        while time.monotonic() < deadline:
            with counter.get_lock():
                number, counter.value = counter.value, counter.value + 1
            if number >= (len(wanted) if wanted else args.lists):
                break
            kind, choice = ("ceiling", wanted[number]) if wanted else nth_list(world, number)
            if choice in done or not any(choice):
                continue
            begun = time.monotonic()
            formats = world.candidates.decode(choice)
            search, fresh = model.score(formats, "search"), model.score(formats, "held_out")
            row = {
                "id": id_of({f: fmt for f, fmt in formats.items() if fmt != FormatName.BF16}),
                "kind": kind,
                "choice": choice,
                "search": search.per_prompt,
                "fresh": fresh.per_prompt,
                "latent": (*search.latent, *fresh.latent),
                "seconds": rounded([time.monotonic() - begun])[0],
            }
            file.write(json.dumps(row) + "\n")


def main() -> None:
    """Score what is missing, say what is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the table; resumable")
    parser.add_argument("--model", default="tiny-flux", help="a study of tiny-flux's scenes")
    parser.add_argument("--setting", type=int, default=0, help=f"index of {SETTINGS}")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, default=1, help="spread over all CUDA devices")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in each process")
    parser.add_argument("--fresh", type=int, default=160, help="fresh prompts")
    parser.add_argument("--estimators", nargs="*", default=WANTED, help="whose errors it holds")
    parser.add_argument("--lists", type=int, default=10**9, help="the most lists")
    parser.add_argument("--time-limit-s", type=float, default=1e9)
    parser.add_argument("--ceiling", action="store_true", help="score the lists of the ceiling")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    deadline, wanted = time.monotonic() + args.time_limit_s, list[Choice]()
    if not (args.out / "world.json").exists():
        _run(context, [(describe, (args,))])
    if args.ceiling:
        table = read_table(args.out)
        front = kept_front(args.out / KEPT, lambda: front_of_table(table))
        wanted = lists_to_score(front, table.world.candidates)
    counter = context.Value("i", 0)
    _run(
        context,
        [(work, (rank, args, counter, deadline, wanted)) for rank in range(args.processes)],
    )
    table = read_table(args.out)
    counts = {kind: table.kinds.count(kind) for kind in dict.fromkeys(table.kinds)}
    print(f"{table.model}: {len(table.choices)} lists x {table.fresh.shape[1]} fresh prompts")
    summary = {"model": table.model, "lists": counts, "machine": table.machine}
    print(json.dumps({"benchmark": "score_tables", **summary}, default=str))


def _run(context: Any, jobs: list[tuple[Any, tuple[Any, ...]]]) -> None:
    """Processes, all at once, and wait for them."""
    processes = [context.Process(target=target, args=arguments) for target, arguments in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if all(process.exitcode for process in processes):
        raise SystemExit(f"all {len(processes)} processes failed; their messages are above")


if __name__ == "__main__":
    main()
