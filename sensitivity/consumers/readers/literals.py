"""Which value does a text hold that is JSON, or Python that only writes values down?

The text is parsed and never run.

    parse_literal('{"quant_algo": "NVFP4"}')
    parse_literal("FP8 = {'num_bits': (4, 3)}\\nconfig = [{'quantizer_name': '*', 'cfg': FP8}]")

The value of a Python text is that of its last statement. Imports and docstrings are skipped.
Assignments to names are read; their values may hold constants, lists, tuples, dicts, names of
earlier values, and `*` and `**` of those. Everything else is code, and is refused with its line.
Keys that appear twice are refused, as in JSON (`core.json_files`).
"""

import ast
from collections.abc import Callable, Mapping
from typing import Any

from sensitivity.core.json_files import parse_json
from sensitivity.errors import PatternError

MAX_TEXT = 4_000_000
"""The most characters of a text. One with every quantizer of 1,400 Linears has 0.4 million."""

MAX_ITEMS = 20_000
"""The most items of a list. One with every quantizer of 1,400 Linears has 2,800."""


def parse_literal(text: str, *, wanted: Callable[[Any], bool] = lambda _: True) -> Any:
    """The value of a JSON or Python text.

    Args:
        text: the text.
        wanted: which value is preferred where a Python text has several: the last one for which it
            is true, else the last one.

    Raises:
        PatternError: the text is neither, holds code, or is too large.
    """
    if len(text) > MAX_TEXT:
        raise PatternError(
            f"found a text of {len(text)} characters; expected at most {MAX_TEXT}; save the list"
            " alone"
        )
    source = text.removeprefix("\ufeff").strip()
    try:
        return parse_json(source.encode())
    except (ValueError, UnicodeEncodeError) as error:
        as_json = error
    try:
        return _last_value(ast.parse(source), wanted)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise PatternError(
            f"found a text that is neither JSON ({as_json}) nor a Python literal ({error});"
            " expected one of them; print the list and save what it prints"
        ) from None


def _last_value(tree: ast.Module, wanted: Callable[[Any], bool]) -> Any:
    """The last wanted value of a module's statements, else the last value."""
    names: dict[str, Any] = {}
    value: Any = None
    for node in tree.body:
        match node:
            case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
                continue
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.expr() as given):
                names[name] = found = _evaluate(given, names)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as given):
                names[name] = found = _evaluate(given, names)
            case ast.Expr(value=given):
                found = _evaluate(given, names)
            case _:
                raise _code_error(node)
        value = found if wanted(found) or not wanted(value) else value
    return value


def _evaluate(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """The value of an expression; `names` are the values that were assigned before."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            values: list[Any] = []
            for element in elements:
                values += (
                    _evaluate(element.value, names)
                    if isinstance(element, ast.Starred)
                    else [_evaluate(element, names)]
                )
                if len(values) > MAX_ITEMS:
                    raise PatternError(
                        f"found a list of over {MAX_ITEMS} items; expected at most that many;"
                        " name another file"
                    )
            return values if isinstance(node, ast.List) else tuple(values)
        case ast.Dict(keys=keys, values=items):
            return _pairs(keys, items, names)
    raise _code_error(node)


def _pairs(
    keys: list[ast.expr | None], items: list[ast.expr], names: Mapping[str, Any]
) -> dict[Any, Any]:
    """The value of a dict's display."""
    pairs: dict[Any, Any] = {}
    written: set[Any] = set()
    for key, item in zip(keys, items, strict=True):
        if key is None:
            pairs.update(_evaluate(item, names))
            continue
        name = _evaluate(key, names)
        if not isinstance(name, (str, int)) or name in written:
            what = "twice" if isinstance(name, (str, int)) else f"a {type(name).__name__}"
            raise PatternError(
                f"line {key.lineno}: found the key {str(name)[:80]!r}, {what}; expected texts and"
                " numbers, each once; correct it"
            )
        written.add(name)
        pairs[name] = _evaluate(item, names)
    return pairs


def _code_error(node: ast.stmt | ast.expr) -> PatternError:
    return PatternError(
        f"line {node.lineno}: found code ({ast.unparse(node)[:60]}); expected constants, lists,"
        " dicts and names of these, since a list is read and not run; print the finished list and"
        " save what it prints"
    )
