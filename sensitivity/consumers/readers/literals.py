"""Which value does a text hold that is JSON, or Python that only writes values down?

It is parsed and never run.

    parse_literal('{"quant_algo": "NVFP4"}')
    parse_literal("FP8 = {'num_bits': (4, 3)}\nconfig = [{'quantizer_name': '*', 'cfg': FP8}]")     # the value of the last statement

Python may hold imports and docstrings (passed over), assignments to names, and in them constants,
lists, tuples, dicts, names of earlier values, `*` and `**` of those. Everything else is code, and
refused with its line. Keys that come twice are refused, as in JSON (`strict_json`).
"""

import ast
from collections.abc import Callable, Mapping
from typing import Any

from sensitivity.core.json_files import parse_json
from sensitivity.errors import PatternError

MAX_TEXT, MAX_ITEMS = 4_000_000, 20_000
"""Characters of a text; items of a list.

One that names every quantizer of a model with 1,400 Linears has 0.4 million and 2,800.
"""


def parse_literal(text: str, *, wanted: Callable[[Any], bool] = lambda _: True) -> Any:
    """The value of a JSON or Python text; of several Python statements the last that is `wanted`,
    or else the last.

    Raises:
        PatternError: it is neither, holds code, or is too large.
    """
    if len(text) > MAX_TEXT:
        raise PatternError(
            f"found a text of {len(text)} characters; allowed are {MAX_TEXT}; name the list alone"
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
            f"found a text that is neither JSON ({as_json}) nor a Python literal ({error}); allowed"
            " is one of them; print the list and save what it prints"
        ) from None


def _last_value(tree: ast.Module, wanted: Callable[[Any], bool]) -> Any:
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
                        f"found a list of over {MAX_ITEMS} items; allowed are {MAX_ITEMS}; name"
                        " another file"
                    )
            return values if isinstance(node, ast.List) else tuple(values)
        case ast.Dict(keys=keys, values=items):
            return _pairs(keys, items, names)
    raise _code_error(node)


def _pairs(
    keys: list[ast.expr | None], items: list[ast.expr], names: Mapping[str, Any]
) -> dict[Any, Any]:
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
                f"line {key.lineno}: found the key {str(name)[:80]!r}, {what}; allowed are texts"
                " and numbers, each once; mend it"
            )
        written.add(name)
        pairs[name] = _evaluate(item, names)
    return pairs


def _code_error(node: ast.stmt | ast.expr) -> PatternError:
    return PatternError(
        f"line {node.lineno}: found code ({ast.unparse(node)[:60]}); allowed are constants, lists,"
        " dicts and names of these, since a list is read and not run; print the finished list and"
        " save what it prints"
    )
