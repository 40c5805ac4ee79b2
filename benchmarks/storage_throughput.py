"""How long does it take to join a long study, and how many trials a second does a database take?

Two parts, on one storage: an SQLite file, or an empty PostgreSQL database.

- `join`: a study of `--trials` trials over `--layers` layers is written, and then opened by a new
  process as a search does: tables, seals, every trial through its record.
- `throughput`: `--processes` workers add `--each` trials each to one study, as a search does but
  without a picture: read what is new, claim a skip-list, finish it. Every trial must be there once.

    python benchmarks/storage_throughput.py --storage runs/throughput.db
    python benchmarks/storage_throughput.py --storage postgresql://user@host/empty

The engine's own machine counts: a server on another host adds its network to every transaction.
"""

import argparse
import json
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName
from sensitivity.core.storage_url import Storage, parse_storage
from sensitivity.fidelity.score import Score
from sensitivity.search.candidates import Candidates, Choice, Group
from sensitivity.search.claims import Claims
from sensitivity.search.finished_rows import choice_digest
from sensitivity.search.log import open_log, read_log
from sensitivity.search.store import Store
from sensitivity.search.trials import ScoredTrial
from sensitivity.search.workers import Worker

PROMPTS = 10
"""Of a score, as searches have by default."""
SETTINGS = {"model": "fake", "formats": ["nvfp4"], "target": "b200", "budget": 100_000}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both parts; the last line is JSON."""
    args = _arguments(argv)
    storage = parse_storage(args.storage)
    result: dict[str, Any] = {
        "environment": describe_environment("cpu"),
        "engine": "SQLite" if hasattr(storage, "exists") else "PostgreSQL",
        "layers": args.layers,
        "join": _join(storage, args.trials, args.layers),
        "throughput": _throughput(storage, args.processes, args.each, args.layers),
    }
    join, throughput = result["join"], result["throughput"]
    print(f"{result['engine']}, {result['environment']}")
    print(
        f"joining {join['trials']} trials x {args.layers} layers: {join['seconds']:.2f} s"
        f" ({join['cpu_seconds']:.2f} s of this CPU)"
    )
    print(
        f"{args.processes} processes x {args.each} trials: {throughput['trials_a_second']:.0f} a"
        f" second; finishing one takes {throughput['finish_ms']['median']:.1f} ms (median),"
        f" {throughput['finish_ms']['worst']:.0f} ms at worst; lost {throughput['lost']}, double"
        f" {throughput['double']}"
    )
    print(json.dumps(result))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--storage", required=True, help="a new file, or an empty database")
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--layers", type=int, default=1400)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--each", type=int, default=200)
    return parser.parse_args(argv)


def _candidates(layers: int) -> Candidates:
    return Candidates(
        formats=(FormatName.BF16, FormatName.NVFP4),
        groups=tuple(
            Group(
                name=f"x[{g}]",
                fqns=(f"x.{g}",),
                members=((), (f"x.{g}",)),
                gains_s=(0.0, 1e-4),
            )
            for g in range(layers)
        ),
        fixed={},
        refused={},
        fqns=tuple(f"x.{g}" for g in range(layers)),
        rule_of_thumb=(1,) * layers,
        bf16_s=3.0,
    )


def _trial(candidates: Candidates, choice: Choice, chance: random.Random) -> ScoredTrial:
    """A trial with a score of plausible size."""
    values = tuple(chance.uniform(0.01, 0.1) for _ in range(PROMPTS))
    score = Score(net="tiny", mean=statistics.fmean(values), per_prompt=values, noise_floor=None)
    latency_s = candidates.latency_s(choice)
    return ScoredTrial(
        index=0, choice=choice, label="", latency_s=latency_s, score=score, seconds=10.0
    )


def _choices(layers: int, chance: random.Random, count: int) -> list[Choice]:
    return [tuple(chance.choices((0, 1), k=layers)) for _ in range(count)]


def _join(storage: Storage, trials: int, layers: int) -> dict[str, Any]:
    """Write a study, and time how another process opens it to go on with it, and to read it."""
    candidates, chance = _candidates(layers), random.Random(0)
    with Store.open(storage, shared=True) as store:
        log = open_log(store, "join", candidates, SETTINGS)
        began = time.perf_counter()
        for choice in _choices(layers, chance, trials):
            log.finish(_trial(candidates, choice, chance))
        written_s = time.perf_counter() - began
    seconds, cpu_s = {}, {}
    for what, opened in (("search", _open_to_search), ("read", _open_to_read)):
        began, cpu_began = time.perf_counter(), time.process_time()
        found = opened(storage, candidates)
        seconds[what] = time.perf_counter() - began
        cpu_s[what] = time.process_time() - cpu_began
        if found != trials:
            raise AssertionError(f"found {found} trials; expected {trials}")
    return {
        "trials": trials,
        "seconds": seconds["search"],
        "cpu_seconds": cpu_s["search"],
        "reading_seconds": seconds["read"],
        "reading_cpu_seconds": cpu_s["read"],
        "written_ms_each": 1000 * written_s / trials,
    }


def _open_to_search(storage: Storage, candidates: Candidates) -> int:
    with Store.open(storage, shared=True) as store:
        return len(open_log(store, "join", candidates, SETTINGS).history())


def _open_to_read(storage: Storage, candidates: Candidates) -> int:
    with Store.read(storage) as store:
        return len(read_log(store, "join", candidates).history())


def _throughput(storage: Storage, processes: int, each: int, layers: int) -> dict[str, Any]:
    """All workers at once; the time is from the first claim to the last finished trial."""
    candidates = _candidates(layers)
    with Store.open(storage, shared=True) as store:
        open_log(store, "throughput", candidates, SETTINGS)
    context = multiprocessing.get_context("spawn")
    begin, times = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(
            target=_work,
            args=(str(getattr(storage, "secret", storage)), n, each, layers, begin, times),
        )
        for n in range(processes)
    ]
    for worker in workers:
        worker.start()
    rows = [times.get() for _ in workers]
    for worker in workers:
        worker.join()
    with Store.read(storage) as store:
        found = [trial.choice for trial in read_log(store, "throughput", candidates).history()]
    seconds = max(row["ended"] for row in rows) - min(row["began"] for row in rows)
    finish_ms = sorted(1000 * s for row in rows for s in row["finish_s"])
    return {
        "processes": processes,
        "each": each,
        "seconds": seconds,
        "trials_a_second": len(found) / seconds,
        "finish_ms": {"median": statistics.median(finish_ms), "worst": finish_ms[-1]},
        "cpu_ms_a_trial": 1000 * sum(row["cpu_s"] for row in rows) / (processes * each),
        "lost": processes * each - len(set(found)),
        "double": len(found) - len(set(found)),
    }


def _work(storage: str, number: int, each: int, layers: int, begin: Any, times: Any) -> None:
    candidates, chance = _candidates(layers), random.Random(f"worker {number}")
    choices = _choices(layers, chance, each)
    with Store.open(parse_storage(storage), shared=True) as store, Worker.join(store) as worker:
        log = open_log(store, "throughput", candidates, SETTINGS, worker=worker)
        claims = Claims(store, worker)
        begin.wait()
        began, cpu_began, finish_s = time.time(), time.process_time(), []
        for choice in choices:
            log.read_new()
            if claims.take(log.scope, choice_digest(choice)) is None:
                raise AssertionError("a choice of this worker alone was taken")
            trial = _trial(candidates, choice, chance)
            finish_s.append(_timed(lambda: log.finish(trial)))  # noqa: B023 - called at once
        cpu_s = time.process_time() - cpu_began
        row = {"began": began, "ended": time.time(), "finish_s": finish_s, "cpu_s": cpu_s}
        times.put(row)


def _timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
