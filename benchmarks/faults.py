"""What is lost when anything may die at any time? Counts: finished trials, doubled ones, RUNNING.

Workers are real processes of the real search loop with an evaluator that draws nothing (the fault
tests' own, `tests/support/fake_workers.py`). For so many minutes, again and again, one of them is
killed (SIGKILL) or paused past its lease (SIGSTOP), or, on PostgreSQL, the server is stopped or
crashes and is started again. A worker that died is replaced, as its supervisor does. Then they are
left alone until the budget is met, and what they left is counted by SQL. The exit code is 1 where
anything was lost or doubled, or a worker ended in another way than a supervisor expects.

    python benchmarks/faults.py --workers 6 --minutes 2.5
    python benchmarks/faults.py --engines postgresql --minutes 30 --away-s 30

The budget grows as long as faults happen, so there is always work. PostgreSQL is started here, on
loopback (`tests/support/postgres.py`). A score takes 20 ms; a lease is 2 s, so that a pause can be
longer than it.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from sensitivity.core.supervised import REPLACE_ME

from support.fake_workers import LARGE, FakeWorker, settings, start_worker
from support.fault_audit import Audit, audit
from support.postgres import PostgresServer

LEASE_S = 2.0
SECONDS = 0.02
FAULTS = {"kill": 6, "pause": 2, "stop": 1, "crash": 1}
"""How often each kind of fault happens, relative to the others; the last two are the server's."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the engines one after the other; the last line is JSON."""
    args = _arguments(argv)
    print(f"{args.workers} workers, {args.minutes:g} min an engine, seed {args.seed}, {_machine()}")
    results: dict[str, Any] = {}
    for engine in args.engines:
        folder = Path(tempfile.mkdtemp(prefix="sensitivity-faults-"))
        try:
            with _database(engine, folder) as (storage, server):
                results[engine] = _engine(args, engine, storage, server, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    wrong = any(
        own["lost"] or own["doubled"] or own["running"] or own["wrong"] for own in results.values()
    )
    told = {
        "machine": _machine(),
        "workers": args.workers,
        "minutes": args.minutes,
        "seed": args.seed,
        "score_s": SECONDS,
        "lease_s": LEASE_S,
    }
    print(json.dumps(told | results))
    return int(wrong)


def _engine(
    args: argparse.Namespace,
    engine: str,
    storage: Path | str,
    server: PostgresServer | None,
    folder: Path,
) -> dict[str, Any]:
    chance, faults, codes = random.Random(args.seed), Counter[str](), Counter[int]()
    budget = args.workers * 4
    team = [_start(storage, folder, budget) for _ in range(args.workers)]
    ends = time.monotonic() + 60 * args.minutes
    while time.monotonic() < ends:
        time.sleep(args.every_s * chance.uniform(0.5, 1.5))
        faults[_disturb(team, server, args.away_s, chance)] += 1
        for place, worker in enumerate(team):
            code = worker.poll()
            if code is not None:
                codes[code] += 1
                budget += 4 * (code == 0)
                team[place] = _start(storage, folder, budget)
    for worker in team:
        codes[worker.wait(120)] += 1
    last = _start(storage, folder, budget)
    codes[last.wait(600)] += 1
    return _told(engine, audit(storage, folder), budget, faults, codes, folder)


def _start(storage: Path | str, folder: Path, budget: int) -> FakeWorker:
    return start_worker(
        storage,
        folder,
        settings(budget),
        candidates=LARGE,
        seconds=SECONDS,
        lease_s=LEASE_S,
        patience_s=120,
    )


def _disturb(
    team: list[FakeWorker], server: PostgresServer | None, away_s: float, chance: random.Random
) -> str:
    """Do one thing to a worker or the server, and say which."""
    kinds = list(FAULTS)[: 2 if server is None else None]
    kind = chance.choices(kinds, [FAULTS[own] for own in kinds])[0]
    worker = chance.choice(team)
    if kind == "kill":
        worker.send(signal.SIGKILL)
    elif kind == "pause":
        worker.send(signal.SIGSTOP)
        time.sleep(LEASE_S * chance.uniform(0.5, 1.5))
        worker.send(signal.SIGCONT)
    elif server is not None:
        (server.stop if kind == "stop" else server.crash)()
        time.sleep(away_s * chance.uniform(0.5, 1.5))
        server.start()
    return kind


def _told(
    engine: str,
    left: Audit,
    budget: int,
    faults: Counter[str],
    codes: Counter[int],
    folder: Path,
) -> dict[str, Any]:
    """Print what is left, and give it as JSON."""
    wrong = left.wrong(budget)
    print(f"{engine}: {dict(faults)}; exit codes {dict(codes)}")
    print(f"{engine}: {left.words()}; budget {budget}, {left.proposals} proposals")
    for code in codes:
        if code not in (0, -signal.SIGKILL, REPLACE_ME):
            wrong[f"exit code {code}"] = codes[code]
    if wrong:
        print(f"{engine}: WRONG {wrong}")
        for path in sorted(folder.glob("*.output")):
            if "in _end_with" in (text := path.read_text(errors="replace")):  # not expected
                print(path.name, text[-2_000:])
    return {
        "trials": left.trials,
        "budget": budget,
        "lost": left.lost,
        "doubled": left.doubled,
        "running": left.running,
        "claims": left.claims,
        "scored_again": left.scored_again,
        "faults": dict(faults),
        "exit_codes": {str(code): count for code, count in codes.items()},
        "wrong": {name: str(value) for name, value in wrong.items()},
    }


@contextmanager
def _database(engine: str, folder: Path) -> Iterator[tuple[Path | str, PostgresServer | None]]:
    if engine == "sqlite":
        yield folder / "study.db", None
        return
    server = PostgresServer.start_new()
    try:
        yield server.create_database(), server
    finally:
        server.close()


def _machine() -> str:
    return f"{os.cpu_count()} CPU cores, Python {sys.version.split()[0]}"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--minutes", type=float, default=2.5, help="of faults, an engine")
    parser.add_argument("--engines", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--every-s", type=float, default=0.5, help="seconds between two faults")
    parser.add_argument("--away-s", type=float, default=1.0, help="how long a server is away")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
