"""The shape of the package: rooms and their import rule, homes of heavy dependencies, sizes."""

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

import sensitivity

from support.paths import ROOT

PACKAGE = Path(sensitivity.__file__).parent

ROOMS = (
    "errors",
    "core",
    "spec",
    "formats",
    "models",
    "shapes",
    "latency",
    "fidelity",
    "recipes",
    "consumers",
    "search",
    "workflows",
    "cli",
)
"""A room imports rooms to its left, and itself."""

CLOSURES = {"price": 99, "audit": 205, "nearest": 133}
"""{workflow: how many modules of ours importing it may load at most}"""

MAX_LINES, MAX_FUNCTION_LINES, MAX_WIDTH = 400, 60, 100
LONG: dict[str, str] = {
    "cli/audit.py:audit": "a line for each option",
    "cli/check.py:check": "a line for each option",
    "cli/search.py:search": "a line for each option, and one for each field of the request",
    "cli/select.py:select": "a line for each option, and one for each field of the request",
    "cli/verify.py:verify": "a line for each option",
}
"""{"room/file.py" or "room/file.py:function": why it may be longer}"""

DIRECT = re.compile(r'^\s*"([A-Za-z0-9_-]+)[^"]*",\s*(?:#\s*(.*))?$')


def module_name(path: Path) -> str:
    """ "search.loop" of a file of the package, "search" of the room's `__init__.py`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    module_name(path): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "studies" not in path.relative_to(PACKAGE).parts
}
MODULES = {name: path for name, path in FILES.items() if name not in ("", "__main__")}


def room(module: str) -> str:
    """The room that a module of ours is in."""
    return module.partition(".")[0]


@cache
def tree_of(path: Path) -> ast.Module:
    """The parsed file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_from(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
    """(module, name) of each import statement among nodes; the name is "" for `import module`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            yield from ((node.module, alias.name) for alias in node.names)


@cache
def ours(module: str, *, top: bool = False) -> frozenset[str]:
    """Modules of ours that a module imports; `top`: when it is imported, else in functions too."""
    body = tree_of(MODULES[module]).body
    nodes = body if top else list(ast.walk(tree_of(MODULES[module])))
    found = set()
    for name, attribute in imported_from(nodes):
        if name.split(".")[0] == "sensitivity":
            inside = name.removeprefix("sensitivity").removeprefix(".")
            deeper = f"{inside}.{attribute}".removeprefix(".")
            found.add(deeper if deeper in MODULES else inside)
    return frozenset(found & set(MODULES)) - {module}


def packages_of(module: str) -> Iterator[str]:
    """The packages that Python imports before a module."""
    parts = module.split(".")
    yield from (".".join(parts[:n]) for n in range(1, len(parts)))


def closure(module: str) -> set[str]:
    """Every module of ours that importing one loads, packages included."""
    seen: set[str] = set()
    left = [module]
    while left:
        name = left.pop()
        if name not in seen and name in MODULES:
            seen.add(name)
            left += [*ours(name, top=True), *packages_of(name)]
    return seen


def test_the_package_is_its_rooms() -> None:
    """Nothing lies beside the rooms but `__init__.py`, `__main__.py` and the studies."""
    entries = {path.name for path in PACKAGE.iterdir()} - {"__pycache__", "studies", "py.typed"}
    assert entries == {"__init__.py", "__main__.py", "errors.py"} | set(ROOMS[1:])


def for_each(names: Iterable[str]) -> Callable[[Callable[[str], None]], Callable[[], None]]:
    """Make a check of one name one test of all of them, which tells every failure.

    A test for each of hundreds of files would cost more than the checks themselves.
    """

    def of_all(check: Callable[[str], None]) -> Callable[[], None]:
        def test() -> None:
            failures = []
            for name in names:
                try:
                    check(name)
                except AssertionError as error:
                    failures.append(f"{name}: {error}")
            assert not failures, "\n".join(failures)

        test.__doc__ = check.__doc__
        return test

    return of_all


@for_each(sorted(MODULES))
def test_a_module_imports_rooms_to_its_left(module: str) -> None:
    """No module imports a later room, neither at its top, nor in a function, nor for types."""
    wrong = {name for name in ours(module) if ROOMS.index(room(name)) > ROOMS.index(room(module))}
    assert not wrong, f"{module} imports {sorted(wrong)}, which are in later rooms"


@for_each(sorted(MODULES))
def test_what_is_private_stays_in_its_folder(module: str) -> None:
    """`_base` and its like are imported by modules of their own folder only; `_names` by none."""
    for name, attribute in imported_from(ast.walk(tree_of(MODULES[module]))):
        if not name.startswith("sensitivity."):
            continue
        folder, _, last = name.removeprefix("sensitivity.").rpartition(".")
        if last.startswith("_"):
            assert module == folder or module.startswith(f"{folder}."), f"{module} imports {name}"
        assert not attribute.startswith("_"), f"{module} imports {attribute} of {name}"


def test_no_module_imports_itself_through_others() -> None:
    """There is no cycle of imports, counted with those in functions and for types."""
    order: list[str] = []
    state: dict[str, bool] = {}  # False: being visited, True: done

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert state.get(module, True), f"a cycle: {' -> '.join((*path, module))}"
        if module not in state:
            state[module] = False
            for name in sorted(ours(module)):
                visit(name, (*path, module))
            state[module] = True
            order.append(module)

    for module in sorted(MODULES):
        visit(module, ())
    assert len(order) == len(MODULES)


@for_each([name for name in MODULES if name.startswith("core.")])
def test_what_is_in_core_serves_three_rooms(module: str) -> None:
    """A module of core that fewer rooms import belongs to the one that does."""
    users = {room(name) for name in MODULES if module in ours(name)} - {"core"}
    assert len(users) >= 3, f"{module} is imported by {sorted(users)} only"


@pytest.mark.parametrize("workflow", CLOSURES)
def test_a_workflow_loads_what_it_needs(workflow: str) -> None:
    """Pricing loads no search, auditing no Evaluator, and neither grows without notice."""
    loaded = closure(f"workflows.{workflow}")
    assert len(loaded) <= CLOSURES[workflow]
    assert not loaded & {"search.loop", "search.proposers", "fidelity.lpips", "fidelity.evaluator"}


def dependencies() -> dict[str, str]:
    """{package: the comment beside it} of the project's own dependencies."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = text[text.index("\ndependencies = [") : text.index("[project.scripts]")]
    found = dict(match.groups() for line in block.splitlines() if (match := DIRECT.match(line)))
    declared = tomllib.loads(text)["project"]["dependencies"]
    assert [re.split(r"[<>=\[]", entry)[0] for entry in declared] == list(found)
    return found


@functools.cache
def foreign_packages(path: Path) -> frozenset[str]:
    """The packages that a file imports, in functions too."""
    return frozenset(name.split(".")[0] for name, _ in imported_from(ast.walk(tree_of(path))))


def importers(package: str) -> set[str]:
    """Files that import a package; rooms where three files of one room do, or four in all."""
    names = {"pyyaml": "yaml", "tomli-w": "tomli_w", "huggingface-hub": "huggingface_hub"}
    names |= {"pillow": "PIL"}
    wanted = names.get(package, package)
    files = {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES.values()
        if wanted in foreign_packages(path)
    }
    rooms = {file.split("/")[0] for file in files}
    for name in rooms:
        own = {file for file in files if file.startswith(f"{name}/")}
        if len(own) > 2:
            files = (files - own) | {f"{name}/"}
    return {f"{file.split('/')[0]}/" for file in files} if len(files) > 3 else files


def test_each_dependency_says_who_needs_it() -> None:
    """pyproject.toml names, beside each dependency, the files or rooms that import it.

    A dependency that no file imports says "via" whom it is needed.
    """
    for package, comment in dependencies().items():
        assert comment, f"{package} has no comment in pyproject.toml that names who needs it"
        if comment.startswith("via "):
            assert not importers(package), f"{package} is imported by {importers(package)}"
        else:
            named = set(re.split(r",\s*", comment.partition(";")[0].strip()))
            assert named == importers(package), f"{package}: {sorted(importers(package))}"


def test_importing_the_package_loads_no_torch() -> None:
    """`import sensitivity`, its errors, the parser, a study, recipes and exporters load no heavy
    library. The parser, and so each `--help`, loads no pydantic either."""
    heavy = ["torch", "torchao", "diffusers", "transformers", "optuna", "numpy", "sqlalchemy"]
    code = (
        "import sys, sensitivity, sensitivity.cli; assert 'pydantic' not in sys.modules;"
        " dir(sensitivity);"
        " sensitivity.resolve_spec('tiny-flux'); sensitivity.SensitivityError;"
        " sensitivity.load_recipe; sensitivity.get_exporter('torchao');"
        f" print(sorted({{name.split('.')[0] for name in sys.modules}} & set({heavy!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_real() -> None:
    """Each name of `__all__` can be had, is sorted, is ours, and none is missing from it."""
    assert list(sensitivity.__all__) == sorted(set(sensitivity.__all__))
    for name in sensitivity.__all__:
        assert getattr(sensitivity, name).__module__.startswith("sensitivity.")
        assert name in dir(sensitivity)
    public = {name for name in vars(sensitivity) if not name.startswith("_")} - set(ROOMS)
    assert public - {"importlib", "logging", "Any", "TYPE_CHECKING"} == set(sensitivity.__all__)


def test_no_public_name_is_also_a_room() -> None:
    """A function that has a room's name would hide the room, or be hidden by it."""
    assert not set(sensitivity.__all__) & set(ROOMS)


def test_an_unknown_public_name_is_refused_with_the_known_ones() -> None:
    """A misspelt attribute raises AttributeError, which lists the public names."""
    with pytest.raises(AttributeError, match=r"no attribute 'find_recip'; .*find_recipe"):
        getattr(sensitivity, "find_recip")  # noqa: B009 - a name that a type checker refuses


@for_each(sorted(FILES))
def test_files_and_functions_stay_small(name: str) -> None:
    """No file is over 400 lines and no function over 60, but for those with a reason."""
    text = FILES[name].read_text(encoding="utf-8")
    file = FILES[name].relative_to(PACKAGE).as_posix()
    lengths = {file: len(text.splitlines())}
    for node in ast.walk(tree_of(FILES[name])):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lengths[f"{file}:{node.name}"] = node.end_lineno - node.lineno + 1
    long = {
        key: lines
        for key, lines in lengths.items()
        if lines > (MAX_FUNCTION_LINES if ":" in key else MAX_LINES)
    }
    assert set(long) <= set(LONG), f"{long} are too long; split them by idea, or write the reason"


@for_each(sorted(FILES))
def test_every_module_says_what_it_is_for_in_narrow_lines(name: str) -> None:
    """Each file has a docstring, lines of at most 100 characters, and no formatter exemption."""
    text = FILES[name].read_text(encoding="utf-8")
    assert ast.get_docstring(tree_of(FILES[name]))
    wide = [n for n, line in enumerate(text.splitlines(), 1) if len(line) > MAX_WIDTH]
    assert not wide, f"lines {wide} are over {MAX_WIDTH} characters"
    assert not re.search(r"# fmt: (skip|off)", text)


def test_library_messages_name_no_flags() -> None:
    """Outside `cli/`, texts name the fields of records; the command line makes options of them."""
    from sensitivity.cli import app

    commands: Any = typer.main.get_command(app)
    parameters = [p for command in commands.commands.values() for p in command.params]
    own = {flag for parameter in parameters for flag in parameter.opts if flag.startswith("--")}
    found = [
        f"{name}:{node.lineno}"
        for name, path in MODULES.items()
        if room(name) != "cli"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and own.intersection(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*(?!=)", node.value))
    ]
    assert not found, f"these texts name options of the command line: {found}"
