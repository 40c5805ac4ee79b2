"""What is drawn as points? `Chart`: a record that the script draws with plotly, and `svg` without.

    charts = charts_of(report)
    charts["front"].series[0].names          # of the points, for hovering and clicking

Positions are numbers of the report, never recomputed. Colours are names of the page's styles.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sensitivity.cli.render.page.numbers import interval, lpips, seconds, speedup
from sensitivity.core.words import and_more
from sensitivity.recipes.recipe import Recipe
from sensitivity.workflows.report.records import Comparison, Report, Trial

MOST_GROUPS = 8
BASE = 36
"""Of the characters of a trial's choice."""
"""Groups that a hover names before it counts the rest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Points of one kind.

    Attributes:
        name: of the kind.
        colour: a name of the page's styles.
        symbol: "circle", "diamond", "star" or "x".
        x, y: (N,) positions.
        names: (N,) what each point is.
        texts: (N,) lines of what hovering says.
        low, high: (N,) ends of the intervals of y, None for none; () where no point has one.
        stairs: whether the points are joined, along x to the next one and then along y.
    """

    name: str
    colour: str
    symbol: str = "circle"
    x: tuple[float, ...]
    y: tuple[float, ...]
    names: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    stairs: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Points over two axes.

    Attributes:
        id: of the place on the page.
        label: what it shows, for those who do not see it.
        x_title, y_title: of the axes.
        log: whether both axes or y alone are logarithmic: "", "y" or "xy".
        series: what is drawn, the last on top.
        diagonal: whether the line of equal values is drawn.
    """

    id: str
    label: str
    x_title: str
    y_title: str
    log: str = ""
    series: tuple[Series, ...] = field(default=())
    diagonal: bool = False

    def to_json(self) -> dict[str, Any]:
        """What the script draws."""
        return asdict(self)

    @property
    def is_empty(self) -> bool:
        """Whether there is no point to draw."""
        return not any(series.x for series in self.series)


def charts_of(report: Report) -> dict[str, Chart]:
    """The charts of a report by id; those without a point are left out."""
    charts = [_front(report), _growth(report)]
    charts += [_comparison(f"trust-{i}", own) for i, own in enumerate(report.trust)]
    return {chart.id: chart for chart in charts if not chart.is_empty}


def chosen_trial(report: Report) -> Trial | None:
    """The trial that the recipe is; None where it is not among the trials."""
    verdict = report.verdict
    if verdict is None:
        return None
    layers = {layer.fqn: layer.format for layer in report.layers}
    own = [trial for trial in report.trials if trial.kind != "stopped early"]
    by_number = [trial for trial in own if trial.number == verdict.trial]
    for trial in [*by_number, *own]:
        if layers and formats_of(report, trial) == layers:
            return trial
    return None


def formats_of(report: Report, trial: Trial) -> dict[str, str]:
    """{FQN: format} of a trial."""
    formats = {layer.fqn: "bf16" for layer in report.layers}
    for group, option in zip(report.groups, trial.choice, strict=False):
        for place in group.members[int(option, BASE)]:
            formats[report.layers[place].fqn] = report.formats[int(option, BASE)]
    return formats


def differences(report: Report, trial: Trial, chosen: Trial | None) -> list[str]:
    """What a trial does otherwise than the recipe, a line for each kind of change."""
    if chosen is None or _is_same(trial, chosen):
        return []
    changes: dict[tuple[str, str], list[str]] = {}
    for group, own, other in zip(report.groups, trial.choice, chosen.choice, strict=False):
        if own != other:
            kind = report.formats[int(other, BASE)], report.formats[int(own, BASE)]
            changes.setdefault(kind, []).append(group.name)
    steps = [] if trial.policy == chosen.policy else [trial.policy or "every step quantized"]
    return [
        *steps,
        *(
            f"{old} → {new}: {and_more(names, most=MOST_GROUPS)}"
            for (old, new), names in sorted(changes.items())
        ),
    ]


def _is_same(one: Trial, other: Trial) -> bool:
    return (one.choice, one.policy) == (other.choice, other.policy)


def _front_of_recipe(report: Report) -> tuple[Series, ...]:
    """The front as the recipe keeps it, for a report without trials."""
    if not report.recipe or report.verdict is None:
        return ()
    front = Recipe.from_mapping(report.recipe).front
    rows = [
        (own.latency.speedup, own.lpips if own.typical is None else own.typical, own.name)
        for own in front
    ]
    own_name = f"trial {report.verdict.trial}"
    return tuple(
        Series(
            name=name,
            colour=colour,
            symbol=symbol,
            x=tuple(row[0] for row in found),
            y=tuple(max(row[1], 1e-6) for row in found),
            names=tuple(row[2] for row in found),
            texts=tuple(
                (f"{row[2]}: {speedup(row[0])}", f"typical LPIPS {lpips(row[1])}") for row in found
            ),
            stairs=symbol == "circle",
        )
        for name, colour, symbol, found in (
            ("front: no list is both faster and better", "blue", "circle", rows),
            ("the recipe", "green", "star", [row for row in rows if row[2] == own_name]),
        )
        if found
    )


def _front(report: Report) -> Chart:
    chosen = chosen_trial(report)
    stopped = [trial for trial in report.trials if trial.kind == "stopped early"]
    scored = [trial for trial in report.trials if trial.kind != "stopped early"]
    front = sorted((t for t in scored if t.on_front), key=lambda t: t.seconds)
    others = [t for t in scored if not t.on_front and t.kind == "proposal"]
    kinds = [
        ("stopped early", "faint", "x", stopped, False),
        ("tried", "grey", "circle", others, False),
        ("front: no list is both faster and better", "blue", "circle", front, True),
        ("baseline", "orange", "diamond", [t for t in scored if t.kind == "baseline"], False),
        ("the recipe", "green", "star", [chosen] if chosen is not None else [], False),
    ]
    floor = _least(scored)
    return Chart(
        id="front",
        label="Speedup against typical LPIPS of every list that was tried",
        x_title="speedup over bf16",
        y_title="typical LPIPS (estimate; lower is better)",
        log="y",
        series=_front_of_recipe(report)
        if not report.trials
        else tuple(
            Series(
                name=name,
                colour=colour,
                symbol=symbol,
                x=tuple(t.speedup for t in own),
                y=tuple(max(t.typical, floor) for t in own),
                names=tuple(t.name for t in own),
                texts=tuple(tuple(_hover(report, t, chosen)) for t in own),
                low=tuple(None if t.own_ci95 is None else max(t.own_ci95[0], floor) for t in own)
                if symbol != "x"
                else (),
                high=tuple(None if t.own_ci95 is None else max(t.own_ci95[1], floor) for t in own)
                if symbol != "x"
                else (),
                stairs=stairs,
            )
            for name, colour, symbol, own, stairs in kinds
            if own
        ),
    )


def _least(trials: Sequence[Trial]) -> float:
    """Where a damage of 0 is drawn on a logarithmic axis: below all others."""
    return 0.5 * min((t.typical for t in trials if t.typical > 0), default=1e-4)


def _hover(report: Report, trial: Trial, chosen: Trial | None) -> Iterator[str]:
    yield f"{trial.name}: {speedup(trial.speedup)}, {seconds(trial.seconds)} a run"
    yield f"typical LPIPS {lpips(trial.typical)} (estimate), mean {lpips(trial.mean)}"
    if trial.own_typical is not None:
        yield f"its own pictures: {lpips(trial.own_typical)} {interval(trial.own_ci95)}"
    if chosen is not None and _is_same(trial, chosen):
        yield "this is the recipe"
    elif chosen is not None:
        yield from differences(report, trial, chosen)


def _growth(report: Report) -> Chart:
    rows, minutes = [], 0.0
    for trial in report.trials:
        minutes += trial.took_s / 60
        if trial.hypervolume is not None:
            rows.append((minutes, trial.hypervolume, trial))
    return Chart(
        id="growth",
        label="How the front grew while the search ran",
        x_title="minutes spent on trials",
        y_title="area that the front dominates, as a part of the last",
        series=(
            Series(
                name="front",
                colour="blue",
                x=tuple(row[0] for row in rows),
                y=tuple(row[1] for row in rows),
                names=tuple(row[2].name for row in rows),
                texts=tuple(
                    (f"after {trial.name}: {part:.1%}", f"it took {seconds(trial.took_s)}")
                    for _, part, trial in rows
                ),
                stairs=True,
            ),
        )
        if rows
        else (),
    )


def _comparison(name: str, own: Comparison) -> Chart:
    pairs = own.pairs
    positive = all(pair.first > 0 and pair.second > 0 for pair in pairs)
    series = Series(
        name=own.title,
        colour="blue",
        x=tuple(pair.first for pair in pairs),
        y=tuple(pair.second for pair in pairs),
        names=tuple(pair.name for pair in pairs),
        texts=tuple(
            (
                pair.name,
                f"{own.first}: {lpips(pair.first)}",
                f"{own.second}: {lpips(pair.second)} {interval(pair.second_ci)}",
            )
            for pair in pairs
        ),
        low=tuple(None if pair.second_ci is None else pair.second_ci[0] for pair in pairs),
        high=tuple(None if pair.second_ci is None else pair.second_ci[1] for pair in pairs),
    )
    return Chart(
        id=name,
        label=own.title,
        x_title=own.first,
        y_title=own.second,
        log="xy" if positive and "LPIPS" in own.first else "",
        series=(series,) if pairs else (),
        diagonal=True,
    )
