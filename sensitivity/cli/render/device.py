"""What `sensitivity device` shows: the GPUs, the progress of a measurement, and its summary."""

import time
from collections.abc import Iterator, Sequence

from rich.console import Console

from sensitivity.cli.render.progress import Bar
from sensitivity.cli.render.tables import FittedTable, number, words
from sensitivity.latency.targets.target_file import TargetFile
from sensitivity.latency.targets.target_list import ListedTarget

PEAKS = ("bf16", "fp8", "int8", "mxfp8", "nvfp4")
"""The formats that a GPU may have a peak for."""
_PLAIN_EVERY_S = 15.0


def devices_table(targets: Sequence[ListedTarget]) -> FittedTable:
    """One row a GPU."""
    table = FittedTable(
        words("target"),
        number("capability", drop=3),
        *(number(name) for name in PEAKS),
        number("TB/s"),
        number("GB"),
        number("SMs", drop=1),
        words("kernel constants", drop=4, least=13),
        number("measured shapes", drop=2),
        title="GPUs that can be priced; the formats' columns are dense TFLOP/s",
    )
    for target in targets:
        peaks = target.peaks_flops_per_s
        table.add_row(
            target.name,
            target.capability,
            *(f"{peaks[name] / 1e12:.0f}" if name in peaks else "-" for name in PEAKS),
            f"{target.bandwidth_bytes_per_s / 1e12:.2f}",
            f"{target.memory_bytes / 1e9:.0f}",
            str(target.sm_count),
            "fitted on it" if target.has_own_fit else "of its family",
            str(target.measured_shapes or "-"),
        )
    return table


class DeviceProgress(Bar):
    """Seconds gone of seconds in all, and what is measured now."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, starts=False)
        self._told = 0.0

    def say(self, text: str) -> None:
        """A stage begins."""
        self.print(text)

    def update(self, gone_s: float, limit_s: float, name: str) -> None:
        """`gone_s` of at most `limit_s` seconds are over; `name` is measured next."""
        left = f"{max(0.0, limit_s - gone_s):.0f} s left at most"
        self.show(f"{name or 'finishing'}, {left}", round(gone_s), round(limit_s))
        if not self.moving and time.monotonic() - self._told > _PLAIN_EVERY_S:
            self._told = time.monotonic()
            self.print(f"{gone_s:.0f} s: {name or 'finishing'}; {left}")


def target_lines(target: TargetFile) -> Iterator[str]:
    """What a measurement found, in a few lines."""
    timed = {
        name: sum(bool(row.us) for row in getattr(target, name))
        for name in ("rows", "gemms", "quantizers")
    }
    yield (
        f"{target.device}: {timed['rows']} Linears and attentions, {timed['gemms']} GEMMs alone and"
        f" {timed['quantizers']} quantizers alone in {target.minutes:.1f} minutes"
        + ("" if target.complete else "; not complete")
    )
    if "copy_bytes_per_s" in target.limits:
        yield f"bandwidth reached: {target.limits['copy_bytes_per_s'] / 1e12:.2f} TB/s"
    if "bf16_flops_per_s" in target.limits:
        yield f"bf16 reached: {target.limits['bf16_flops_per_s'] / 1e12:.0f} TFLOP/s"
    if target.refusals:
        yield f"{len(target.refusals)} shapes are refused by their kernel"
    for name in target.formats:
        rows = [row for row in target.ulps if row.format is name and row.largest_ulp is not None]
        if rows:
            equal = min(row.equal or 0.0 for row in rows)
            largest = max(row.largest_ulp or 0.0 for row in rows)
            yield (
                f"native {name.value} against emulation: at least {equal:.1%} of outputs equal, at"
                f" most {largest:.3g} ulp apart ({len(rows)} products)"
            )
    yield from target.notes
