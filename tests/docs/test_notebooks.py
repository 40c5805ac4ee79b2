"""The notebooks run, show what is committed, and are good to read."""

import ast
import importlib.util
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pytest

import sensitivity

from support.paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
IMPORTED = {"sensitivity", "torch", "diffusers"}
"""What a notebook may import."""
MOST_LINES = 20
"""Lines of a cell."""


def script() -> Any:
    """`docs/make_notebooks.py` as a module."""
    path = ROOT / "docs" / "make_notebooks.py"
    spec = importlib.util.spec_from_file_location("make_notebooks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def committed(path: Path) -> nbformat.NotebookNode:
    """A notebook as it is in the repository."""
    return nbformat.read(path, as_version=4)


def contents() -> dict[str, tuple[int, int]]:
    """{file under notebooks/: its size and when it was written}."""
    files = (file for file in (ROOT / "notebooks").rglob("*") if file.is_file())
    return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in files}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, nbformat.NotebookNode]:
    """All notebooks, run in a scratch folder. Nothing is written beside the committed ones."""
    before = contents()
    done: dict[str, nbformat.NotebookNode] = script().run(
        NOTEBOOKS, tmp_path_factory.mktemp("notebooks")
    )
    assert contents() == before
    return done


class Heads(HTMLParser):
    """The column names of the tables in a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.inside = False
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.inside = tag == "thead" or (self.inside and tag != "tbody")

    def handle_data(self, data: str) -> None:
        if self.inside and data.strip():
            self.found.append(data.strip())


def form(output: nbformat.NotebookNode) -> tuple[str, ...]:
    """What kind of thing an output is: a stream, pictures, tables by their columns, or a repr by
    its class. Numbers differ from machine to machine.
    """
    if output.output_type != "display_data" and output.output_type != "execute_result":
        return output.output_type, output.get("name", "")
    data = output.data
    if any(kind.startswith("image/") for kind in data):
        return ("picture",)
    if "text/html" in data:
        return "table", *Heads(data["text/html"]).found
    return "text", re.split(r"[\W\d]", data["text/plain"])[0]


def code_of(book: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    """The code cells."""
    return (cell for cell in book.cells if cell.cell_type == "code")


def test_there_are_five() -> None:
    """The notebooks are numbered in the order in which they are read."""
    assert [path.stem[0] for path in NOTEBOOKS] == ["1", "2", "3", "4", "5"]


@pytest.mark.timeout(900)  # the first runs all of them, in half a minute where nothing else runs
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_its_code_gives(
    path: Path, outputs: dict[str, nbformat.NotebookNode]
) -> None:
    """Each cell runs, and its committed outputs are of the kinds that it gives."""
    shown = [list(map(form, cell.outputs)) for cell in code_of(committed(path))]
    given = [list(map(form, cell.outputs)) for cell in code_of(outputs[path.stem])]
    assert shown == given, f"run uv run python docs/make_notebooks.py {path.stem}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_imports_the_library_and_defines_nothing(path: Path) -> None:
    """No function, class or lambda; only public names; few imports."""
    tree = ast.parse("\n".join(cell.source for cell in code_of(committed(path))))
    for node in ast.walk(tree):
        assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        assert not isinstance(node, ast.Lambda)
        if isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= IMPORTED
        if isinstance(node, ast.ImportFrom):
            assert node.module in IMPORTED - {"sensitivity"}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id != "sensitivity" or node.attr in sensitivity.__all__


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_good_to_read(path: Path) -> None:
    """It begins with a title, its cells are short, pictures or tables are shown, its links lead
    somewhere, and nothing names the machine that it ran on.
    """
    book = committed(path)
    nbformat.validate(book)
    assert book.cells[0].source.startswith("# ")
    assert [cell.id for cell in book.cells if len(cell.source.splitlines()) > MOST_LINES] == []
    kinds = {form(output)[0] for cell in code_of(book) for output in cell.outputs}
    assert kinds & {"picture", "table"}
    assert not kinds & {"error"}
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(?:home|root|tmp|work|Users)/", text)
    for cell in book.cells:
        for target in re.findall(r"\]\(([^)]+)\)", cell.source):
            assert (path.parent / target).exists(), target
