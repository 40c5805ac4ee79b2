"""The verdict on a recipe, as the last screen of a command says it.

    console.print(verdict_screen(verdict_of(recipe), snippets_of(recipe)))

It answers, in this order: is it worth it, how much faster, how far are the pictures, what else was
tried, which layers stay bf16, and who can run it. The sentences are those of the page
(`workflows.report.verdict_words`). Rows of words wrap; numbers are never cut (`tables`).
"""

import re
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.console import Group as Lines
from rich.text import Text

from sensitivity.cli.render.priced import at_scale
from sensitivity.cli.render.tables import GAP, LEAST, FittedTable, number, words
from sensitivity.core.words import and_more, printable
from sensitivity.fidelity.words import bounds_words, interval_words, lpips_words
from sensitivity.workflows.report.records import Snippet
from sensitivity.workflows.report.verdict_records import Against, Damage, Kept, Verdict
from sensitivity.workflows.report.verdict_words import anchors, flips_words, headline, peak_words

MOST_PATTERNS = 6
"""Patterns that have a row of their own."""
MOST_NAMED = 3
"""Of the others, how many are named."""
MOST_REASON = 90
"""Characters of why a consumer cannot express a recipe."""
MOST_PROMPTS = 3
"""Prompts that became another picture which are named."""
MOST_PROMPT = 60
"""Characters of a prompt."""
DETAILS = ("detail", "motion")
"""Metrics that only the page has."""


def verdict_screen(
    verdict: Verdict, snippets: Sequence[Snippet], *, more: Sequence[tuple[str, str]] = ()
) -> Lines:
    """The verdict, the lists beside it, what stays bf16, and who takes the recipe.

    Args:
        verdict: the recipe's.
        snippets: the recipe in the form of each consumer.
        more: further (label, text) rows below those of speed and pictures.
    """
    style = "bold green" if verdict.speedup > 1 and not verdict.caveat else "bold yellow"
    parts: list[RenderableType] = [Text(f"{verdict.name}: {headline(verdict)}", style=style)]
    if verdict.caveat:
        parts.append(Text(verdict.caveat, style="yellow"))
    parts += ["", Labelled([*_rows(verdict), *more])]
    if verdict.against:
        parts += ["", _beside(verdict)]
    if verdict.kept:
        parts += ["", _kept(verdict)]
    return Lines(*parts, "", Labelled(_takers(snippets)))


class Labelled:
    """Rows of a label and text, which wraps beside the label."""

    def __init__(self, rows: Sequence[tuple[str, str]]) -> None:
        self.rows = [(label, printable(text)) for label, text in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Each row, its later lines indented as far as the first."""
        indent = max((cell_len(label) for label, _ in self.rows), default=0) + GAP
        width = max(options.max_width - indent, LEAST)
        for label, text in self.rows:
            for at, line in enumerate(Text(text).wrap(console, width)):
                line.rstrip()
                yield Text.assemble(((label if at == 0 else "").ljust(indent), "bold"), line)


def _rows(verdict: Verdict) -> list[tuple[str, str]]:
    """Speed, pictures, weights, other judges, and how it was chosen."""
    rows = [("speed", _speed(verdict))]
    if verdict.damage is not None:
        rows.append(("pictures", _pictures(verdict, verdict.damage)))
        if verdict.flipped:
            named = [f'"{_cut(text, MOST_PROMPT)}"' for text in verdict.flipped]
            rows.append(("", f"another picture: {and_more(named, most=MOST_PROMPTS)}"))
        if known := anchors(verdict):
            said = ", ".join(f"{what} is {_short(value)}" for value, what in known)
            rows.append(("", f"to compare with: {said}"))
    rows.append(
        (
            "weights",
            f"{_bytes(verdict.quantized_bytes)} instead of {_bytes(verdict.bf16_bytes)}"
            f" (predicted); {verdict.quantized} of {verdict.linears} Linears quantized",
        )
    )
    if verdict.steps:
        rows.append(("steps", verdict.steps))
    if peak := peak_words(verdict):
        rows.append(("peak memory", f"{peak}, in a whole run"))
    if judges := _judges(verdict):
        rows.append(("judges", judges))
    if verdict.rule:
        bounds = f" ({' and '.join(verdict.asked)})" if verdict.asked else ""
        trial = f"; trial {verdict.trial}" if verdict.trial else ""
        rows.append(("choice", f"{verdict.rule}{bounds}{trial}"))
    return rows


def _speed(verdict: Verdict) -> str:
    """The speedup with its interval, of what it is, and where it comes from."""
    interval = verdict.speedup_interval90
    bounds = "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}] (90 %)"
    whole = verdict.part == "a whole run"
    part = "" if whole else f" of {verdict.part}"
    timed = verdict.shapes_speedup is not None
    where = f"for {verdict.target}{at_scale(verdict.stands_for)}"
    where = f"on {verdict.target}" if timed else where
    text = (
        f"{verdict.speedup:.3f}x{bounds}{part}, {verdict.origin} {where}:"
        f" {verdict.quantized_s:.4g} s{' a run' * whole} instead of {verdict.bf16_s:.4g} s"
    )
    if verdict.origin == "predicted" and verdict.stands_for == 1:
        text += f"; `sensitivity verify` times it where a {verdict.target} is"
    if timed:
        text += f"; {verdict.shapes_speedup:.3f}x by the sum of shapes"
    if verdict.whole_run_speedup is not None:
        text += f", {verdict.whole_run_speedup:.3f}x for a whole run"
    return text


def _pictures(verdict: Verdict, damage: Damage) -> str:
    """Typical and mean LPIPS with intervals, flips, and the worst prompt."""
    typical = (
        ""
        if damage.typical is None
        else f"typical {_distance(verdict)} {_value(damage, 'typical')}, "
    )
    text = (
        f"{typical}mean {_value(damage, 'mean')} on {damage.prompts} unseen prompts;"
        f" {flips_words(damage.flips, damage.prompts)}"
    )
    if verdict.worst is not None and verdict.worst.lpips > 0:
        text += f"; the worst prompt has {lpips_words(verdict.worst.lpips)}"
    return text


def _distance(verdict: Verdict) -> str:
    """What pictures were compared by."""
    return verdict.objective or "LPIPS"


def _value(damage: Damage, name: str) -> str:
    value, interval = getattr(damage, name), getattr(damage, f"{name}_ci95")
    return lpips_words(value) if interval is None else interval_words(value, interval)


def _short(value: float) -> str:
    """An LPIPS to compare with: two decimals say enough of a large one."""
    return f"{value:.2f}" if value >= 0.1 else lpips_words(value)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3].rstrip()}..."


def _judges(verdict: Verdict) -> str:
    """What other metrics say, each with that of bf16 beside itself."""
    found = []
    for own in verdict.judges:
        name = own.name.partition(" (")[0]
        if name in DETAILS:
            continue
        unit = f" {own.unit}" if own.unit else ""
        again = "" if own.noise_floor is None else f" (bf16 again {own.noise_floor:.3g})"
        found.append(f"{name} {own.mean:.3g}{unit}{again}")
    return ", ".join(found)


def _beside(verdict: Verdict) -> FittedTable:
    """The recipe and the lists that people write by hand, on the same prompts."""
    prompts = verdict.damage.prompts if verdict.damage is not None else 0
    timed = any(own.speedup_interval90 for own in verdict.against)
    table = FittedTable(
        words("list", least=16),
        number("speedup"),
        number("[90 %]", drop=2, called="intervals of the speedups"),
        number("typical" if verdict.objective else "typical LPIPS"),
        number("[95 %]", drop=1, called="intervals of typical"),
        number("mean", drop=4),
        number("[95 %]", drop=1, called="intervals of mean"),
        number("flips", drop=3),
        number("ratio [95 %]"),
        title=(
            f"beside lists by hand on the same {prompts} prompts; ratio: the recipe's typical"
            f" {_distance(verdict)} over the list's, prompt by prompt"
        ),
    )
    table.add_row(
        "this recipe",
        f"{verdict.speedup:.3f}x",
        _bounds(verdict.speedup_interval90) if timed else "",
        *_damage_cells(verdict.damage),
        "",
        style="bold green",
    )
    for own in sorted(verdict.against, key=lambda own: -(own.speedup or 0)):
        table.add_row(
            own.name,
            _speedup_of(verdict, own),
            _bounds(own.speedup_interval90),
            *_damage_cells(own.damage),
            _ratio(own),
        )
    return table


def _damage_cells(damage: Damage | None) -> tuple[str, str, str, str, str]:
    """Typical LPIPS, its interval, mean, its interval, flips."""
    if damage is None:
        return "", "", "", "", ""
    typical = "" if damage.typical is None else lpips_words(damage.typical)
    flips = "" if damage.flips is None else f"{damage.flips}/{damage.prompts}"
    return (
        typical,
        bounds_words(damage.typical_ci95),
        lpips_words(damage.mean),
        bounds_words(damage.mean_ci95),
        flips,
    )


def _speedup_of(verdict: Verdict, own: Against) -> str:
    """A list's speedup; "by shapes" where it was not timed and the recipe was."""
    if own.speedup is None:
        return ""
    untimed = verdict.shapes_speedup is not None and not own.is_timed
    return f"{own.speedup:.3f}x{' by shapes' if untimed else ''}"


def _bounds(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"


def _ratio(own: Against) -> str:
    if own.ratio is None:
        return ""
    interval = own.ratio_ci95
    bounds = "" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]"
    return f"{own.ratio:.2f}{bounds}"


def _kept(verdict: Verdict) -> Lines:
    """What stays in bf16, as patterns; a line below has those without a row of their own."""
    stays = verdict.linears - verdict.quantized
    table = FittedTable(
        number("Linears"),
        words("pattern", least=24),
        words("why", least=16),
        title=f"stays bf16: {stays} of {verdict.linears} Linears",
    )
    own, rest = _split(verdict.kept)
    for kept in own:
        table.add_row(str(kept.count), printable(kept.pattern), printable(kept.reason))
    if not rest:
        return Lines(table)
    count = sum(kept.count for kept in rest)
    names = and_more([printable(kept.pattern) for kept in rest], most=MOST_NAMED)
    more = f"and {len(rest)} more patterns ({count} Linears): {names}"
    return Lines(table, Text(more, style="dim"))


def _split(kept: Sequence[Kept]) -> tuple[Sequence[Kept], Sequence[Kept]]:
    """Patterns with a row of their own, and the others."""
    most = MOST_PATTERNS if len(kept) > MOST_PATTERNS + 1 else len(kept)
    return kept[:most], kept[most:]


def _takers(snippets: Sequence[Snippet]) -> list[tuple[str, str]]:
    """Who takes the recipe as it is, and who cannot, with the first reason."""
    takers = [own.consumer for own in snippets if own.text]
    rows = [("exports to", f"{', '.join(takers) or 'no tool'}")]
    others = [own for own in snippets if not own.text]
    rows += [("not to", f"{own.consumer}: {_reason(own)}") for own in others]
    if others:
        rows.append(
            (
                "",
                "`search --for NAME` finds a recipe that it takes; `export --nearest` writes the"
                " nearest to this one",
            )
        )
    return rows


def _reason(snippet: Snippet) -> str:
    """The first reason why a consumer cannot express the recipe, without names of layers."""
    text = re.sub(r" \([^()]*\)", "", snippet.notes[0] if snippet.notes else "it is not known why")
    return _cut(text.partition("; ")[0].partition(": ")[0], MOST_REASON)


def _bytes(value: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value} B"
