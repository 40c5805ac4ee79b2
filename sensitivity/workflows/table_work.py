"""What of a table of shapes is known on this machine, and how long does the rest take?

    table_work(spec.name, table, ("transformer",), formats, known, device="cuda").describe()
    # "shape table of flux1-dev on NVIDIA H200: 7 of 19 shapes to measure, about 42 s, 12 were ..."

Known is what the cache of measured times has for exactly this machine: device, driver, versions and
method. Times of the same device under other versions are counted as outdated, and named, since they
are not used. What a kernel refused is known too.

Nothing is measured or written here (`shape_table`).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sensitivity.core.format_name import CompileMode, FormatName
from sensitivity.formats.registry import get_format
from sensitivity.latency.runtimes import Runtime
from sensitivity.latency.shape_times import LinearShape, attention_key, attentions_of, shapes_of
from sensitivity.latency.timing.probing import find_probed, probed_as
from sensitivity.latency.timing.shape_timing import machine_of
from sensitivity.search.kept_prices import KeptPrices, differences
from sensitivity.search.shared_times import SharedShapeTimes, default_shape_times_path
from sensitivity.shapes.census import AttentionShape
from sensitivity.shapes.table import ShapeTable

SHAPE_S = 6.0
"""Seconds that one shape takes in bf16 and one format, compiling included: 90 to 120 s for the 15
to 19 shapes of a model on an H100.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableWork:
    """What a table of shapes takes.

    Attributes:
        model: the study's name.
        device: the GPU's name.
        shapes: (M, K, N, bias) of Linears, and attentions, in all.
        missing: those of them that no table of this machine has.
        formats: in how many quantized formats each is measured.
        outdated: those of the missing that were measured under other versions.
        changed: what was other then, in words.
    """

    model: str
    device: str
    shapes: int
    missing: int
    formats: int = 1
    outdated: int = 0
    changed: str = ""

    @property
    def seconds(self) -> float:
        """About how long the missing ones take."""
        return self.missing * SHAPE_S * (1 + self.formats) / 2

    def describe(self) -> str:
        """One line: how many shapes, and about how long, or that they are known."""
        head = f"shape table of {self.model} on {self.device}"
        if not self.missing:
            return f"{head}: all {self.shapes} shapes were measured before, and are used again"
        known = self.shapes - self.missing
        before = f", {known} were measured before" if known else ""
        anew = (
            f"; {self.outdated} of them were measured with {self.changed}, and are measured anew"
            if self.outdated
            else ""
        )
        is_short = self.seconds < 100
        about = f"{self.seconds:.0f} s" if is_short else f"{self.seconds / 60:.0f} min"
        return (
            f"{head}: {self.missing} of {self.shapes} shapes to measure, about {about}"
            f"{before}{anew}"
        )

    def to_json(self) -> dict[str, Any]:
        """As the JSON of a dry run has it."""
        return {
            "device": self.device,
            "shapes": self.shapes,
            "missing": self.missing,
            "outdated": self.outdated,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class KnownTimes:
    """The shared times of this machine, a `latency.shape_times.ShapeTimeCache` in which rows of
    studies go before the others. New rows go to the shared times.

    Attributes:
        shared: the shared times.
        own: {key: row} of studies.
        mode: the compile mode of those.
    """

    shared: SharedShapeTimes
    own: Mapping[str, Mapping[str, Any]]
    mode: CompileMode

    @classmethod
    def of(
        cls,
        *,
        device: str,
        mode: CompileMode,
        path: Path | None = None,
        studies: Iterable[KeptPrices] = (),
    ) -> "KnownTimes":
        """What is known on a device.

        Args:
            device: "cuda" or "cuda:N".
            mode: how the priced run is compiled.
            path: database of measured times; the user's cache by default.
            studies: rows that studies were searched by; the oldest study's count.
        """
        shared = SharedShapeTimes(path or default_shape_times_path())
        return cls(shared, _own_rows(studies, machine_of(device), mode), mode)

    def find_shape_times(
        self, machine: Mapping[str, str], compile_mode: str
    ) -> dict[str, dict[str, Any]]:
        """{key: row} of one machine and compile mode."""
        found = self.shared.find_shape_times(machine, compile_mode)
        if compile_mode == self.mode:
            found |= {key: dict(row) for key, row in self.own.items()}
        return found

    def save_shape_time(
        self, machine: Mapping[str, str], compile_mode: str, key: str, row: Mapping[str, Any]
    ) -> None:
        """Keep one row for good."""
        self.shared.save_shape_time(machine, compile_mode, key, row)


def table_work(
    model: str,
    table: ShapeTable,
    components: Collection[str],
    formats: Sequence[FormatName],
    known: KnownTimes,
    *,
    device: str,
    runtime: Runtime | None = None,
) -> TableWork:
    """What of a table is missing.

    Args:
        model: the study's name.
        table: the shapes at the scale that is priced.
        components: the denoisers, whose attention is measured.
        formats: quantized formats.
        known: what is known on the device.
        device: "cuda" or "cuda:N".
        runtime: how the priced run is run; None is the default.
    """
    machine = machine_of(device)
    found = set(known.find_shape_times(machine, known.mode))
    shapes = shapes_of(table, formats, runtime)
    probed = find_probed(shapes, machine=machine, cache=known)
    found |= {
        str(shape)
        for shape in shapes
        if (result := probed.get(probed_as(shape))) is not None and result.outcome == "refused"
    }
    experiments = _experiments(shapes, attentions_of(table, components=components))
    missing = [keys for keys in experiments if not keys <= found]
    outdated, changed = 0, ""
    for other, keys in known.shared.find_machines(known.mode) if missing else []:
        if other != machine and other.get("device") == machine.get("device"):
            outdated = sum(wanted <= keys for wanted in missing)
            changed = differences(other, machine)
            if outdated:
                break
    return TableWork(
        model=model,
        device=machine["device"],
        shapes=len(experiments),
        missing=len(missing),
        formats=len(formats),
        outdated=outdated,
        changed=changed,
    )


def table_work_anew(
    model: str,
    table: ShapeTable,
    components: Collection[str],
    formats: Sequence[FormatName],
    *,
    device: str,
    runtime: Runtime | None = None,
) -> TableWork:
    """The same on a GPU of which nothing is known here: all is missing. `device` is its name."""
    shapes = shapes_of(table, formats, runtime)
    experiments = _experiments(shapes, attentions_of(table, components=components))
    return TableWork(
        model=model,
        device=device,
        shapes=len(experiments),
        missing=len(experiments),
        formats=len(formats),
    )


def _experiments(
    shapes: Iterable[LinearShape], attention: Iterable[AttentionShape]
) -> list[frozenset[str]]:
    """The keys of the rows that are timed together: one (M, K, N, bias) in all its formats, or one
    attention. Rows that a format refuses by its own rules are left out.
    """
    groups: dict[tuple[int, int, int, bool, bool], set[str]] = {}
    for shape in shapes:
        if not _refused(shape):
            where = (shape.m, shape.k, shape.n, shape.bias, shape.eager)
            groups.setdefault(where, set()).add(str(shape))
    attentions = {attention_key(shape) for shape in attention}
    return [
        *(frozenset(keys) for keys in groups.values()),
        *(frozenset({key}) for key in sorted(attentions)),
    ]


def _refused(shape: LinearShape) -> bool:
    reason = get_format(shape.format).refusal(k=shape.k, n=shape.n, dtype=torch.bfloat16)
    return shape.format.is_quantized and reason is not None


def _own_rows(
    studies: Iterable[KeptPrices], machine: Mapping[str, str], mode: CompileMode
) -> dict[str, Mapping[str, Any]]:
    """{key: row} of the studies that this machine has searched; the oldest study's row counts.

    Rows that failed are tried again.
    """
    rows: dict[str, Mapping[str, Any]] = {}
    for prices in studies:
        if dict(prices.machine) == dict(machine) and prices.compile_mode == mode:
            for row in prices.rows:
                if row.get("us"):
                    rows.setdefault(row["key"], row)
    return rows
