"""How is a chart drawn without a script? `svg_of`: a chart as SVG, for printing and for browsers
that run no scripts.

    svg_of(chart)       # "<svg class=...>", safe to put into the page

Each point has a <title>, which browsers show when the mouse rests on it. Every text is escaped.
"""

import math
from collections.abc import Callable, Iterable
from html import escape as escape_html

from sensitivity.cli.render.page.charts import Chart, Series
from sensitivity.cli.render.page.texts import visible

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 74, 16, 14, 52
MOST_TITLES = 200
"""Points that say what they are; in larger charts the table does."""


def escape(text: str) -> str:
    """A text that is safe in an element and in an attribute."""
    return escape_html(visible(text))


def svg_of(chart: Chart) -> str:
    """The chart as an SVG element."""
    xs = [v for series in chart.series for v in series.x]
    ys = [v for series in chart.series for v in _spread(series)]
    if chart.diagonal:
        xs = ys = [*xs, *ys]
    x = _axis(xs, LEFT, WIDTH - RIGHT, log="x" in chart.log)
    y = _axis(ys, HEIGHT - BOTTOM, TOP, log="y" in chart.log)
    parts = [*_grid(chart, xs, ys, x, y)]
    if chart.diagonal:
        ends = (min(xs), max(xs))
        (x0, x1), (y0, y1) = map(x, ends), map(y, ends)
        parts.append(
            f'<line class="diagonal" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"/>'
        )
    for series in chart.series:
        parts += _series(series, x, y)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{escape(chart.label)}">{"".join(parts)}</svg>'
    )


def _spread(series: Series) -> Iterable[float]:
    """Values of y and ends of intervals."""
    yield from series.y
    yield from (v for v in (*series.low, *series.high) if v is not None)


def _axis(values: list[float], start: float, end: float, *, log: bool) -> Callable[[float], float]:
    """A function from values to pixels."""
    low, high = min(values), max(values)
    if log:
        low = max(low, 1e-9)
        a, b = math.log(low), math.log(max(high, low * 1.01))
    else:
        a, b = low, high if high > low else low + max(abs(low) * 0.1, 1e-9)
    pad = 0.05 * (b - a)

    def place(value: float) -> float:
        at = math.log(max(value, 1e-9)) if log else value
        return start + (end - start) * (at - a + pad) / (b - a + 2 * pad)

    return place


def _ticks(values: list[float], *, log: bool) -> list[float]:
    """About five round values within the range."""
    low, high = min(values), max(values)
    if log:
        low = max(low, 1e-9)
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(max(high, low)))
        steps = (1, 2, 5) if last - first <= 3 else (1,)
        found = [s * 10.0**e for e in range(first, last + 1) for s in steps]
        return [v for v in found if low * 0.999 <= v <= high * 1.001] or [low, high]
    span = (high - low) or max(abs(low), 1.0) * 0.1
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= 6)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)] or [low]


def _grid(
    chart: Chart,
    xs: list[float],
    ys: list[float],
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> Iterable[str]:
    bottom, middle = HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    for value in _ticks(xs, log="x" in chart.log):
        at = x(value)
        yield f'<line class="grid" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{bottom}"/>'
        yield f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{value:.4g}</text>'
    for value in _ticks(ys, log="y" in chart.log):
        at = y(value)
        yield f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}"/>'
        yield f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:.3g}</text>'
    centre = (LEFT + WIDTH - RIGHT) / 2
    low = HEIGHT - 12
    yield f'<text x="{centre}" y="{low}" text-anchor="middle">{escape(chart.x_title)}</text>'
    yield (
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(chart.y_title)}</text>"
    )


def _series(
    series: Series, x: Callable[[float], float], y: Callable[[float], float]
) -> Iterable[str]:
    points = [(x(a), y(b)) for a, b in zip(series.x, series.y, strict=True)]
    yield f'<g class="{escape(series.colour)}">'
    if series.stairs and len(points) > 1:
        path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
        path += "".join(f"H{a:.1f}V{b:.1f}" for a, b in points[1:])
        yield f'<path class="line" d="{path}"/>'
    for i, (a, _) in enumerate(points):
        if series.low and series.low[i] is not None and series.high[i] is not None:
            low, high = y(float(series.low[i] or 0)), y(float(series.high[i] or 0))
            yield f'<line class="error" x1="{a:.1f}" y1="{low:.1f}" x2="{a:.1f}" y2="{high:.1f}"/>'
    for i, (a, b) in enumerate(points):
        title = (
            f"<title>{escape(chr(10).join(series.texts[i]))}</title>"
            if len(points) <= MOST_TITLES
            else ""
        )
        element = "circle" if series.symbol == "circle" else "path"
        yield f"{_mark(series.symbol, a, b)}>{title}</{element}>"
    yield "</g>"


def _mark(symbol: str, a: float, b: float) -> str:
    """The start of a point's element."""
    if symbol == "circle":
        return f'<circle class="mark" cx="{a:.1f}" cy="{b:.1f}" r="4"'
    shapes = {
        "diamond": f"M{a:.1f} {b - 7:.1f}l6 7l-6 7l-6 -7z",
        "x": f"M{a - 3:.1f} {b - 3:.1f}l6 6m0 -6l-6 6",
        "star": (
            f"M{a:.1f} {b - 10:.1f}l2.9 6.2 6.8 .7 -5.1 4.5 1.5 6.7 -6.1 -3.5 -6.1 3.5 1.5 -6.7"
            " -5.1 -4.5 6.8 -.7z"
        ),
    }
    return f'<path class="mark {symbol}" d="{shapes[symbol]}"'
