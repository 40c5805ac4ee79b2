r"""Which options does a command line give? `read_commands`.

    # component: transformer
    ctq -i wan.safetensors --nvfp4 \
      --exclude-layers 'text_embedding|head'

    read_commands(text, ("ctq",))
    # [Command(component="transformer", line=2, options={"i": "wan.safetensors", "nvfp4": "", ...})]

The text is a few lines of a shell: commands, comments, and lines that a backslash continues.
Quotes are read as a shell reads them. A comment `# component: NAME` says for which component the
next command is. Other programs' lines are left out.

It runs nothing, and expands no variables. An option is named as Python's argparse would name it,
with underscores.
"""

import re
import shlex
from collections.abc import Collection, Iterator
from typing import NamedTuple

from sensitivity.consumers.readers.entries import bare_text
from sensitivity.core.outside_files import NAME_LIST
from sensitivity.errors import PatternError

_COMPONENT = re.compile(r"#\s*component:\s*([\w.-]+)\s*")
_PYTHON = re.compile(r"python[\d.]*")


class Command(NamedTuple):
    """One command.

    Attributes:
        component: the component that the comment before it names; "" if there is none.
        line: its line in the text, counted from 1.
        options: {option without hyphens in front, with underscores: its value}; "" for a switch.
            Of an option that is given twice, the last counts.
    """

    component: str
    line: int
    options: dict[str, str]


def read_commands(text: str, programs: Collection[str]) -> list[Command]:
    """The commands of some programs in a text.

    Args:
        text: the lines.
        programs: names of programs, and of modules for `python -m`.

    Raises:
        PatternError: the text is too long, or a quote is not closed.
    """
    found, component = list[Command](), ""
    for number, line in _joined(bare_text(text, most=NAME_LIST.max_bytes)):
        if line.startswith("#"):
            named = _COMPONENT.fullmatch(line)
            component = named[1] if named else component
            continue
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise PatternError(
                f"line {number}: found a command that cannot be read ({error}); expected its quotes"
                " closed on the same line; correct it"
            ) from None
        if (start := _arguments_start(words, programs)) is not None:
            found.append(Command(component, number, _options(words[start:])))
            component = ""
    return found


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """(number of the first line, the line with those that continue it), blank ones left out."""
    begun, first = "", 1
    for number, line in enumerate(text.splitlines(), start=1):
        first = first if begun else number
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            begun += line[:-1] + " "
            continue
        if whole := (begun + line).strip():
            yield first, whole
        begun = ""
    if begun.strip():
        yield first, begun.strip()


def _arguments_start(words: list[str], programs: Collection[str]) -> int | None:
    """The place of the first argument, if one of the programs is called."""
    if not words:
        return None
    name = words[0].rpartition("/")[2]
    if name in programs:
        return 1
    is_module = _PYTHON.fullmatch(name) and words[1:2] == ["-m"] and len(words) > 2
    return 3 if is_module and words[2].partition(".")[0] in programs else None


def _options(words: list[str]) -> dict[str, str]:
    options, name = dict[str, str](), ""
    for word in words:
        if word.startswith("-") and len(word) > 1:
            name, _, value = word.partition("=")
            name = name.lstrip("-").replace("-", "_")
            options[name] = value
        elif name:
            options[name], name = word, ""
    return options
