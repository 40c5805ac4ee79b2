"""The rules of the layout: who may import what, what the package says it offers, and how long things may get."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sensitivity

PACKAGE = Path(sensitivity.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
# From the ground up: a module may import what stands before it, and its own folder.
ORDER = (
    "errors", "environment", "spec", "strict_json", "patterns", "profiler", "kernels", "formats", "switch", "latency", "pipelines", "fidelity",
    "candidates", "scoring", "store", "calibrate", "search", "recipe", "exporters", "verify", "workflow", "pricing", "report", "cli",
)  # fmt: skip
# Heavy dependency -> the files that may import it. Exporters and `Recipe.apply` do so inside functions, so that reading a recipe stays light.
HOMES = {
    "torchao": {"formats.py", "exporters/torchao.py", "exporters/diffusers.py"},
    "mslk": {"formats.py"},
    "diffusers": {"pipelines.py", "exporters/diffusers.py"},
    "transformers": {"pipelines.py"},
    "lpips": {"fidelity/lpips.py"},
    "sqlalchemy": {"store.py"},
    "moocore": {"search/front.py"},
}
# Longer than the limits, each for a reason.
LONG_FUNCTIONS: dict[str, str] = {"cli.py:search": "one typer option a line"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports_of(path: Path, *, top_only: bool) -> set[str]:
    """Dotted names that a file imports; with `top_only` those at module level outside TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_up_only(path: Path) -> None:
    """A module imports, when it is loaded, only modules that stand before it in the layout."""
    if path.name == "__init__.py" and path.parent == PACKAGE:
        return
    rank = ORDER.index(room_of(path))
    for name in imports_of(path, top_only=True):
        parts = name.split(".")
        if parts[0] == "sensitivity" and len(parts) > 1 and parts[1] in ORDER:
            assert ORDER.index(parts[1]) <= rank, f"{path.name} imports {name}"


@pytest.mark.parametrize("library", HOMES)
def test_heavy_dependencies_have_one_home(library: str) -> None:
    """Each heavy dependency is imported by its named files only, and by at least one of them unless it is optional."""
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if any(name == library or name.startswith(f"{library}.") for name in imports_of(path, top_only=False))
    }
    assert users <= HOMES[library]
    assert users or library == "mslk"


def test_every_module_is_placed() -> None:
    """No module stands outside the order, and the order names no module that is gone."""
    rooms = {room_of(path) for path in MODULES if path != PACKAGE / "__init__.py"}
    assert rooms == set(ORDER)


@pytest.mark.parametrize(
    "code",
    [
        "import sensitivity",
        "import sensitivity; sensitivity.load_recipe",
        "import sensitivity.cli",
        "import sensitivity; sensitivity.resolve_spec",
    ],
)
def test_light_imports_load_no_torch(code: str) -> None:
    """Importing the package, its command line, the recipe reader or the study reader loads no torch."""
    check = f"{code}\nimport sys\nassert 'torch' not in sys.modules, 'torch was loaded'"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_all_is_reality() -> None:
    """Every public name can be had, from the module that it is listed for, and unknown names say what there is."""
    for name in sensitivity.__all__:
        assert getattr(sensitivity, name) is not None
    assert sorted(sensitivity.__all__) == list(sensitivity.__all__)
    assert set(sensitivity.__all__) <= set(dir(sensitivity))
    with pytest.raises(AttributeError, match="public names are ApplyReport"):
        sensitivity.nonsense  # noqa: B018


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(path: Path) -> None:
    """No file over 400 lines, no function over 60, every module with an essay, no bare except; exceptions are listed with a reason."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= 400
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= 60 or f"{path.name}:{node.name}" in LONG_FUNCTIONS, f"{node.name} has {lines} lines"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None)
