"""Which table goes into a pull request? `markdown_of`: each list a row, in GitHub's Markdown.

    markdown_of(report)

Texts of a model or a prompt cannot end a cell, start a tag or make a link.
"""

import re

from sensitivity.cli.render.page import numbers
from sensitivity.workflows.report.records import Report
from sensitivity.workflows.report.verdict_records import Damage

COLUMNS = (
    "configuration",
    "average time",
    "speedup",
    "memory",
    "typical LPIPS [95 %]",
    "mean LPIPS [95 %]",
    "other pictures",
    "worst prompt",
)
MOST = 80
"""Characters of a prompt that are shown."""


def markdown_of(report: Report) -> str:
    """The recipe, bf16 and the lists beside it as a Markdown table, with what the numbers are."""
    verdict = report.verdict
    if verdict is None:
        return f"{cell_of(report.title)}: {cell_of(report.gaps.get('verdict', 'no recipe yet'))}\n"
    own = cell_of(verdict.name)
    rows = [
        [
            "bf16",
            numbers.seconds(verdict.bf16_s),
            numbers.speedup(1.0),
            numbers.memory(verdict.bf16_bytes),
            *["0", "0", "", ""],
        ],
        [
            f"**{own}**",
            numbers.seconds(verdict.quantized_s),
            f"{numbers.speedup(verdict.speedup)} {numbers.interval(verdict.speedup_interval90, 3)}",
            numbers.memory(verdict.quantized_bytes),
            *_damages(verdict.damage),
            _worst(report),
        ],
    ]
    for other in verdict.against:
        # bf16 and the recipe were timed end to end, and this list was not
        by_shapes = verdict.shapes_speedup is not None and not other.is_timed
        time = None if by_shapes or not other.speedup else verdict.bf16_s / other.speedup
        rows.append(
            [
                cell_of(other.name),
                numbers.seconds(time),
                numbers.speedup(other.speedup) + " by shapes" * by_shapes,
                "",
                *_damages(other.damage),
                "",
            ]
        )
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        *(f"| {' | '.join(cell.strip() for cell in row)} |" for row in rows),
        "",
        _about(report),
    ]
    return "\n".join(lines) + "\n"


def _about(report: Report) -> str:
    verdict = report.verdict
    assert verdict is not None, "a table has a verdict"
    scale = report.model.stands_for
    words = [
        f"{cell_of(report.model.name)}: time {verdict.origin} for {cell_of(verdict.target)}"
        + (f" at {scale} times its size" if scale > 1 else "")
        + (", speedup with its 90 % interval" if verdict.speedup_interval90 else ""),
        f"{verdict.quantized} of {verdict.linears} Linears quantized"
        + (f", {verdict.steps}" if verdict.steps else ""),
    ]
    if verdict.damage is not None:
        words.append(
            f"LPIPS ({cell_of(verdict.net)}) against bf16 over {verdict.damage.prompts}"
            " prompts that the search did not see"
        )
    if verdict.noise_floor is not None:
        words.append(f"noise floor {numbers.lpips(verdict.noise_floor)}")
    if verdict.caveat:
        words.append(cell_of(verdict.caveat))
    return "; ".join(words) + "."


def _damages(damage: Damage | None) -> list[str]:
    """Typical, mean and flips."""
    if damage is None:
        return ["", "", ""]
    flips = "" if damage.flips is None else str(damage.flips)
    if flips and damage.prompts:
        flips += f" of {damage.prompts}"
    return [
        f"{numbers.lpips(damage.typical)} {numbers.interval(damage.typical_ci95)}",
        f"{numbers.lpips(damage.mean)} {numbers.interval(damage.mean_ci95)}",
        flips,
    ]


def _worst(report: Report) -> str:
    """The prompt of the largest LPIPS, with it."""
    worst = None if report.verdict is None else report.verdict.worst
    if worst is None:
        return ""
    text = worst.prompt
    short = text if len(text) <= MOST else f"{text[: MOST - 1]}…"
    return f"{numbers.lpips(worst.lpips)}: {cell_of(short)}"


def cell_of(text: str) -> str:
    """A text as one cell: one line, with Markdown's and HTML's own characters escaped."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#|~!@])", r"\\\1", line)
