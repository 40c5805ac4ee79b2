"""With how many workers does the database, or the proposer, become the limit of a search?

Two parts. `measure` times what a worker asks of the real database (read what is new, take a
skip-list, finish a trial, heartbeat) with 1 to 512 other workers' rows and claims in it, and what a
proposal takes with as many pending. `simulate` plays whole searches of N workers with these times
and recorded trial times, event by event:

- a worker reads, proposes, takes, scores, finishes, and begins again;
- taking and finishing need the study's lock, one at a time, in the order of asking;
- two workers that read the same state propose the same skip-list: the one that comes second reads
  and proposes again.

The least number of workers at which a search does less than 0.9 of N times the trials of one is
named, with what workers wait for there.

    python benchmarks/many_workers.py --storage runs/many.db --out runs/many.json
    python benchmarks/many_workers.py --storage postgresql+psycopg://user@host/empty --out ...
    python benchmarks/many_workers.py --times runs/many.json --trial-s 5 20 60

The machine of the database is this one here: on a server of its own, times of the network come on
top, and more cores take the heartbeats.
"""

import argparse
import heapq
import itertools
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from many_workers_times import Times, measure

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
LINEAR = 0.9
"""Below this part of N times one worker's trials, N workers are too many."""
SPREAD = 0.05
"""Relative standard deviation of trial times, as FLUX.1-dev's on an H100 have in
results/2026-11-21-flux1-dev-search-h100.json."""
WARMING, TRIALS_A_WORKER = 3, 20
"""Trials of each worker that do not count, since all begin at once, and that do."""


@dataclass
class _Worker:
    number: int
    read: int = -1
    """The state of the study that it has read."""


@dataclass(frozen=True)
class Played:
    """What a simulated search came to.

    Attributes:
        workers: how many.
        trial_s: mean seconds of scoring.
        trials_an_hour: of all workers.
        of_linear: part of N times one worker's trials.
        waits: {what: part of the workers' time}: "scoring", "proposing", "database", "lock".
        again: proposals that another worker was faster with, for each trial.
    """

    workers: int
    trial_s: float
    trials_an_hour: float
    of_linear: float
    waits: dict[str, float]
    again: float


class Search:
    """One simulated search. Times are seconds from its begin.

    Args:
        workers: how many.
        trial_s: mean seconds of scoring.
        times: what the database and the proposer take.
        seed: of the trial times.
    """

    def __init__(self, workers: int, trial_s: float, times: Times, *, seed: int = 0) -> None:
        self.count, self.trial_s, self.times = workers, trial_s, times
        self.rng = np.random.default_rng(seed)
        self.now, self.state, self.free_at = 0.0, 0, 0.0
        self.spent: Counter[str] = Counter()
        self.ended: list[float] = []
        self.again = 0
        self._used: set[int] = set()
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def play(self, trials: int) -> Played:
        """Run until so many trials have ended, after those that do not count."""
        self.begin()
        self._until(self.count * WARMING)
        self.spent.clear()
        self.again = 0
        begun = len(self.ended)
        self._until(begun + trials)
        span = self.ended[-1] - self.ended[begun - 1]
        rate = 3600 * trials / span
        total = sum(self.spent.values())
        return Played(
            workers=self.count,
            trial_s=self.trial_s,
            trials_an_hour=round(rate, 1),
            of_linear=0.0,
            waits={what: round(seconds / total, 4) for what, seconds in self.spent.items()},
            again=round(self.again / trials, 3),
        )

    def begin(self) -> None:
        """Have all workers begin at once."""
        for number in range(self.count):
            self._after(0.0, partial(self._read, _Worker(number)))

    def _until(self, trials: int) -> None:
        while len(self.ended) < trials:
            self.now, _, act = heapq.heappop(self._events)
            act()

    def _after(self, seconds: float, act: Callable[[], None], what: str = "") -> None:
        if what:
            self.spent[what] += seconds
        heapq.heappush(self._events, (self.now + seconds, next(self._order), act))

    def _locked(self, seconds: float, act: Callable[[], None]) -> None:
        """Have the study's lock for so long, after all who asked before."""
        begins = max(self.now, self.free_at)
        self.free_at = begins + seconds
        self.spent["lock"] += begins - self.now
        self.spent["database"] += seconds
        self._after(self.free_at - self.now, act)

    def _read(self, worker: _Worker) -> None:
        worker.read = self.state
        seconds = self.times.at("read_s", self.count)
        self._after(seconds, lambda: self._propose(worker), "database")

    def _propose(self, worker: _Worker) -> None:
        seconds = self.times.at("propose_s", self.count)
        self._after(seconds, lambda: self._take(worker), "proposing")

    def _take(self, worker: _Worker) -> None:
        self._locked(self.times.at("take_s", self.count), lambda: self._taken(worker))

    def _taken(self, worker: _Worker) -> None:
        if worker.read in self._used:  # somebody had read the same state, and was faster
            self.again += 1
            self._read(worker)
            return
        self._used.add(worker.read)
        self.state += 1
        scoring = max(0.0, self.rng.normal(self.trial_s, SPREAD * self.trial_s))
        self._after(scoring, lambda: self._finish(worker), "scoring")

    def _finish(self, worker: _Worker) -> None:
        def finished() -> None:
            self.state += 1
            self.ended.append(self.now)
            self._read(worker)

        self._locked(self.times.at("finish_s", self.count), finished)


def play_all(times: Times, trial_seconds: Sequence[float]) -> list[Played]:
    """Every number of workers with every mean trial time."""
    found = []
    for trial_s in trial_seconds:
        one = None
        for workers in WORKERS:
            played = Search(workers, trial_s, times).play(max(400, TRIALS_A_WORKER * workers))
            one = one or played.trials_an_hour
            part = round(played.trials_an_hour / (one * workers), 4)
            found.append(Played(**{**asdict(played), "of_linear": part}))
    return found


def show(played: Sequence[Played]) -> None:
    """A table, and where the limit is."""
    head = ("trial s", "workers", "trials/h", "of linear", "again", "time of a worker")
    print(("{:>8} {:>8} {:>10} {:>10} {:>7}  {}").format(*head))
    for one in played:
        waits = ", ".join(f"{what} {part:.1%}" for what, part in sorted(one.waits.items()))
        print(
            f"{one.trial_s:>8g} {one.workers:>8} {one.trials_an_hour:>10.0f}"
            f" {one.of_linear:>10.3f} {one.again:>7.2f}  {waits}"
        )
    for trial_s in dict.fromkeys(one.trial_s for one in played):
        few = [o.workers for o in played if o.trial_s == trial_s and o.of_linear < LINEAR]
        limit = f"from {min(few)} workers" if few else f"not up to {max(WORKERS)} workers"
        print(f"trials of {trial_s:g} s: below {LINEAR:g} of linear {limit}")


def main() -> None:
    """Measure or read the times, simulate, print; the last line is JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--storage", help="an SQLite file, or the URL of an empty database")
    parser.add_argument("--times", type=Path, help="the result of an earlier run, not measured")
    parser.add_argument("--trial-s", type=float, nargs="+", default=[1.0, 5.0, 20.0, 60.0])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    begun = time.monotonic()
    if args.times is not None:
        times = Times.from_json(json.loads(args.times.read_text())["times"])
    else:
        times = measure(args.storage, WORKERS)
    played = play_all(times, args.trial_s)
    show(played)
    result: dict[str, Any] = {
        "benchmark": "many_workers",
        "times": times.to_json(),
        "simulated": [asdict(one) for one in played],
        "median_part_of_linear": statistics.median(one.of_linear for one in played),
        "seconds": round(time.monotonic() - begun, 1),
    }
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
