"""Runs the commands whose output the documents show, and writes the output into them.

    uv run python docs/make_outputs.py                          # everything; a search takes minutes
    uv run python docs/make_outputs.py --only "sensitivity audit"
    uv run python docs/make_outputs.py --scratch build/outputs  # keeps databases and files there

A shown output is a comment and a fenced block:

    <!-- output of: sensitivity models; first 4, last 2 lines -->
    ```text
    ...
    ```

After the command and a semicolon come clauses, separated by commas: `from "X"` starts at the first
line with X, `until "Y"` stops before the next line with Y, `first N` and `last M lines` keep these
and mark what is left out with `...`, `wrapped at N` breaks longer lines at words.

Commands run in a scratch folder with a copy of `recipes/`, searches first, then what writes a
recipe, then the rest. Standard output and standard error are shown together, as in a terminal of
`WIDTH` columns; commands that are printed begin with `uv run`, as those of the documents do.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
WIDTH = 98
BLOCK = re.compile(
    r"<!-- output of: (?P<command>[^;\n]+?)(?:; (?P<clauses>[^\n]*?))? -->\n"
    r"```text\n(?P<text>.*?)```\n",
    re.DOTALL,
)
CLAUSE = re.compile(r'(from|until) "([^"]+)"|(first|last|wrapped at) (\d+)')


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One output in a page: the page, the command, the clauses, and the text as it stands."""

    page: Path
    command: str
    clauses: str
    text: str

    def cut(self, output: str) -> str:
        """The part of a command's output that the page shows."""
        words = dict(re.findall(r'(from|until) "([^"]+)"', self.clauses))
        numbers = {
            m[0]: int(m[1]) for m in re.findall(r"(first|last|wrapped at) (\d+)", self.clauses)
        }
        lines = [line.rstrip() for line in output.splitlines()]
        if "from" in words:
            lines = lines[_find(lines, words["from"], self.command) :]
        if "until" in words:
            lines = lines[: _find(lines, words["until"], self.command)]
        while lines and not lines[-1]:
            lines.pop()
        if "first" in numbers or "last" in numbers:
            head, tail = numbers.get("first", 0), numbers.get("last", 0)
            if len(lines) > head + tail:
                lines = [*lines[:head], "...", *(lines[-tail:] if tail else [])]
        if "wrapped at" in numbers:
            lines = [part for line in lines for part in _wrap(line, numbers["wrapped at"])]
        return "\n".join(lines) + "\n"


def _find(lines: list[str], text: str, command: str) -> int:
    for index, line in enumerate(lines):
        if text in line:
            return index
    raise SystemExit(f"the output of {command!r} has no line with {text!r}: correct the comment")


def _wrap(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    return textwrap.wrap(
        line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def pages() -> list[Path]:
    """The README and every page under docs/."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def shown() -> Iterator[Shown]:
    """Every output that the documents show."""
    for page in pages():
        for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
            clauses = match["clauses"] or ""
            if CLAUSE.sub("", clauses).replace("lines", "").strip(" ,"):
                raise SystemExit(f"{page.name}: clauses are not understood: {clauses}")
            yield Shown(page=page, command=match["command"], clauses=clauses, text=match["text"])


def run(command: str, folder: Path) -> str:
    """The output of a `sensitivity` command in a folder. Findings of an audit are no failure."""
    program, *arguments = shlex.split(command)
    if program != "sensitivity":
        raise SystemExit(f"{command!r} is no sensitivity command")
    executable = Path(sys.executable).with_name("sensitivity")
    done = subprocess.run(
        [executable, *arguments],
        cwd=folder,
        env=os.environ | {"COLUMNS": str(WIDTH), "UV_RUN_RECURSION_DEPTH": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode not in ((0, 1) if arguments[0] == "audit" else (0,)):
        raise SystemExit(f"{command!r} exits with {done.returncode}:\n{done.stdout}")
    return done.stdout


def _order(command: str) -> tuple[int, str]:
    first = 0 if command.startswith("sensitivity search") else 1 if "--nearest" in command else 2
    return first, command


def write(page: Path, outputs: dict[str, str]) -> None:
    """Put the outputs into a page, where it shows them."""

    def block(match: re.Match[str]) -> str:
        if match["command"] not in outputs:
            return match[0]
        one = Shown(page=page, command=match["command"], clauses=match["clauses"] or "", text="")
        head = match[0][: match[0].index("```text\n")]
        return f"{head}```text\n{one.cut(outputs[one.command])}```\n"

    text = page.read_text(encoding="utf-8")
    page.write_text(BLOCK.sub(block, text), encoding="utf-8")


def main() -> None:
    """Run each shown command once and rewrite the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="run commands that contain this text")
    parser.add_argument("--scratch", type=Path, help="folder to run in; default: a temporary one")
    options = parser.parse_args()
    commands = sorted({one.command for one in shown() if options.only in one.command}, key=_order)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.scratch or Path(temporary)).resolve()
        shutil.copytree(ROOT / "recipes", folder / "recipes", dirs_exist_ok=True)
        outputs = {}
        for command in commands:
            print(command, flush=True)
            outputs[command] = run(command, folder)
    for page in pages():
        write(page, outputs)


if __name__ == "__main__":
    main()
