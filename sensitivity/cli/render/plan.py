"""What a search will take: prompts, memory by stage and part, time by step, disk."""

from rich.console import Group as Lines
from rich.text import Text

from sensitivity.cli.flags import name_flags
from sensitivity.cli.render.tables import FittedTable, number, words
from sensitivity.core.words import duration, printable
from sensitivity.workflows.plan import SearchPlan


def plan_tables(plan: SearchPlan) -> Lines:
    """Memory and time as tables, and what they rest on."""
    return Lines(
        *(Text(line) for line in _prompts(plan)),
        _memory(plan),
        *(Text(line) for line in _verdict(plan)),
        _time(plan),
        *([_elsewhere(plan)] if plan.machines else []),
        *(Text(line, style="dim") for line in _notes(plan)),
    )


def _prompts(plan: SearchPlan) -> list[str]:
    """How many prompts choose and verify, and what was read of their file."""
    read = plan.prompts
    spread = "" if read is None or read.kind == "TOML" else f", evenly spread over {read.file}"
    split = f"{plan.pictures} search prompts{spread}, {plan.held_out} held-out prompts"
    return [split] if read is None else [printable(split), read.describe()]


def _memory(plan: SearchPlan) -> FittedTable:
    sizes = plan.sizes
    rows = FittedTable(
        words("stage", least=16),
        number("GB"),
        words("parts, GB", least=24),
        title=(
            f"memory of {plan.model} on {sizes.where}, {sizes.batch_size} pictures together;"
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
            f"peak {sizes.peak.nbytes / 1e9:.2f} GB; {sizes.where} does not say how much is free"
        ]
    free, room = sizes.free_bytes / 1e9, (sizes.room_bytes or 0) / 1e9
    peak = (
        f"peak {sizes.peak.nbytes / 1e9:.2f} GB of {free:.2f} GB {'' if plan.machine else 'free'}"
    )
    if sizes.fits:
        return [f"{peak.strip()}: it fits, with {room:.2f} GB for quantized weights"]
    return [
        f"{peak.strip()}: it does NOT fit; what would help:",
        *(f"  {name_flags(line)}" for line in plan.would_help),
    ]


def _time(plan: SearchPlan) -> FittedTable:
    where = plan.machine or f"this machine, {plan.sizes.device}"
    rows = FittedTable(words("step", least=16), number("time"), title=f"time on {where}")
    rows.add_row("a picture in bf16", _duration(plan.picture_s))
    rows.add_row(f"a trial of {plan.pictures} pictures", _duration(plan.trial_s), style="bold")
    for name, seconds in plan.steps_s.items():
        is_done = seconds == 0 and plan.done.has_begun
        rows.add_row(name, "done" if is_done else _duration(seconds))
    rows.add_row("in all", _duration(plan.total_s), style="bold")
    return rows


def _elsewhere(plan: SearchPlan) -> FittedTable:
    """What the search takes on GPUs where it fits."""
    rows = FittedTable(
        words("on one GPU of", least=16),
        number("time in all"),
        title=f"{plan.budget} trials where the model fits, from their beginning; predicted",
    )
    for own in plan.machines:
        rows.add_row(own.name, _duration(own.total_s))
    return rows


def _notes(plan: SearchPlan) -> list[str]:
    done = (
        "planned from the beginning: what was done on this machine does not count on the"
        f" {plan.machine}"
        if plan.machine
        else plan.done.describe(budget=plan.budget)
    )
    return [
        name_flags(done),
        *([] if plan.shapes is None else [plan.shapes.describe()]),
        f"time: {plan.source}",
        (
            f"disk: references {plan.references_bytes / 1e6:.1f} MB, database about"
            f" {plan.database_bytes / 1e6:.1f} MB"
        ),
        (
            "not in it: reading or downloading weights, compiling, LPIPS, and single scores that"
            " the database knows"
        ),
        "nothing was loaded, generated or written",
    ]


def _duration(seconds: float) -> str:
    """A time as everywhere else, with two digits where it is a part of a second."""
    return duration(seconds) if seconds >= 1 or seconds == 0 else f"{seconds:.2g} s"
