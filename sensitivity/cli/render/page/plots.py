"""How does a report become plots? By matplotlib: the front, the layers, the time, pictures.

    plots_of(report)["front.png"]           # bytes
    front_plot(report)                      # a matplotlib Figure, which a notebook shows

The same report gives the same bytes with one version of matplotlib. Parts without data give no
file, and no figure.
"""

import importlib
import io
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sensitivity.cli.render.page import numbers
from sensitivity.cli.render.page.charts import Chart, charts_of
from sensitivity.cli.render.page.heatmap import Cell, heat_tables
from sensitivity.cli.render.page.media import readable
from sensitivity.core.words import printable
from sensitivity.errors import UserError
from sensitivity.workflows.report.picture_records import Scene
from sensitivity.workflows.report.records import Report

COLOURS = {
    "blue": "#1f6fd6",
    "orange": "#b86500",
    "green": "#0b7a4b",
    "grey": "#6f7782",
    "faint": "#9aa2ad",
}
MARKERS = {"circle": "o", "diamond": "D", "star": "*", "x": "x"}
SIZES = {"circle": 22.0, "diamond": 55.0, "star": 190.0, "x": 18.0}
MARK = "sensitivity report"
MOST_SCENES = 6
MOST_CHARACTERS = 48
"""Of a name beside a row or under a column."""


def plots_of(report: Report) -> dict[str, bytes]:
    """{file name: PNG} of what the report has data for.

    Raises:
        UserError: matplotlib is not installed.
    """
    drawn = {
        "front.png": front_plot(report),
        "heatmap.png": layers_plot(report),
        "pictures.png": pictures_plot(report),
    }
    return {name: png_of(figure) for name, figure in drawn.items() if figure is not None}


def front_plot(report: Report) -> Any:
    """A matplotlib Figure of speedup against typical LPIPS of every list; None without trials.

    Raises:
        UserError: matplotlib is not installed.
    """
    charts = charts_of(report)
    return _front(_matplotlib(), charts["front"]) if "front" in charts else None


def layers_plot(report: Report) -> Any:
    """A matplotlib Figure of every Linear, block by role; None where no Linear is known.

    Raises:
        UserError: matplotlib is not installed.
    """
    return _layers(_matplotlib(), report) if report.layers else None


def pictures_plot(report: Report, *, most: int | None = None) -> Any:
    """A matplotlib Figure of pictures in bf16 and by the recipe, the worst prompts first; None
    without pictures.

    Args:
        report: what is drawn.
        most: how many prompts; None is `MOST_SCENES`.

    Raises:
        UserError: matplotlib is not installed.
    """
    return _pictures(_matplotlib(), report, MOST_SCENES if most is None else most)


def _matplotlib() -> Any:
    try:
        return importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise UserError(
            f"plots need matplotlib, and {error.name or 'matplotlib'} is not installed; expected"
            " it: run `pip install matplotlib`"
        ) from None


def png_of(figure: Any, *, dots: int = 150) -> bytes:
    """A Figure as a PNG of `dots` dots an inch."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dots, metadata={"Software": MARK})
    return file.getvalue()


def jpeg_of(figure: Any, *, dots: int = 150) -> bytes:
    """A Figure of pictures as a JPEG of `dots` dots an inch, a tenth of the PNG's size."""
    file = io.BytesIO()
    figure.savefig(file, format="jpeg", dpi=dots, pil_kwargs={"quality": 88})
    return file.getvalue()


def _front(pyplot: Any, chart: Chart) -> Any:
    figure = pyplot.Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    for series in chart.series:
        colour = COLOURS[series.colour]
        axes.scatter(
            series.x,
            series.y,
            c=colour,
            marker=MARKERS[series.symbol],
            s=SIZES[series.symbol],
            label=_plain(series.name),
            zorder=3,
        )
        if series.stairs:
            axes.step(series.x, series.y, where="post", color=colour, lw=1)
    axes.set_yscale("log")
    axes.set_xlabel(chart.x_title)
    axes.set_ylabel(chart.y_title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _layers(pyplot: Any, report: Report) -> Any:
    """Shades of damage, one panel a stack."""
    tables = [table for table in heat_tables(report.layers) if table.rows]
    heights = [max(1.2, 0.22 * len(table.rows) + 0.9) for table in tables]
    figure = pyplot.Figure(figsize=(10, sum(heights)), layout="constrained")
    panels = figure.subplots(len(tables), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, table in zip(panels, tables, strict=True):
        rows = [[_shade(cell) for cell in row.cells] for row in table.rows]
        axes.imshow(rows, aspect="auto", cmap="Reds", vmin=0, vmax=1, interpolation="nearest")
        for y, row in enumerate(table.rows):
            for x, cell in enumerate(row.cells):
                if cell is not None and len(table.rows) <= 40:
                    colour = "white" if (cell.damage or 0) > 0.6 else "black"
                    axes.text(x, y, cell.mark, ha="center", va="center", fontsize=6, color=colour)
        axes.set_title(_plain(table.name), fontsize=8, loc="left")
        axes.set_xticks(range(len(table.roles)), map(_plain, table.roles), fontsize=6, rotation=30)
        axes.set_yticks(
            range(len(table.rows)), [_plain(row.name) for row in table.rows], fontsize=6
        )
    figure.suptitle(
        "damage of each Linear (darkest: most; shade by square root), and its format", fontsize=9
    )
    return figure


def _shade(cell: Cell | None) -> float:
    """The shade of a cell: its damage; where that is not known, whether it is quantized."""
    if cell is None or cell.layers[0].state != "free":
        return float("nan")
    if cell.damage is not None:
        return cell.damage
    return 0.3 if cell.mark != "bf16" else 0.0


def _pictures(pyplot: Any, report: Report, most: int) -> Any:
    """bf16 and the recipe (else the first list), the worst prompts; None without pictures."""
    rows = list(_pairs(report))[:most]
    if not rows:
        return None
    figure = pyplot.Figure(figsize=(6, 3.2 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 2, squeeze=False)
    for (left, right), (scene, name, first, second) in zip(panels, rows, strict=True):
        lpips = numbers.lpips(scene.pictures[name].lpips)
        for axes, pixels, title in (
            (left, first, f"{textwrap.fill(_plain(scene.prompt, most=160), 48)}\nbf16"),
            (right, second, f"{_plain(name)}: LPIPS {lpips}"),
        ):
            axes.imshow(pixels)
            axes.set_axis_off()
            axes.set_title(title, fontsize=7, loc="left")
    return figure


def _pairs(report: Report) -> Iterator[tuple[Scene, str, Any, Any]]:
    gallery = report.gallery
    for scene in gallery.scenes:
        others = [name for name in scene.pictures if name != "bf16"]
        name = gallery.chosen if gallery.chosen in scene.pictures else others[0]
        both = [readable(Path(gallery.folder) / scene.pictures[own].file) for own in ("bf16", name)]
        if both[0] is not None and both[1] is not None:
            yield scene, name, both[0], both[1]


def _plain(text: str, *, most: int = MOST_CHARACTERS) -> str:
    """A text that matplotlib takes for a text: no formula, nothing that cannot be printed, cut."""
    short = text if len(text) <= most else f"{text[: most - 1]}…"
    return printable(short).replace("$", r"\$")
