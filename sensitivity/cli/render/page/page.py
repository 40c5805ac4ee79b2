"""How does a report become one HTML file? `render_page`.

    html = render_page(collect_report(find_subject("tiny-flux")))

The page needs no network and makes no request: its policy forbids any. Every text of a report is
escaped by jinja2, and what scripts read is JSON in which `<`, `>` and `&` are escaped too. The same
report and pictures give the same bytes. Without scripts the page shows all numbers, pictures and
charts; scripts add sliders, sorting, hovering and clicking.
"""

import base64
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from sensitivity.cli.render.page import numbers
from sensitivity.cli.render.page.charts import Chart, charts_of, chosen_trial, differences
from sensitivity.cli.render.page.commands import next_commands, search_command, select_command
from sensitivity.cli.render.page.heatmap import heat_tables
from sensitivity.cli.render.page.media import Shown, embed
from sensitivity.cli.render.page.scripts import MISSING, Scripts, page_scripts, template
from sensitivity.cli.render.page.svg import svg_of
from sensitivity.cli.render.page.texts import visible
from sensitivity.errors import UserError
from sensitivity.workflows.report.records import Report
from sensitivity.workflows.report.verdict_words import peak_words

MOST_BYTES = 9_600_000
"""Of a page; pictures take what the rest leaves."""


def render_page(report: Report) -> str:
    """The page of a report.

    Args:
        report: what is shown; picture files are read from `report.gallery.folder`.

    Raises:
        UserError: jinja2 or plotly is not installed.
    """
    scripts, charts = page_scripts(), charts_of(report)
    context = _context(report, charts, scripts)
    bare = _render(context | {"shown": Shown()})
    if not report.gallery.scenes:
        return bare
    shown = embed(report.gallery, most_bytes=max(0, MOST_BYTES - len(bare.encode())))
    return _render(context | {"shown": shown})


def _context(report: Report, charts: dict[str, Chart], scripts: Scripts) -> dict[str, Any]:
    """What the template reads besides the pictures."""
    from markupsafe import Markup

    chosen = chosen_trial(report)
    front = [trial for trial in report.trials if trial.on_front]
    return {
        "report": report,
        "verdict": report.verdict,
        "numbers": numbers,
        "charts": {name: Markup(svg_of(chart)) for name, chart in charts.items()},
        "heat": heat_tables(report.layers),
        "chosen": chosen,
        "peaks": any(trial.memory_bytes is not None for trial in report.trials),
        "peak": "" if report.verdict is None else peak_words(report.verdict),
        "next_commands": next_commands(report),
        "search_command": search_command(report),
        "recipe_uri": _json_uri(report.recipe),
        "data": Markup(_script_json(_data(report, charts, front, chosen))),
        "scripts": {
            "own": Markup(scripts.own),
            "styles": Markup(scripts.styles),
            "plotly": Markup(scripts.plotly),
            "policy": scripts.policy,
        },
        "text_uri": _text_uri,
        "file_name": _file_name,
        "folder": "/".join(Path(report.gallery.folder).parts[-2:]),
    }


def _data(report: Report, charts: dict[str, Chart], front: Any, chosen: Any) -> dict[str, Any]:
    """What scripts read: the report, the charts, and what differs from the recipe.

    Snippets are left out, which follow from the recipe, and where the pictures lay on this machine.
    """
    return {
        "report": report.model_dump(mode="json", exclude={"snippets": True, "gallery": {"folder"}}),
        "charts": [chart.to_json() for chart in charts.values()],
        "differences": {
            trial.name: differences(report, trial, chosen)
            for trial in report.trials
            if trial.on_front or trial.kind == "baseline"
        },
        "select": {trial.name: select_command(report, trial) for trial in front},
    }


def _render(context: dict[str, Any]) -> str:
    return str(_environment().get_template("page.html.j2").render(context)) + "\n"


@cache
def _environment() -> Any:
    """jinja2's, which escapes every text."""
    try:
        import jinja2
    except ImportError as error:
        raise UserError(MISSING.format(name=error.name or "jinja2")) from None
    return jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
        loader=jinja2.FunctionLoader(template),
    )


def _visible(value: Any) -> Any:
    """A text in which marks that turn the direction of others, and control characters, are seen."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return visible(value)


def _script_json(data: Any) -> str:
    """JSON that is safe inside a <script>: no character that HTML reads."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub(r"[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _json_uri(data: Any) -> str:
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return _text_uri(text, "application/json")


def _text_uri(text: str, kind: str = "text/plain") -> str:
    encoded = base64.b64encode(text.encode()).decode()
    return f"data:{kind};charset=utf-8;base64,{encoded}"


def _file_name(consumer: str, text: str) -> str:
    """What a downloaded snippet is called."""
    first = text.lstrip()[:1]
    return f"{consumer}{'.json' if first in '{[' else '.py' if 'import ' in text else '.txt'}"
