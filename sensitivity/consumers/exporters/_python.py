'''Constants in exported Python, written so that a text can be proved without running it.

A constant is JSON in a raw string, which `read_constants` finds with `ast`:

    CONFIGS = json.loads(r"""
    {...}
    """)
'''

import ast
import json
from typing import Any

from sensitivity.errors import RecipeError

MSLK = '''

def _has_mslk():
    """Whether NVFP4's fast activation quantizer is installed (`mslk` on PyPI is an empty \
placeholder); without it NVFP4 is slow."""
    try:
        return importlib.util.find_spec("mslk.quantize.triton.fp4_quantize") is not None
    except ImportError:
        return False
'''
"""The exported function that looks for mslk on the machine that runs it."""


def write_constant(name: str, value: Any, comment: str = "") -> str:
    """The lines that define a constant."""
    end = f"  # {comment}" if comment else ""
    return f'{name} = json.loads(r"""\n{json.dumps(value, indent=1)}\n"""){end}\n'


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
            ast.unparse(node.targets[0]): _value(node.value)
            for node in ast.parse(text).body
            if isinstance(node, ast.Assign)
        }
        if all(name in found for name in names):
            return [found[name] for name in names]
    raise RecipeError(
        f"found Python without {' and '.join(names)}, or with other code behind them; expected the"
        " text that this exporter writes; export it again"
    )


def _value(node: ast.expr) -> Any:
    """The value of a literal, or of the JSON in `json.loads(literal)`."""
    return (
        json.loads(ast.literal_eval(node.args[0]))
        if isinstance(node, ast.Call)
        else ast.literal_eval(node)
    )
