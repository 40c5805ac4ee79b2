"""How good is the front that 10, 20 or 50 trials find, ours and others', against the ceiling?

Real scores of a trained model, fronts judged on prompts that chose nothing.

Every arm (`search_arms.py`) hears LPIPS of the study's search prompts. Its front at 10, 20 and 50
trials is generated again on fresh prompts, which neither the search nor the study has used, and the
hypervolume of those values counts, of seconds x typical LPIPS and of seconds x mean LPIPS. With
`--table` (a folder of `score_tables.py`) the ceiling's lists (`ceiling.py`) are scored on the same
fresh prompts, and hypervolumes are parts of the ceiling's with as many points as there were trials.
Beside them: the LPIPS of the best list at 1.2, 1.3 and 1.4 times the speed, in per cent above the
ceiling's. `quality_tables.py` computes and prints these; `playing.py` says what counts as a trial.

    python benchmarks/search_quality.py --out runs/quality --device cuda --processes 14 \
        --table runs/table-tiny-flux --time-limit-s 500
    python benchmarks/search_quality.py --out runs/quality --analyse

The second prints tables from what is there; its last line is JSON.

Time-limited and resumable: jobs that are not done are taken up by the next call with the same
--out. A long run writes its fronts on the way, so one that is cut off leaves what it had. `--model`
takes the study of another model of the same scenes (`other_models.py`); `--settings` and `--arms`
choose among what is compared; `--long 1000` runs the stock samplers on.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ceiling import front_of_table, lists_to_score
from playing import COUNTS, LONG_COUNTS, Played, fronts_at, marks_of, play
from quality_tables import analyse, show
from score_tables import make_world
from scored_model import SETTINGS, ScoredModel
from scored_rows import rows_in
from search_arms import ARMS, SEEDLESS, Heard, World, can_play
from table_files import Table, read_table

from sensitivity.core.environment import describe_environment
from sensitivity.search.candidates import Choice
from sensitivity.search.store import Store

LONG = ("tpe", "nsga2", "random")
CEILING = "ceiling"
Job = tuple[int, str, int, int]  # setting, arm, seed, trials


def jobs_of(args: argparse.Namespace) -> list[Job]:
    """What is run, the most telling first."""
    jobs: list[Job] = []
    for setting in args.settings:
        for arm in args.arms or ARMS:
            if arm.startswith("ours, ") and setting > 1 and not args.arms:
                continue
            many = 1 if arm in SEEDLESS else min(args.seeds, 4) if arm == "gp" else args.seeds
            jobs += [(setting, arm, seed, max(COUNTS)) for seed in range(many)]
    jobs.sort(key=lambda job: (job[2] >= 2, job[2], job[0]))
    first = [(setting, CEILING, 0, 0) for setting in args.settings] if args.table else []
    long = [(args.settings[0], arm, 100, args.long) for arm in LONG if args.long]
    return [*first, *long, *jobs]


def run_job(
    model: ScoredModel,
    world: World,
    job: Job,
    deadline: float,
    table: Table | None,
    save: Callable[[dict[str, Any]], None],
) -> dict[str, Any] | None:
    """Play an arm, or take the ceiling's lists, and generate the fronts on the fresh prompts.

    None if time is up. `save` is given what a long run has on the way. Points are [seconds,
    id of the list]; the scores are in the files.
    """
    _, name, seed, trials = job
    candidates = world.candidates
    by_hand = model.score(candidates.decode(candidates.rule_of_thumb), "held_out")
    result: dict[str, Any] = {
        "job": job,
        "bf16_s": candidates.bf16_s,
        "floor": model.floor,
        "by_hand": by_hand.id,
    }

    def points_of(choices: Sequence[Choice]) -> list[tuple[float, str]] | None:
        points = []
        for choice in choices:
            if time.monotonic() > deadline:
                return None
            found = model.score(candidates.decode(choice), "held_out")
            points.append((candidates.latency_s(choice), found.id))
        return points

    if name == CEILING:
        return None if table is None else _ceiling(table, result, points_of, candidates)

    def hear(choice: Choice) -> Heard:
        found = model.score(candidates.decode(choice), "search")
        return Heard(found.per_prompt, found.latent, model.floor)

    fronts: dict[str, list[tuple[float, str]]] = {}

    def found_of(played: Played) -> dict[str, Any] | None:
        for count in marks_of(played):
            if f"score@{count}" in fronts:
                continue
            for rule, front in fronts_at(played, count, world, name).items():
                points = points_of([played.choices[i] for i in front])
                if points is None:
                    return None
                fronts[f"{rule}@{count}"] = points
        return result | {
            "trials": len(played.ends),
            "ask_ms": _median_ms(played),
            "fronts": dict(fronts),
        }

    def on_the_way(played: Played) -> None:
        if len(played.ends) < trials and len(played.ends) in (max(COUNTS), *LONG_COUNTS):
            found = found_of(played)
            if found is not None:
                save(found | {"partial": True})

    played = play(
        name, world, seed=seed, trials=trials, hear=hear, deadline=deadline, after=on_the_way
    )
    return None if played is None else found_of(played)


def _ceiling(
    table: Table, result: dict[str, Any], points_of: Any, candidates: Any
) -> dict[str, Any] | None:
    """The ceiling's row: its best n lists for each n, and those at given speedups."""
    front = front_of_table(table)
    if points_of(lists_to_score(front, candidates)) is None:
        return None
    best = {n: points_of([front.choices[i] for i in chosen]) for n, chosen in front.best.items()}
    at = {str(speedup): points_of([front.choices[i]])[0] for speedup, i in front.at.items()}
    return result | {"best": best, "at": at, "lists": len(table.choices)}


def _median_ms(played: Played) -> float:
    ordered = sorted(played.ask_s or [0.0])
    return 1e3 * ordered[len(ordered) // 2]


def table_for(args: argparse.Namespace, world: World) -> Table | None:
    """The table of these groups and formats among `--table`."""
    for folder in args.table:
        table = read_table(folder)
        names = [group.name for group in table.world.candidates.groups]
        ours = [group.name for group in world.candidates.groups]
        if names == ours and table.world.candidates.formats == world.candidates.formats:
            return table
    return None


def world_of(model: ScoredModel, setting: int, args: argparse.Namespace, store: Store) -> World:
    """What arms may know; layer sensitivities are the table's where there is one."""
    world = make_world(model, setting, store, ())[0]
    table = table_for(args, world)
    if table is None or not table.world.errors:
        return make_world(model, setting, store)[0]
    return replace(world, errors=table.world.errors)


def work(rank: int, args: argparse.Namespace, counter: Any, deadline: float) -> None:
    """One process: jobs in turn until there are none or time is up."""
    torch.set_num_threads(1 if args.processes > 1 else torch.get_num_threads())
    devices = torch.cuda.device_count() if args.device == "cuda" else 0
    device = f"cuda:{rank % devices}" if devices else args.device
    model = ScoredModel(args.model, args.out, device=device, fresh=args.fresh, rank=rank)
    done = {tuple(row["job"]) for row in rows_in(args.out, "results") if not row.get("partial")}
    jobs, worlds = jobs_of(args), dict[int, World]()
    with (
        Store.open(args.out / f"calibration{rank}.db") as store,
        (args.out / f"results{rank}.jsonl").open("a", buffering=1) as file,
    ):

        def save(row: dict[str, Any]) -> None:
            file.write(json.dumps(row) + "\n")

        while time.monotonic() < deadline:
            with counter.get_lock():
                at, counter.value = counter.value, counter.value + 1
            if at >= len(jobs):
                break
            if jobs[at] in done:
                continue
            setting = jobs[at][0]
            if setting not in worlds:
                worlds[setting] = world_of(model, setting, args, store)
            world = worlds[setting]
            if jobs[at][1] != CEILING and not can_play(jobs[at][1], world):
                continue
            table = table_for(args, world) if jobs[at][1] == CEILING else None

            result = run_job(model, world, jobs[at], deadline, table, save)
            if result is not None:
                save(result)


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
    parser.add_argument(
        "--fresh",
        type=int,
        default=200,
        help="fresh prompts; with 200 the noise of typical LPIPS is below 0.005 of hypervolume",
    )
    parser.add_argument("--model", default="tiny-flux", help="a study of tiny-flux's scenes")
    parser.add_argument(
        "--table",
        type=Path,
        nargs="+",
        default=[],
        help="folders of score_tables.py of this model, one a setting",
    )
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
        context = multiprocessing.get_context("spawn")
        counter, deadline = context.Value("i", 0), time.monotonic() + args.time_limit_s
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
                "settings": vars(args)
                | {"out": str(args.out), "table": list(map(str, args.table))},
                "results": answer,
            },
            default=str,
        )
    )


if __name__ == "__main__":
    main()
