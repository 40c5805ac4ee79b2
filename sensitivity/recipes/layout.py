"""How is a recipe laid out in its file, so that people can read it and a diff between two is short?

    text = laid_out({"layers": {"blocks.0.ff": "nvfp4"}, "front": [{"name": "t7", "lpips": 0.1}]})

It is strict JSON. What is long is broken into lines: each entry of a mapping or a list is on its
own line. What fits into a line is not broken, and a list of numbers never is. So a Linear whose
format differs is one line of a diff, and the values of a hundred prompts are another.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

WIDTH, WIDEST = 100, 200
"""Characters of a line that is not broken, and of an entry of a list that is not, such as a pattern
with its reason.
"""


def laid_out(data: Any) -> str:
    """JSON text with a final newline.

    Raises:
        ValueError: a number is infinite or NaN.
    """
    return "".join(_lines(data, 0, 0)) + "\n"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _lines(value: Any, indent: int, before: int) -> Iterator[str]:
    """The pieces of a value.

    Args:
        value: parsed JSON.
        indent: of the line that it begins in.
        before: characters in front of it in that line.
    """
    text = _compact(value)
    is_open = isinstance(value, dict | list) and value
    is_flat = not any(isinstance(item, dict | list) for item in _values(value))
    is_entry = isinstance(value, dict) and is_flat and indent > 2 and before == indent
    most = WIDEST if is_entry else WIDTH
    if not is_open or (indent and before + len(text) < most) or _is_numbers(value):
        yield text
        return
    inside = indent + 2
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    yield opening
    items = value.items() if isinstance(value, dict) else ((None, item) for item in value)
    for place, (key, item) in enumerate(items):
        name = "" if key is None else f"{_compact(key)}: "
        yield f"{',' * (place > 0)}\n{' ' * inside}{name}"
        yield from _lines(item, inside, inside + len(name))
    yield "\n" + " " * indent + closing


def _values(value: Any) -> Iterable[Any]:
    """The values of a mapping, the items of a list, nothing of anything else."""
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, int | float) for item in value)
