"""The shape of the package: what may import what, what loads torch, and how large a file and a
function may grow.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sensitivity

PACKAGE = Path(sensitivity.__file__).parent
FILES = {
    path.relative_to(PACKAGE).as_posix(): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "studies" not in path.relative_to(PACKAGE).parts
}

# A module imports earlier entries only; modules of one folder may import one another.
ORDER = (
    "errors",
    "environment",
    "hand_lists",
    "prompts",
    "spec",
    "dry_runs",
    "strict_json",
    "fqns",
    "patterns",
    "consumers",
    "census",
    "shape_table",
    "denoisers",
    "profiler",
    "kernels",
    "triton_kernels",
    "formats",
    "emulation",
    "native",
    "switch",
    "latency",
    "recipe_records",
    "recipe",
    "exporters",
    "media",
    "hub",
    "stand_ins",
    "shape_mode",
    "blueprint",
    "random_weights",
    "guests",
    "skeleton",
    "deriving",
    "sizing",
    "weight_files",
    "cached",
    "text_memory",
    "pipelines",
    "painting",
    "fidelity",
    "scoring",
    "candidates",
    "store",
    "calibration",
    "search",
    "naming",
    "verify",
    "workflow",
    "planning",
    "pricing",
    "unverified",
    "audit",
    "nearest",
    "examples",
    "diff",
    "measuring",
    "calibrating",
    "report",
    "cli",
)

DOWNWARD = {
    (
        "recipe",
        "exporters",
    ): "`Recipe.to_torchao` and `to_diffusers` are shorthands, resolved when they are called"
}

# {heavy dependency: (files that import it when they are imported, files that import it when they
# are used)}
HOMES = {
    "torchao": ({"formats.py", "native.py"}, {"exporters/torchao.py"}),
    "triton": (
        {"triton_kernels.py"},
        set(),
    ),  # comes with torch on Linux only: imported where a GPU quantizes
    # seconds to import: only who loads a pipeline, or reads its lists or exports to it, waits
    "diffusers": (
        set(),
        {
            "hub.py",
            "pipelines.py",
            "blueprint.py",
            "consumers/diffusers.py",
            "exporters/diffusers.py",
        },
    ),
    "transformers": (set(), {"hub.py", "blueprint.py"}),
    "huggingface_hub": (set(), {"hub.py", "blueprint.py", "cached.py"}),
    "lpips": ({"fidelity/lpips.py"}, set()),
    "sqlalchemy": ({"store.py"}, set()),
    "mslk": (set(), set()),  # torchao's native kernels import it, we never do
    "optuna": (
        {
            "search/kept.py",
            "search/log.py",
            "search/study.py",
            "search/sampler.py",
            "search/optuna_sampler.py",
            "workflow.py",
        },
        set(),
    ),
    "typer": (
        {
            f"cli/{name}.py"
            for name in (
                "__init__",
                "_common",
                "audit",
                "calibrate",
                "latency",
                "recipes",
                "search",
                "select",
                "shapes",
            )
        },
        set(),
    ),
}

MAX_LINES, MAX_FUNCTION_LINES = 400, 60
LONG: dict[str, str] = {}
"""{"file.py" or "file.py:function": why it may be longer}"""


def imported(node: ast.stmt | ast.AST) -> list[str]:
    """The modules that an import statement names; [] for other nodes."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return (
            [f"sensitivity.{alias.name}" for alias in node.names]
            if node.module == "sensitivity"
            else [node.module]
        )
    return []


def imports(path: Path) -> tuple[set[str], set[str]]:
    """(modules imported at the top of a file, modules imported inside functions or for type
    checking only).
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {name for node in tree.body for name in imported(node)}
    everything = {(id(node), name) for node in ast.walk(tree) for name in imported(node)}
    return top, {name for key, name in everything if key not in {id(node) for node in tree.body}}


def unit(module: str) -> str:
    """The entry of ORDER that a file ("search/study.py") or module ("sensitivity.search.study")
    belongs to.
    """
    return module.removeprefix("sensitivity.").replace("/", ".").removesuffix(".py").split(".")[0]


def test_every_module_has_its_place_in_the_order() -> None:
    """The order names each module of the package once, and nothing else."""
    assert len(ORDER) == len(set(ORDER))
    assert {unit(name) for name in FILES} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("file", [name for name in FILES if name != "__init__.py"])
def test_imports_point_up_the_order_only(file: str) -> None:
    """No module imports a later one, neither at its top nor in a function, but for exceptions with
    a reason.
    """
    top, inside = imports(FILES[file])
    here = unit(file)
    for name in sorted(top | inside):
        if not name.startswith("sensitivity.") or unit(name) == here:
            continue
        excused = (here, unit(name)) in DOWNWARD and name not in top
        assert excused or ORDER.index(unit(name)) < ORDER.index(here), (
            f"{file} imports {name}, which is later in the order"
        )


def test_every_exception_to_the_order_is_used() -> None:
    """An exception that no file needs any more is taken off the list."""
    used = {
        (unit(file), unit(name))
        for file, path in FILES.items()
        for name in imports(path)[1]
        if name.startswith("sensitivity.")
    }
    assert set(DOWNWARD) <= used


@pytest.mark.parametrize("dependency", list(HOMES))
def test_each_heavy_dependency_has_its_home(dependency: str) -> None:
    """torchao, diffusers, lpips, sqlalchemy and others are imported by the files named for them and
    by no other.
    """
    found: tuple[set[str], set[str]] = (set(), set())
    for file, path in FILES.items():
        for where, names in zip(found, imports(path), strict=True):
            if any(name.split(".")[0] == dependency for name in names):
                where.add(file)
    assert found == HOMES[dependency]


def test_importing_the_package_loads_no_torch() -> None:
    """`import sensitivity`, its errors, the parser and `__dir__` are done without torch, diffusers,
    torchao, optuna or numpy.
    """
    code = (
        "import sys, sensitivity, sensitivity.cli; dir(sensitivity);"
        " sensitivity.resolve_spec('tiny-flux'); sensitivity.SensitivityError;"
        " print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'torchao',"
        " 'diffusers', 'transformers', 'optuna', 'numpy', 'lpips'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_real() -> None:
    """Each name of `__all__` can be had, is sorted, comes from a module of ours and nothing public
    is missing from it.
    """
    assert list(sensitivity.__all__) == sorted(set(sensitivity.__all__))
    for name in sensitivity.__all__:
        assert getattr(sensitivity, name).__module__.startswith("sensitivity.")
        assert name in dir(sensitivity)
    modules = {unit(file) for file in FILES}
    public = {name for name in vars(sensitivity) if not name.startswith("_")} - modules
    assert public - {"importlib", "logging", "Any", "TYPE_CHECKING"} == set(sensitivity.__all__)


def test_no_public_name_is_also_a_module() -> None:
    """A function that has a module's name would hide the module, or be hidden by it."""
    assert not set(sensitivity.__all__) & {unit(file) for file in FILES}


def test_an_unknown_public_name_is_refused_with_the_known_ones() -> None:
    """A misspelt attribute raises AttributeError, which lists the public names."""
    with pytest.raises(
        AttributeError, match=r"no attribute 'find_recip'; public names are .*find_recipe"
    ):
        getattr(sensitivity, "find_recip")  # noqa: B009 - a name that a type checker refuses


@pytest.mark.parametrize("file", list(FILES))
def test_files_and_functions_stay_small(file: str) -> None:
    """No module is over 400 lines and no function over 60, but for those with a reason."""
    text = FILES[file].read_text(encoding="utf-8")
    lengths = {file: len(text.splitlines())}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lengths[f"{file}:{node.name}"] = node.end_lineno - node.lineno + 1
    long = {
        name: lines
        for name, lines in lengths.items()
        if lines > (MAX_FUNCTION_LINES if ":" in name else MAX_LINES)
    }
    assert set(long) <= set(LONG), (
        f"{long} are too long; split them, or write the reason beside LONG"
    )
