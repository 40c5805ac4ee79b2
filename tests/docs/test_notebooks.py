"""The notebooks are good to read. `.ci/run` runs them: `docs/make_notebooks.py --check`."""

import ast
import functools
import importlib.util
import re
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


@functools.cache
def made() -> Any:
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


def test_there_are_five() -> None:
    """The notebooks are numbered in the order in which they are read."""
    assert [path.stem[0] for path in NOTEBOOKS] == ["1", "2", "3", "4", "5"]


def test_a_change_of_outputs_is_seen() -> None:
    """What `docs/make_notebooks.py --check` compares: kinds of outputs and columns of tables, of
    each cell, but no numbers.
    """
    shown, given = committed(NOTEBOOKS[0]), committed(NOTEBOOKS[0])
    assert made().differences("x", shown, given) == []
    cells = [cell for cell in made().code_of(given) if cell.outputs]
    table = next(cell for cell in cells if any(made().form(o)[0] == "table" for o in cell.outputs))
    for output in table.outputs:
        if "text/html" in output.get("data", {}):
            output.data["text/html"] = output.data["text/html"].replace("</th>", "x</th>")
    cells[-1].outputs.clear()
    assert len(made().differences("x", shown, given)) == 2 - (table is cells[-1])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_imports_the_library_and_defines_nothing(path: Path) -> None:
    """No function, class or lambda; only public names; few imports."""
    tree = ast.parse("\n".join(cell.source for cell in made().code_of(committed(path))))
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
    kinds = {made().form(output)[0] for cell in made().code_of(book) for output in cell.outputs}
    assert kinds & {"picture", "table"}
    assert not kinds & {"error"}
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(?:home|root|tmp|work|Users)/", text)
    for cell in book.cells:
        for target in re.findall(r"\]\(([^)]+)\)", cell.source):
            assert (path.parent / target).exists(), target
