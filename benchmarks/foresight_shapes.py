"""What `foresight.py measure` keeps, and its prices from measured shapes.

Every shape of a model is timed once (`latency.timing.shape_timing`), and prices all lists in all
runtimes. The interval of a price reaches from the times on a rested GPU to those under steady load,
and `RUN_PART` further.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import foresight_cases as cases
import torch
from foresight_cases import Prepared
from kept_rows import KeptRows

from sensitivity.core.json_files import parse_json, write_whole
from sensitivity.errors import SensitivityError
from sensitivity.latency.devices import get_device
from sensitivity.latency.measured import MeasuredLatency
from sensitivity.latency.shape_times import ShapeTime, ShapeTimes, attentions_of, shapes_of
from sensitivity.latency.timing.host_timing import host_rows
from sensitivity.latency.timing.shape_timing import Bench, measure_shapes

SETTLE_S, REPETITIONS = 0.5, 6
RUN_PART = 0.02
"""What a run saves more or less than its shapes, beside the clock."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Where and how cells are run.

    Attributes:
        device: "cuda" or "cpu".
        backend: torch.compile's.
        rounds: Timed rounds; 0 only compiles.
        round_s: Seconds that a list's calls in a round fill.
        left_s: Seconds that are left.
        say: Told what is done.
    """

    device: str
    backend: str
    rounds: int
    round_s: float
    left_s: Callable[[], float]
    say: Callable[[str], None]


class Document(KeptRows):
    """The results: one JSON file, written after every case. It keeps the shapes' times too."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self.data: dict[str, Any] = {**header, "shape_times": {}, "cases": []}
        if path.is_file():
            found = parse_json(path.read_bytes())
            if found.get("machine") != header["machine"]:
                raise SystemExit(f"{path} is of another machine; name another --out")
            self.data = found

    def write(self) -> None:
        text = json.dumps(self.data, indent=1, sort_keys=True, allow_nan=False)
        write_whole(self.path, (text + "\n").encode())

    def has(self, *key: object) -> bool:
        """Whether a case (model, batch, runtime, list) was tried."""
        return any(
            (x["model"], x["batch_size"], x["runtime"], x["list"]) == key
            for x in self.data["cases"]
        )

    def add(self, new: Iterable[Mapping[str, Any]]) -> None:
        self.data["cases"] += [dict(x) for x in new]
        self.write()

    def add_shapes(self, prices: Sequence[Mapping[str, Any]]) -> None:
        """Keep prices from measured shapes; they are made anew when a model is visited again."""
        keys = {(x["model"], x["batch_size"]) for x in prices}
        old = self.data.get("from_shapes", [])
        old = [x for x in old if (x["model"], x["batch_size"]) not in keys]
        self.data["from_shapes"] = [*old, *prices]
        self.write()


def measure_model_shapes(how: Conditions, model: Prepared, document: Document, target: str) -> None:
    """Time the shapes that the document does not have; it keeps them."""
    wanted = [
        shape
        for shape in shapes_of(model.table, (cases.FORMAT,))
        if not shape.format.is_quantized or not cases.refused_shape(shape, target)
    ]
    measure_shapes(
        wanted,
        attention=attentions_of(model.table),
        device=how.device,
        compile_mode="reduce-overhead",
        cache=document,
        repetitions=REPETITIONS if how.rounds else 1,
        time_limit_s=max(0.0, how.left_s()),
        bench=Bench(
            backend=how.backend, settle_s=SETTLE_S if how.rounds else 0.0, probe=lambda *_, **__: {}
        ),
    )
    if how.rounds:
        known = document.data["shape_times"]
        host = host_rows(torch.device(how.device), known, backend=how.backend)
        known |= {key: row.to_json() for key, row in host.items()}


def shape_prices(model: Prepared, document: Document, target: str) -> list[dict[str, Any]]:
    """Prices of all lists in all runtimes from the shapes that the document has."""
    machine = document.data["machine"]
    kept = document.data["shape_times"].items()
    rows = {key: ShapeTime.from_json(row) for key, row in kept}
    times = ShapeTimes(machine=machine, compile_mode="reduce-overhead", rows=rows)
    prices = []
    for runtime in cases.RUNTIMES:
        rest = cases.predictor(get_device(target), runtime)
        models = [
            MeasuredLatency(part, target=target, rest=rest)
            for part in (times, only(times, "us"), only(times, "rested_us"))
        ]
        for name in model.lists:
            case = {"model": model.name, "batch_size": model.batch, "runtime": runtime}
            case |= {"list": name}
            try:
                found = [x.estimate(model.table, model.formats(name)) for x in models]
            except SensitivityError as error:
                prices.append(case | {"reason": str(error)})
                continue
            speedups = [x.speedup for x in found]
            interval = [min(speedups) * (1 - RUN_PART), max(speedups) * (1 + RUN_PART)]
            if name == "none":
                interval = [1.0, 1.0]
            prices.append(case | cases.numbers_of(found[0]) | {"interval": interval})
    return prices


def only(times: ShapeTimes, kind: str) -> ShapeTimes:
    """The same times by one kind of repetitions alone."""
    rows = {
        key: dataclasses.replace(row, us=getattr(row, kind) or row.us, rested_us=())
        for key, row in times.rows.items()
    }
    return dataclasses.replace(times, rows=rows)
