"""What does a dashboard show of a study beside its trials? Notes in Markdown, and plotly figures.

    study_note(report), trial_notes(report)("trial 3", "/artifacts/1/7"), figures_of(report)

Numbers and drawings are those of the page that `sensitivity report` writes. Texts of prompts and
models are escaped, as in its Markdown.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

from sensitivity.cli.render.page import numbers
from sensitivity.cli.render.page.charts import Chart, Series, charts_of
from sensitivity.cli.render.page.markdown import cell_of, markdown_of
from sensitivity.workflows.dashboard import picture_key
from sensitivity.workflows.report.picture_records import Scene
from sensitivity.workflows.report.records import Report, Trial

COLOURS = {
    "blue": "#2a6fdb",
    "green": "#1f9d55",
    "orange": "#d97706",
    "grey": "#7a7f87",
    "faint": "#b8bcc2",
}
MOST_SCENES = 12


def study_note(report: Report) -> str:
    """The verdict as a table, and where more is."""
    names = sorted({name for scene in report.gallery.scenes for name in scene.pictures} - {"bf16"})
    lines = [markdown_of(report), ""]
    if names:
        shown = ", ".join(cell_of(name) for name in names)
        lines += [f"Pictures were kept of: {shown}. They are at these trials.", ""]
    lines += [f"- {cell_of(gap)}" for gap in report.gaps.values()]
    lines.append(
        "\nTrials have the names that tables and recipes give them; Optuna's own numbers begin at 0"
        " and count what only repeated another list, too."
    )
    return "\n".join(lines)


def trial_notes(report: Report) -> Callable[[str, str], str]:
    """A function of a trial's name, and of how the address of its pictures begins.

    It gives the trial's numbers, and its pictures beside bf16's, the worst prompt first.
    """
    trials = {own.name: own for own in report.trials}
    scenes: dict[str, list[Scene]] = {}
    for scene in report.gallery.scenes:
        for name in scene.pictures:
            scenes.setdefault(name, []).append(scene)

    def note(name: str, address: str) -> str:
        parts = [_numbers(trials[name])] if name in trials else []
        if shown := scenes.get(name, [])[:MOST_SCENES]:
            parts.append("\n".join(_pictures(shown, name, address)))
        return "\n\n".join(parts)

    return note


def _numbers(trial: Trial) -> str:
    where = "; on the front" if trial.on_front else ""
    edges = f", {trial.policy}" if trial.policy else ""
    own = (
        f"; its own pictures: {numbers.lpips(trial.own_typical)} {numbers.interval(trial.own_ci95)}"
        if trial.own_typical is not None
        else ""
    )
    return (
        f"**{cell_of(trial.name)}** ({trial.kind}){edges}: {numbers.speedup(trial.speedup)},"
        f" {numbers.seconds(trial.seconds)} a run, {trial.quantized} Linears quantized, typical"
        f" LPIPS {numbers.lpips(trial.typical)} (estimate){own}{where}"
    )


def _pictures(scenes: list[Scene], name: str, address: str) -> Iterator[str]:
    yield f"| prompt | bf16 | {cell_of(name)} | LPIPS |"
    yield "| --- | --- | --- | ---: |"
    for scene in scenes:
        own = scene.pictures[name]
        images = (
            f"![{which}]({address}/{picture_key(file)})"
            for which, file in (("bf16", scene.pictures["bf16"].file), ("this list", own.file))
        )
        lpips = "" if own.lpips is None else numbers.lpips(own.lpips)
        yield f"| {cell_of(scene.prompt)} | {' | '.join(images)} | {lpips} |"


def figures_of(report: Report) -> dict[str, str]:
    """{id: a plotly figure as JSON} of the front, its growth, and predictions against truth."""
    return {name: json.dumps(_figure(chart)) for name, chart in charts_of(report).items()}


def _figure(chart: Chart) -> dict[str, Any]:
    """A chart as plotly takes it."""
    both = {"xy": "log", "y": "linear", "": "linear"}[chart.log]
    layout: dict[str, Any] = {
        "title": {"text": chart.label},
        "xaxis": {"title": {"text": chart.x_title}, "type": both},
        "yaxis": {"title": {"text": chart.y_title}, "type": "log" if chart.log else "linear"},
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": -0.3},
    }
    return {"data": [_trace(series) for series in chart.series], "layout": layout}


def _trace(series: Series) -> dict[str, Any]:
    colour = COLOURS.get(series.colour, series.colour)
    return {
        "type": "scatter",
        "mode": "lines+markers" if series.stairs else "markers",
        "name": series.name,
        "x": series.x,
        "y": series.y,
        "text": ["<br>".join(map(_plain, lines)) for lines in series.texts],
        "hoverinfo": "text",
        "line": {"shape": "hv", "color": colour},
        "marker": {"symbol": series.symbol, "color": colour, "size": 9},
    }


def _plain(text: str) -> str:
    """A text that plotly shows as it is: it reads a few tags of HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
