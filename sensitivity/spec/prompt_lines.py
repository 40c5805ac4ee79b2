"""Is a text a list of prompts, one a line, or something structured that only looks like one?

    read_lines("a fox\\n# animals\\nan owl\\n").texts      # ("a fox", "an owl")
    read_lines("- a fox\\n- an owl\\n")                    # ValueError: a list with bullets

Method. Empty lines and lines that begin with # are left out. A text with the looks of a table, a
list with numbers or bullets, YAML, markup or code is refused, since its marks would be drawn.

Conventions. Looks that single prompts can have ("E = mc2", "- noir -") count only where most lines
have them. Every error is a ValueError: "found ...; expected ...: next step".
"""

import re
from collections.abc import Sequence

from sensitivity.spec.prompt_tables import FIELDS, PromptTexts, normal_name

KIND = "text, one prompt a line"
MOST, SOME = 0.9, 0.25
"""The share of lines that counts as most, and of lines that begin with "prompt:"."""

_LINE_BREAK = re.compile(r"\r\n|\r|\n")  # str.splitlines breaks at form feeds and U+2028 too
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_FIELD = "|".join(name.replace("_", "[ _-]") for known in FIELDS for name in known)
_NAMED = re.compile(
    rf"""(?:-\s+)?["']?(?:{_FIELD})(?:\s*#?\d{{1,7}})?["']?\s*[:=].*""", re.IGNORECASE
)
_FIRST_LINE = {
    re.compile(r"<(\?xml|!doctype)\b.*|</?\w[^<>]*>", re.IGNORECASE): "markup",
    re.compile(r"-{3,}|\+{3}|%YAML.*"): "YAML, or front matter",
    re.compile(r"""(export\s+|const\s+)?\w+(:\s*[\w\[\]]+)?\s*=\s*["'\[{(].*"""): "code or TOML",
    re.compile(r"\[{1,2}[\w .-]+\]{1,2}"): "a section of TOML or INI",
    re.compile(r"""["']?[\w -]{1,40}["']?\s*:(\s*[|>]-?)?"""): "YAML",
    re.compile(r"""\{\s*(["'\[].*)?|[\[(]\s*(["'{\[].*["'}\]),])?"""): (
        "damaged JSON, or a list of Python"
    ),
    re.compile(r"\{\\rtf.*"): "RTF",
    re.compile(r"```.*|~~~.*|\\(begin|documentclass|item)\b.*"): "Markdown or LaTeX",
    re.compile(r"(import|from)\s+\w+(\s+import\s.*)?|(def|class)\s+\w+.*:|#!.*"): "code",
}
"""{what a first line looks like, in all: what that is}."""
_MOST_LINES = {
    re.compile(r"[-*+>\u2013\u2022\u25cf\u25e6\u25aa\u25a0\u00b7](?:\s+|(?=\w)).*"): (
        "a list with bullets"
    ),
    re.compile(
        r"[(\[]?\d{1,7}\s*(?:[.)\]:\uff1a-]\s+|[.)\]:](?=\D)|[,;|\t\u3001\uff0e\uff1a\uff09]).*"
    ): "a list with numbers",
    re.compile(r"[(\[]?[A-Za-z][.)\]:]\s+.*"): "a list with letters",
    re.compile(r".*[,;|\t] ?-?\d+(\.\d+)?"): "a table without a header",
    re.compile(r"\|.*\|"): "a table of Markdown",
    re.compile(r"""(?:"[^"]*"|'.*'|\u201c.*\u201d|".*"|`.*`)\s*,?"""): "quotation marks or code",
    re.compile(r"--\w[\w-]*[ =].*"): "options of a command",
    re.compile(r"<(\w+)[^<>]*>.*</\1>|<[^<>]*/>"): "markup",
    re.compile(r"""["']?\w+["']?\s*:\s*["'\[{].*"""): "YAML, or a part of JSON",
}
"""{what most lines look like, in all: what that is}."""


def read_lines(text: str) -> PromptTexts:
    """The prompts of a text, one a line.

    Raises:
        ValueError: it looks structured, a line has control characters, or a prompt is there twice.
    """
    lines = [
        (number, line.strip())
        for number, line in enumerate(_LINE_BREAK.split(text), start=1)
        if line.strip() and not line.strip().startswith("#")
    ]
    refuse_structure([line for _, line in lines])
    first: dict[str, int] = {}  # {prompt: its line number}
    for number, prompt in lines:
        if has_control(prompt):
            raise ValueError(
                f"line {number} has control characters; expected text, one prompt a line: name a"
                " text file"
            )
        if prompt in first:
            raise ValueError(
                f"line {number} repeats line {first[prompt]} ({prompt[:80]!r}); expected each"
                " prompt once: take one of them out"
            )
        first[prompt] = number
    return PromptTexts(kind=KIND, texts=tuple(first))


def has_control(prompt: str) -> bool:
    """Whether a prompt has control characters other than tabs and line breaks."""
    return _CONTROL.search(prompt) is not None


def refuse_structure(lines: Sequence[str]) -> None:
    """Raise ValueError if lines look like a table, a marked list, markup or code.

    Args:
        lines: without white space at both ends; none is empty.
    """
    found = _looks_like(lines)
    if found is not None:
        raise ValueError(
            f"found {found} ({lines[0][:60]!r}); expected plain text with one prompt a line, or a"
            " .csv, .tsv, .json or .jsonl file: save it as one of these"
        )


def _looks_like(lines: Sequence[str]) -> str | None:
    if not lines:
        return None
    if any(normal_name(lines[0]) in known for known in FIELDS):
        return "the header of a table"
    for look, what in _FIRST_LINE.items():
        if look.fullmatch(lines[0]):
            return what
    if len(lines) == 1:
        return None
    if any(re.fullmatch(r"\|?\s*:?-{3,}:?\s*(\|[\s:|-]*)?", line) for line in lines[:3]):
        return "a table of Markdown"
    if _share(_NAMED, lines) >= SOME:
        return "names before prompts"
    for look, what in _MOST_LINES.items():
        if _share(look, lines) >= MOST:
            return what
    for mark in "\t|;":
        counts = {line.count(mark) for line in lines}
        if len(counts) == 1 and counts != {0}:
            return "a table without a header"
    return None


def _share(look: re.Pattern[str], lines: Sequence[str]) -> float:
    """The share of lines that look so, in all."""
    return sum(look.fullmatch(line) is not None for line in lines) / len(lines)
