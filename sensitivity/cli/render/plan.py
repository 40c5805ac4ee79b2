"""What a search will take: prompts, memory by stage and part, time by step, disk."""

from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from sensitivity.cli.render.tables import make_table
from sensitivity.core.words import printable
from sensitivity.workflows.plan import SearchPlan


def plan_tables(plan: SearchPlan) -> Lines:
    """Memory and time as tables, and what they rest on."""
    return Lines(
        *(Text(line) for line in _prompts(plan)),
        _memory(plan),
        *(Text(line) for line in _verdict(plan)),
        _time(plan),
        *(Text(line, style="dim") for line in _notes(plan)),
    )


def _prompts(plan: SearchPlan) -> list[str]:
    """How many prompts choose and verify, and what was read of their file."""
    read = plan.prompts
    spread = "" if read is None or read.kind == "TOML" else f", evenly spread over {read.file}"
    split = f"{plan.pictures} search prompts{spread}, {plan.held_out} held-out prompts"
    return [split] if read is None else [printable(split), read.describe()]


def _memory(plan: SearchPlan) -> Table:
    sizes = plan.sizes
    rows = make_table(
        ("stage", "left"),
        ("GB", "right"),
        ("parts, GB", "left"),
        title=(
            f"memory of {plan.model} on {sizes.device}, {sizes.batch_size} pictures together;"
            " predicted from config files"
        ),
    )
    for stage in sizes.stages:
        parts = ", ".join(
            f"{part.name} {part.nbytes / 1e9:.2f}"
            for part in sorted(stage.parts, key=lambda part: -part.nbytes)
        )
        rows.add_row(
            stage.name,
            f"{stage.nbytes / 1e9:.2f}",
            parts,
            style="bold" if stage is sizes.peak else "",
        )
    return rows


def _verdict(plan: SearchPlan) -> list[str]:
    sizes = plan.sizes
    if sizes.free_bytes is None:
        return [
            f"peak {sizes.peak.nbytes / 1e9:.2f} GB; {sizes.device} does not say how much is free"
        ]
    free, room = sizes.free_bytes / 1e9, (sizes.room_bytes or 0) / 1e9
    if sizes.fits:
        return [
            f"peak {sizes.peak.nbytes / 1e9:.2f} GB of {free:.2f} GB free: it fits, with {room:.2f}"
            " GB for quantized weights"
        ]
    return [
        f"peak {sizes.peak.nbytes / 1e9:.2f} GB of {free:.2f} GB free: it does NOT fit;"
        " `sensitivity search` says what would help"
    ]


def _time(plan: SearchPlan) -> Table:
    rows = make_table(("step", "left"), ("time", "right"), title="time")
    rows.add_row("a picture in bf16", _duration(plan.picture_s))
    rows.add_row(f"a trial of {plan.pictures} pictures", _duration(plan.trial_s), style="bold")
    for name, seconds in plan.steps_s.items():
        rows.add_row(name, _duration(seconds))
    rows.add_row("in all", _duration(plan.total_s), style="bold")
    return rows


def _notes(plan: SearchPlan) -> list[str]:
    return [
        *([] if plan.shapes is None else [plan.shapes.describe()]),
        f"time: {plan.source}",
        (
            f"disk: references {plan.references_bytes / 1e6:.1f} MB, database about"
            f" {plan.database_bytes / 1e6:.1f} MB"
        ),
        (
            "not in it: reading or downloading weights, compiling, LPIPS, and what an earlier"
            " search of the study already knows"
        ),
        "nothing was loaded, generated or written",
    ]


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"
