"""Which value does a text hold that is JSON, or Python that only writes values down?

The text is parsed and never run.

    parse_literal('{"quant_algo": "NVFP4"}')
    parse_literal("FP8 = {'num_bits': (4, 3)}\\nconfig = [{'quantizer_name': '*', 'cfg': FP8}]")

The value of a Python text is that of its last statement. Imports and docstrings are skipped.
Assignments to names are read; their values may hold constants, lists, tuples, sets, dicts, names of
earlier values, and `*` and `**` of those. Everything else is code, and is refused with its line.
Keys that appear twice are refused, as in JSON (`core.json_files`).

Bounds. The text's tokens and brackets are counted before Python's parser sees them, since it takes
quadratic time for some texts (f-strings). A name may stand for a large value, so that a short text
can mean a huge one: the size of a value is counted as if it were written out.
"""

import ast
import math
import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from sensitivity.consumers.readers.entries import bare_text
from sensitivity.core.json_files import parse_json
from sensitivity.core.outside_files import PYTHON_LIST
from sensitivity.errors import PatternError

MAX_TEXT = PYTHON_LIST.max_bytes
"""The most characters of a text, and of the value that it stands for. A text with every quantizer
of 1,400 Linears has 0.4 million.
"""

MAX_ITEMS = 20_000
"""The most items of a list. One with every quantizer of 1,400 Linears has 2,800."""

_TOKEN = re.compile(
    r"(?P<prefix>[A-Za-z]{0,2})"
    r'(?P<text>"""(?:[^"\\]|\\.|"(?!""))*+"""|'
    r"'''(?:[^'\\]|\\.|'(?!''))*+'''|"
    r'"(?:[^"\\\n]|\\.)*+"|'
    r"'(?:[^'\\\n]|\\.)*+')"
    r"|#[^\n]*|\w+|[^\w\s]|\n",
    re.DOTALL,
)
_SCALAR_SIZE = 8
"""What a number counts as, in characters."""


def parse_literal(text: str, *, wanted: Callable[[Any], bool] = lambda _: True) -> Any:
    """The value of a JSON or Python text.

    Args:
        text: the text.
        wanted: which value is preferred where a Python text has several: the last one for which it
            is true, else the last one.

    Raises:
        PatternError: the text is neither, holds code, or is too large.
    """
    source = bare_text(text, most=MAX_TEXT)
    try:
        return parse_json(source.encode())
    except (ValueError, UnicodeEncodeError) as error:
        as_json = error
    try:
        return parse_python(source, wanted=wanted)
    except ValueError as error:
        raise PatternError(
            f"found a text that is neither JSON ({as_json}) nor a Python literal ({error});"
            " expected one of them; print the list and save what it prints"
        ) from None


def parse_python(text: str, *, wanted: Callable[[Any], bool] = lambda _: True) -> Any:
    """The value of a Python text; the arguments are those of `parse_literal`.

    Raises:
        ValueError: the text is no Python.
        PatternError: it holds code, or is too large.
    """
    source = bare_text(text, most=MAX_TEXT)
    _check_tokens(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in a text is for the list's author
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(str(error)[:200] or "nested too deep") from None
    try:
        return _last_value(tree, wanted)
    except (RecursionError, TypeError) as error:
        raise ValueError(str(error)[:200]) from None


def _check_tokens(source: str) -> None:
    """Raise PatternError for too many tokens, brackets that are too deep, and f-strings."""
    depth = 0
    for count, token in enumerate(_TOKEN.finditer(source)):
        if count > PYTHON_LIST.max_values:
            raise PatternError(
                f"found Python of over {PYTHON_LIST.max_values} words and signs; expected at most"
                " that many; save the list as JSON"
            )
        if token["text"] is not None:
            if set(token["prefix"].lower()) & {"f", "t", "b"}:
                line = source.count("\n", 0, token.start()) + 1
                raise PatternError(
                    f"line {line}: found code ({token[0][:60]}); expected plain texts in quotes;"
                    " print the finished list and save what it prints"
                )
            continue
        depth += (token[0] in "([{") - (token[0] in ")]}")
        if depth > PYTHON_LIST.max_depth:
            raise PatternError(
                f"found brackets deeper than {PYTHON_LIST.max_depth} levels; expected at most"
                f" {PYTHON_LIST.max_depth}; name another file"
            )


class _Value(NamedTuple):
    """A value, its characters as if it were written out, and its levels of nesting."""

    value: Any
    size: int = _SCALAR_SIZE
    depth: int = 0


def _last_value(tree: ast.Module, wanted: Callable[[Any], bool]) -> Any:
    """The last wanted value of a module's statements, else the last value."""
    names: dict[str, _Value] = {}
    value: Any = None
    spent = 0
    for node in tree.body:
        match node:
            case ast.Import() | ast.ImportFrom():
                continue
            case ast.Expr(value=ast.Constant()) if len(tree.body) > 1:  # a docstring
                continue
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.expr() as given):
                names[name] = found = _evaluate(given, names)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as given):
                names[name] = found = _evaluate(given, names)
            case ast.Expr(value=given):
                found = _evaluate(given, names)
            case _:
                raise _code_error(node)
        spent += found.size
        _check_size(spent, 0)
        value = found.value if wanted(found.value) or not wanted(value) else value
    return value


def _evaluate(node: ast.expr, names: dict[str, _Value]) -> _Value:
    """The value of an expression; `names` are the values that were assigned before."""
    match node:
        case ast.Constant(value=str() as text):
            _check_text(text, node)
            return _Value(text, len(text) + _SCALAR_SIZE)
        case ast.Constant(value=bool() | None as constant):
            return _Value(constant)
        case ast.Constant(value=int() | float() as number):
            return _Value(_number(number, node))
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return _Value(-_number(number, node))
        case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
            items, size, depth = _items(elements, names)
            if isinstance(node, ast.Set):
                items = sorted(set(items), key=str)
            return _Value(tuple(items) if isinstance(node, ast.Tuple) else items, size, depth)
        case ast.Dict(keys=keys, values=items):
            return _pairs(keys, items, names)
    raise _code_error(node)


def _items(elements: list[ast.expr], names: dict[str, _Value]) -> tuple[list[Any], int, int]:
    """The items of a list's display, with their size and depth together."""
    values: list[Any] = []
    size, depth = _SCALAR_SIZE, 0
    for element in elements:
        is_starred = isinstance(element, ast.Starred)
        found = _evaluate(element.value if isinstance(element, ast.Starred) else element, names)
        if is_starred and not isinstance(found.value, (list, tuple)):
            raise _code_error(element)
        values += found.value if is_starred else [found.value]
        size += found.size
        depth = max(depth, found.depth + (not is_starred))
        if len(values) > MAX_ITEMS:
            raise PatternError(
                f"found a list of over {MAX_ITEMS} items; expected at most that many;"
                " name another file"
            )
        _check_size(size, depth)
    return values, size, depth


def _pairs(keys: list[ast.expr | None], items: list[ast.expr], names: dict[str, _Value]) -> _Value:
    """The value of a dict's display."""
    pairs: dict[Any, Any] = {}
    written: set[Any] = set()
    size, depth = _SCALAR_SIZE, 0
    for key, item in zip(keys, items, strict=True):
        found = _evaluate(item, names)
        size += found.size
        depth = max(depth, found.depth + (key is not None))
        _check_size(size, depth)
        if key is None:
            if not isinstance(found.value, dict):
                raise _code_error(item)
            pairs.update(found.value)
            continue
        own = _evaluate(key, names)
        name, size = own.value, size + own.size
        if not isinstance(name, (str, int)) or name in written:
            what = "twice" if isinstance(name, (str, int)) else f"a {type(name).__name__}"
            raise PatternError(
                f"line {key.lineno}: found the key {str(name)[:80]!r}, {what}; expected texts and"
                " numbers, each once; correct it"
            )
        written.add(name)
        pairs[name] = found.value
    return _Value(pairs, size, depth)


def _check_size(size: int, depth: int) -> None:
    """Raise PatternError for a value that is too large, or too deep, if it is written out."""
    if size > MAX_TEXT or depth > PYTHON_LIST.max_depth:
        raise PatternError(
            f"found a value that has over {MAX_TEXT} characters if it is written out, or is deeper"
            f" than {PYTHON_LIST.max_depth} levels; expected less; write the list out"
        )


def _check_text(text: str, node: ast.expr) -> None:
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        raise PatternError(
            f"line {node.lineno}: found a lone surrogate in {ascii(text)[:80]}; expected text that"
            " UTF-8 can hold; correct it"
        )


def _number(number: float, node: ast.expr) -> float:
    if not math.isfinite(number) if isinstance(number, float) else abs(number) >= 10**20:
        raise PatternError(
            f"line {node.lineno}: found a number that is no finite one of 64 bits; expected one;"
            " correct it"
        )
    return number


def _code_error(node: ast.stmt | ast.expr) -> PatternError:
    return PatternError(
        f"line {node.lineno}: found code ({_words(node)}); expected constants, lists,"
        " dicts and names of these, since a list is read and not run; print the finished list and"
        " save what it prints"
    )


def _words(node: ast.stmt | ast.expr) -> str:
    """The first characters of a statement, as Python writes it; its kind where that fails."""
    try:
        return ast.unparse(node)[:60]
    except (RecursionError, ValueError, TypeError):
        return type(node).__name__
