"""The page of a report: complete without scripts, without requests, and hostile texts stay text."""

import base64
import gzip
import json
import shlex
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from sensitivity.cli.app import app
from sensitivity.cli.render.page import scripts
from sensitivity.cli.render.page.charts import charts_of, chosen_trial, differences, formats_of
from sensitivity.cli.render.page.commands import next_commands, search_command, select_command
from sensitivity.cli.render.page.heatmap import heat_tables
from sensitivity.cli.render.page.markdown import markdown_of
from sensitivity.cli.render.page.media import embed
from sensitivity.cli.render.page.numbers import interval, lpips, memory, milliseconds, seconds
from sensitivity.cli.render.page.page import MOST_BYTES, render_page
from sensitivity.cli.render.page.plots import plots_of
from sensitivity.cli.render.page.svg import svg_of
from sensitivity.cli.render.page.texts import visible
from sensitivity.errors import UserError
from sensitivity.workflows.report.picture_records import Gallery
from sensitivity.workflows.report.records import Report, Reproduction

from support.reports import HOSTILE, WINNER, hostile_report

VOID = {"meta", "link", "br", "input", "img"}


class Reader(HTMLParser):
    """What a browser sees: elements, attributes, texts, and whether tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.scripts: dict[str, str] = {}
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.elements.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts[found.get("id", "")] = ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[list(self.scripts)[-1]] += data
        else:
            self.texts.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A report in which every name is hostile."""
    return hostile_report(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    """Its page."""
    return render_page(report)


@pytest.fixture(scope="module")
def page(html: str) -> Reader:
    """Its page, read."""
    return Reader(html)


def test_hostile_texts_stay_text(page: Reader) -> None:
    """No name of a layer, list, prompt or version becomes an element, an attribute or a script."""
    tags = Counter(tag for tag, _ in page.elements)
    assert tags["script"] == 3
    assert not tags["img"]
    assert not [key for _, attrs in page.elements for key in attrs if key.startswith("on")]
    assert page.wrong == []
    assert page.open == []
    shown = " ".join(page.texts)
    assert shown.count("<script>alert(1)</script>") > 20
    assert "{{7*7}}" in shown


def test_marks_of_direction_are_written_out(page: Reader) -> None:
    """A text cannot turn the direction of what stands beside it."""
    assert not set("\u202e\u2066\u2028") & set("".join(page.texts))
    assert "[U+202E]RTL" in "".join(page.texts)
    assert visible("a\tb\nc\x1b") == "a\tb\nc[U+001B]"


def test_the_page_asks_nobody(page: Reader) -> None:
    """Everything is in the file: each address is of this page or holds its data."""
    addresses = [
        value
        for _, attrs in page.elements
        for key, value in attrs.items()
        if key in ("src", "href", "action", "srcset", "poster", "xlink:href")
    ]
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    policy = next(
        attrs["content"]
        for tag, attrs in page.elements
        if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "url(" not in scripts.template("page.css")


def test_data_are_embedded_and_plotly_once(page: Reader, report: Report) -> None:
    """What scripts read is the report as JSON, and plotly is the installed one, unchanged."""
    data = json.loads(page.scripts["data"])
    kept = data["report"] | {"snippets": [own.model_dump() for own in report.snippets]}
    kept["gallery"]["folder"] = report.gallery.folder
    assert Report.model_validate(kept) == report
    assert report.gallery.folder not in page.scripts["data"]
    assert not set("<>&\u2028") & set(page.scripts["data"])
    from plotly.offline import get_plotlyjs

    packed = base64.b64decode(page.scripts["plotly-packed"])
    assert gzip.decompress(packed).decode() == get_plotlyjs()


def test_the_same_report_gives_the_same_bytes(html: str, report: Report) -> None:
    """Nothing on the page depends on when or how often it is written."""
    assert render_page(report) == html
    again = Report.model_validate_json(report.model_dump_json())
    assert render_page(again) == html


def test_the_page_is_complete_without_scripts(page: Reader) -> None:
    """Numbers, pictures, charts and the recipe are there before any script has run."""
    shown = " ".join(" ".join(page.texts).split())
    for text in ("1.269×", "0.0095", "[0.0067, 0.0134]", "0.000038", "trial 2", "4608 × 3072"):
        assert text in shown
    used = [attrs["href"] for tag, attrs in page.elements if tag == "use"]
    held = {attrs["id"] for tag, attrs in page.elements if tag == "image"}
    assert {address.removeprefix("#") for address in used} == held == {"a.webp", "b.webp"}
    charts = [attrs["aria-label"] for tag, attrs in page.elements if attrs.get("class") == "chart"]
    assert len(charts) == 3
    links = [attrs for tag, attrs in page.elements if tag == "a" and "download" in attrs]
    recipe = base64.b64decode(links[0]["href"].partition("base64,")[2])
    assert json.loads(recipe)["name"] == HOSTILE
    assert [link["download"] for link in links] == ['a "b".json', "torchao.txt"]


def test_it_can_be_used_without_a_mouse_and_read_aloud(page: Reader) -> None:
    """Sections are labelled by their headings, pictures have words, ids are unique."""
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in page.elements:
        if tag == "section":
            assert attrs["aria-labelledby"] in ids
        if tag == "svg" and "store" not in attrs.get("class", ""):
            assert attrs.get("aria-label"), attrs
    fields = [attrs for tag, attrs in page.elements if tag == "input"]
    assert {attrs["type"] for attrs in fields} == {"radio", "range"}


def test_a_picture_that_is_gone_is_said(page: Reader) -> None:
    """A missing file of another list leaves words, not a broken picture."""
    assert "1 picture files are missing or damaged" in " ".join(page.texts)


def test_clips_have_a_player_for_both(tmp_path: Path) -> None:
    """Frames of a clip lie in one file; a control moves both lists at once, a strip shows all."""
    page = Reader(render_page(hostile_report(tmp_path, frames=4)))
    boxes = {
        attrs["viewbox"] for tag, attrs in page.elements if tag == "svg" and "viewbox" in attrs
    }
    assert {"0 0 16 16", "0 0 64 16"} <= boxes
    frame = next(attrs for _, attrs in page.elements if attrs.get("class") == "frame")
    assert (frame["min"], frame["max"]) == ("0", "3")


def test_a_large_page_stays_small(tmp_path: Path) -> None:
    """1,371 layers and 500 trials fit, and pictures take no more than the rest leaves."""
    size = len(render_page(hostile_report(tmp_path, blocks=457, trials=500)).encode())
    assert size < MOST_BYTES < 10_000_000


def test_pictures_go_in_as_long_as_there_is_room(tmp_path: Path) -> None:
    """The recipe's pair goes first; what has no room is counted; what is no picture is missing."""
    gallery = hostile_report(tmp_path).gallery
    everything = embed(gallery, most_bytes=10**6)
    assert set(everything.images) == {"a.webp", "b.webp"}
    assert everything.missing == ["gone.webp"]
    half = embed(gallery, most_bytes=everything.size - 1)
    assert set(half.images) == {"a.webp"}
    assert half.left_out == 1
    (tmp_path / "b.webp").write_bytes(b"RIFF\x00\x00\x00\x00WEBPVP8 nothing")
    Image.new("RGB", (4, 4)).save(tmp_path / "gone.webp", "PNG")
    assert embed(gallery, most_bytes=10**6).missing == ["b.webp", "gone.webp"]
    assert embed(Gallery(), most_bytes=10).images == {}


def test_the_recipe_is_found_among_the_trials(report: Report) -> None:
    """The trial with exactly the recipe's formats is marked; others say what they do otherwise."""
    chosen = chosen_trial(report)
    assert chosen is not None
    assert chosen.name == WINNER
    assert formats_of(report, chosen) == {layer.fqn: layer.format for layer in report.layers}
    assert differences(report, chosen, chosen) == []
    assert differences(report, report.trials[0], chosen)[0].startswith("nvfp4 → bf16: ")


def test_charts_hold_the_numbers_of_the_report(report: Report) -> None:
    """Points lie at the trials' own speedups and damages, with the intervals of their pictures."""
    charts = charts_of(report)
    assert set(charts) == {"front", "growth", "trust-0"}
    points = {
        name: (x, y, low, high)
        for series in charts["front"].series
        for name, x, y, low, high in zip(
            series.names, series.x, series.y, series.low, series.high, strict=True
        )
    }
    for trial in report.trials:
        assert trial.own_ci95 is not None
        assert points[trial.name] == (trial.speedup, trial.typical, *trial.own_ci95)
    assert Reader(svg_of(charts["front"])).wrong == []


def test_cells_say_why_a_linear_is_not_free(report: Report) -> None:
    """Refused, never called and fixed Linears have a mark, a style of their own, and no shade."""
    cells = [cell for row in heat_tables(report.layers)[0].rows for cell in row.cells]
    marks = {cell.layers[0].state: cell for cell in cells if cell is not None}
    assert [marks[state].mark for state in ("refused", "never called", "fixed")] == list("×∅▪")
    assert marks["never called"].kind == "never-called"
    assert marks["refused"].damage is None
    free = [cell for cell in cells if cell is not None and cell.layers[0].state == "free"]
    assert max(cell.damage or 0 for cell in free) == 1.0


def test_markdown_is_one_table_that_names_cannot_leave(report: Report) -> None:
    """Each row has as many cells as the heading, and no name opens a tag, a link or a cell."""
    text = markdown_of(report)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 6
    assert len({line.replace(r"\|", "").count("|") for line in rows}) == 1
    assert "<" not in text
    assert r"\`" in text
    assert "1.269× [1.200, 1.320]" in text
    assert "1 of 24" in text
    assert "0.0602: &lt;script&gt;" in text
    bare = report.model_copy(update={"verdict": None, "gaps": {"verdict": "no recipe yet"}})
    assert markdown_of(bare).endswith("no recipe yet\n")


def test_commands_have_options_that_exist(report: Report) -> None:
    """What the page tells a person to run is a command, with its own options."""
    odd = {"latency": "measured", "seed": "3", "calibrated": "false", "emulate": "true"}
    other = {"sampler": "tpe", "granularity": "layer", "runtime": "x", "objective": "a:b"}
    own = Reproduction(search=dict(report.reproduction.search) | odd | other)
    changed = report.model_copy(update={"reproduction": own})
    commands: Any = typer.main.get_command(app)
    for line in (
        search_command(changed),
        select_command(report, report.trials[0]),
        *(line for _, line in next_commands(report)),
    ):
        program, name, *words = shlex.split(line)
        known = {option for p in commands.commands[name].params for option in p.opts}
        known |= {option for p in commands.commands[name].params for option in p.secondary_opts}
        assert program == "sensitivity"
        assert {word for word in words if word.startswith("--")} <= known
    assert "--sampler tpe" in search_command(changed)
    assert "--seed" not in search_command(report)


def test_png_files_are_drawn_and_marked(report: Report) -> None:
    """Front, heatmap and pictures are drawn, with names that are no formulas."""
    made = plots_of(report)
    assert set(made) == {"front.png", "heatmap.png", "pictures.png"}
    assert all(b"sensitivity report" in data[:1000] for data in made.values())


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without plotly or matplotlib the message has the command that installs them."""
    scripts.page_scripts.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"plotly.*not installed.*pip install jinja2 plotly"):
        scripts.page_scripts()
    with pytest.raises(UserError, match=r"matplotlib.*not installed.*pip install matplotlib"):
        plots_of(Report.model_construct())


def test_numbers_keep_what_they_say() -> None:
    """Tiny values are not cut to nothing, and units follow the size."""
    assert [lpips(v) for v in (3.8e-05, 0.01567, 0, 0.43, None)] == [
        "0.000038",
        "0.0157",
        "0",
        "0.43",
        "–",
    ]
    assert (milliseconds(2.5), seconds(0.0754), seconds(3.2)) == ("2.5 ms", "75.4 ms", "3.2 s")
    assert (memory(11_700_000), memory(900)) == ("11.7 MB", "900 B")
    assert (interval((0.0067, 0.0134)), interval(None)) == ("[0.0067, 0.0134]", "")


def test_peak_memory_has_a_column_where_it_is_known(report: Report) -> None:
    """Each list's, and the recipe's in the verdict; a report of an older recipe has neither."""
    assert report.verdict is not None
    verdict = report.verdict.model_copy(
        update={
            "peak_bytes": 23 * 10**9,
            "bf16_peak_bytes": 36 * 10**9,
            "peak_source": "measured",
        }
    )
    first, *others = report.trials
    trials = (first.model_copy(update={"memory_bytes": 21 * 10**9}), *others)
    known = render_page(report.model_copy(update={"verdict": verdict, "trials": trials}))
    assert "a peak of 23 GB instead of 36 GB (measured) of GPU memory" in known
    assert '<td class="n" data-v="21000000000">21 GB</td>' in known
    assert known.count("peak memory, predicted</th>") == 1
    older = render_page(report)
    assert "peak memory, predicted" not in older
    assert "of GPU memory" not in older
