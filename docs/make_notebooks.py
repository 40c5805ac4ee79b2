"""Runs the notebooks and writes their outputs into them.

    uv run python docs/make_notebooks.py                     # all of them
    uv run python docs/make_notebooks.py 3_audit_your_list   # one
    uv run python docs/make_notebooks.py --check             # writes nothing

`--check` fails where a cell raises, where its outputs are of other kinds than the committed ones,
or where a notebook leaves a file beside them. It prints nothing where all is well.

They run one after the other in a copy of `notebooks/` in a scratch folder, so that nothing but the
notebooks is written. All share one kernel of this Python, whose names are forgotten before each:
importing torch and diffusers takes longer than most of them. `.ci/run` checks them;
`tests/docs/test_notebooks.py` reads what is committed.
"""

import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
LONGEST_S = 600
"""Seconds that a cell may take; on a busy machine all take longer."""


def notebooks() -> list[Path]:
    """The notebooks in their order."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def run(paths: Iterable[Path], scratch: Path) -> dict[str, nbformat.NotebookNode]:
    """{name: notebook with its outputs}, run in the folder `scratch`.

    Raises:
        CellExecutionError: a cell raised.
    """
    return asyncio.run(_run(paths, scratch))


async def _run(paths: Iterable[Path], scratch: Path) -> dict[str, nbformat.NotebookNode]:
    folder = scratch / "notebooks"
    shutil.copytree(NOTEBOOKS / "data", folder / "data")
    # caches are the scratch folder's, but for matplotlib's list of fonts, which takes seconds
    caches = {"XDG_CACHE_HOME": str(scratch / "cache"), "MPLCONFIGDIR": matplotlib.get_cachedir()}
    # no port of this machine: sockets in the scratch folder
    kernel = AsyncKernelManager(
        kernel_name="python3", transport="ipc", connection_file=str(scratch / "kernel.json")
    )
    done = {}
    try:
        for path in paths:
            book = nbformat.read(path, as_version=4)
            book.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
            client = NotebookClient(
                book,
                km=kernel,
                timeout=LONGEST_S,
                resources={"metadata": {"path": str(folder)}},
                record_timing=False,
            )
            await client.async_execute(env=os.environ | caches)
            client.kc.stop_channels()
            done[path.stem] = tidy(book)
    finally:
        if kernel.has_kernel:
            await kernel.shutdown_kernel(now=True)
    return done


def tidy(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without what belongs to one run: versions, how output was cut, and what other
    libraries write to stderr while they load.
    """
    book.metadata.language_info = {"name": "python"}
    del book.cells[0]
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, 1):
        cell.outputs, cell.execution_count = _joined(cell.outputs), number
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
    return book


def _joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Outputs, the parts of a stream in one piece, a picture in one form."""
    found: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            continue
        if "image/png" in output.get("data", {}):
            output.data.pop("image/jpeg", None)
        last = found[-1] if found else None
        if output.output_type == "stream" and last is not None and last.get("name") == output.name:
            last.text += output.text
        else:
            found.append(output)
    return found


class _Heads(HTMLParser):
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
        return "table", *_Heads(data["text/html"]).found
    return "text", re.split(r"[\W\d]", data["text/plain"])[0]


def code_of(book: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    """The code cells."""
    return (cell for cell in book.cells if cell.cell_type == "code")


def differences(name: str, shown: nbformat.NotebookNode, given: nbformat.NotebookNode) -> list[str]:
    """A line for each cell whose committed outputs are of other kinds than those it gives."""
    pairs = zip(code_of(shown), code_of(given), strict=True)
    return [
        f"{name}, code cell {number}: shows {old}, gives {new}: run"
        f" uv run python docs/make_notebooks.py {name}"
        for number, (committed, fresh) in enumerate(pairs, 1)
        if (old := [*map(form, committed.outputs)]) != (new := [*map(form, fresh.outputs)])
    ]


def _contents() -> dict[str, tuple[int, int]]:
    """{file under notebooks/: its size and when it was written}."""
    files = (file for file in NOTEBOOKS.rglob("*") if file.is_file())
    return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in files}


def main() -> None:
    """Run the notebooks that are named, or all."""
    check = "--check" in sys.argv[1:]
    wanted = {Path(name).stem for name in sys.argv[1:] if name != "--check"}
    paths = [path for path in notebooks() if not wanted or path.stem in wanted]
    before = _contents()
    with tempfile.TemporaryDirectory() as scratch:
        done = run(paths, Path(scratch))
    if check:
        wrong = [
            line
            for path in paths
            for line in differences(path.stem, nbformat.read(path, as_version=4), done[path.stem])
        ]
        if _contents() != before:
            wrong.append(f"a notebook wrote into {NOTEBOOKS}")
        if wrong:
            sys.exit("\n".join(wrong))
        return
    for path in paths:
        nbformat.validate(done[path.stem])
        nbformat.write(done[path.stem], path)
        print(path.name)


if __name__ == "__main__":
    main()
