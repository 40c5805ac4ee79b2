r"""What does exported Python look like? Constants that people can read, written so that a text can
be proved without running it.

A constant is a literal, which `read_constants` finds with `ast`. Entries are patterns where a role
has several blocks, each with what it stands for:

    LAYERS = {
        "transformer": {
            r"re:^blocks\.[0-5]\.ff$": "nvfp4",  # 6 Linears
        },
    }
"""

import ast
import json
from collections.abc import Iterable, Mapping
from typing import Any

from sensitivity.errors import RecipeError

MSLK = '''

def _has_mslk():
    """Whether NVFP4's fast quantizer is installed; `mslk` on PyPI is an empty placeholder."""
    try:
        return importlib.util.find_spec("mslk.quantize.triton.fp4_quantize") is not None
    except ImportError:
        return False
'''
"""The exported function that looks for mslk on the machine that runs it."""


def write_configs(configs: Mapping[str, Any]) -> str:
    """`CONFIGS`: {format: torchao's config as a dict}, a line for each."""
    lines = (f"    {_literal(name)}: {_literal(config)}," for name, config in configs.items())
    return "\n".join(["CONFIGS = {", *lines, "}\n"])


def write_layers(parts: Mapping[str, Iterable[str]], comment: str) -> str:
    """`LAYERS`: {component: its lines}."""
    lines = [f"LAYERS = {{  # {comment}"]
    for component, own in parts.items():
        lines += [f'    "{component}": {{', *(f"        {line}" for line in own), "    },"]
    return "\n".join([*lines, "}"]) + "\n"


def pattern_line(text: str, end: str, count: int) -> str:
    """A line with a regular expression of names, and how many Linears it stands for."""
    literal = f'r"{text}"' if "\\" in text else f'"{text}"'
    return literal + end + (f"  # {count} Linears" if count > 1 else "")


def _literal(value: Any) -> str:
    """A Python literal, with double quotes."""
    if isinstance(value, Mapping):
        pairs = (f"{_literal(key)}: {_literal(item)}" for key, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def read_constants(text: str, *names: str, code: str = "") -> list[Any]:
    """The values of constants in exported Python.

    Args:
        text: the exported Python.
        names: the constants.
        code: what the text must end with.

    Raises:
        RecipeError: a constant is missing, or the text does not end with `code`.
    """
    if text.endswith(code):
        found = {
            ast.unparse(node.targets[0]): ast.literal_eval(node.value)
            for node in ast.parse(text).body
            if isinstance(node, ast.Assign)
        }
        if all(name in found for name in names):
            return [found[name] for name in names]
    raise RecipeError(
        f"found Python without {' and '.join(names)}, or with other code behind them; expected the"
        " text that this exporter writes; export it again"
    )
