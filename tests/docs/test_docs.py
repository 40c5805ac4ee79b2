"""The documents and the program hold each other: every command and option has help and its place in
the reference, and README and docs/ show only what works and name only what is there.
"""

import ast
import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

import sensitivity
import sensitivity.cli
from sensitivity.cli.app import app
from sensitivity.spec.loading import load_spec
from sensitivity.spec.shipped import list_studies, studies_folder

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GROUP: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = GROUP.commands
README = ROOT / "README.md"
SITE = sorted(DOCS.rglob("*.md"))
OTHERS = [
    path
    for folder in (".", "studies", "studies/tiny-flux", "recipes", "benchmarks", "notebooks")
    for path in sorted((ROOT / folder).glob("*.md"))
    if path.name not in ("LOG.md", "CHANGELOG.md")
]
PAGES = [*OTHERS, *SITE]
ELSEWHERE = {"modelopt", "llmcompressor", "sdnq"}
"""Packages of other tools that the examples import and the tests do not install."""
EXPORTED = {"flux_recipe"}
"""Modules that an export writes in the example itself."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def script(name: str) -> Any:
    """A script of docs/ as a module."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in a language; those of lists are indented."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, flags=re.M | re.S)
    return [re.sub(rf"^{indent}", "", block, flags=re.M) for indent, block in found]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def shell_lines(page: Path) -> Iterator[list[str]]:
    """The words of each command that a bash block of a page shows."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def shown_commands() -> list[tuple[str, ...]]:
    """The arguments of each `sensitivity ...` that a page shows, each once."""
    lines = [words for page in PAGES for words in shell_lines(page)]
    outputs = [shlex.split(one.command) for one in script("make_outputs").shown()]
    found = (
        tuple(words[words.index("sensitivity") + 1 :])
        for words in [*lines, *outputs]
        if "sensitivity" in words
    )
    return list(dict.fromkeys(found))


# --- commands ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_and_option_has_help(name: str) -> None:
    """Each command says what it does in a sentence, and so does each of its options and
    arguments.
    """
    command = COMMANDS[name]
    assert command.help
    assert command.help.strip().endswith(".")
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_takes_json(name: str) -> None:
    """Each command can write its result as JSON."""
    assert any("--json" in parameter.opts for parameter in COMMANDS[name].params)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_is_shown_and_every_option_documented(name: str) -> None:
    """Some page runs each command, and the reference has each of its options."""
    assert name in {arguments[0] for arguments in shown_commands()}
    reference = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", reference, flags=re.M)
    own = next(part for part in section if part.startswith(f"{name}\n"))
    missing = [
        flag
        for parameter in COMMANDS[name].params
        for flag in [*parameter.opts, *parameter.secondary_opts]
        if flag.startswith("-") and f"`{flag}`" not in own and not parameter.hidden
    ]
    assert missing == []


@pytest.mark.parametrize("arguments", shown_commands(), ids=" ".join)
def test_every_command_shown_parses(arguments: tuple[str, ...]) -> None:
    """The program accepts the command and options that a page shows; nothing is run."""
    command = COMMANDS[arguments[0]]
    context = command.make_context(arguments[0], list(arguments[1:]))
    assert context.params
    with pytest.raises(Exception, match="No such option"):
        command.make_context(arguments[0], [*arguments[1:], "--no-such-option"])


def test_every_other_shell_line_is_of_a_known_program() -> None:
    """Bash blocks run uv, pip, this repository's scripts and its checks, and scripts that exist."""
    lines = [(page, words) for page in PAGES for words in shell_lines(page)]
    for page, words in lines:
        assert words[0] in ("uv", "pip", ".ci/run"), (name_of(page), words)
        scripts = [word for word in words if word.endswith(".py") and "/" in word]
        outputs = {words[i + 1] for i, word in enumerate(words[:-1]) if word in ("--out", "-o")}
        for path in {word.partition(":")[0] for word in scripts} - outputs:
            assert (ROOT / path).is_file(), f"{name_of(page)} runs {path}"


# --- README --------------------------------------------------------------------------------------


def test_the_readme_shows_the_two_commands_of_the_first_minute() -> None:
    """The search and the tests are the README's first block, and all of it."""
    first = blocks(README, "bash")[0].splitlines()
    assert first == ["uv run sensitivity search --model tiny-flux --budget 50", "uv run pytest"]


def test_the_readme_is_short() -> None:
    """The README has at most 150 lines of at most 100 characters."""
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 100] == []


def test_every_room_has_its_clause_in_the_readme() -> None:
    """The README's map names each room of the package, and no other."""
    named = re.findall(r"^\| `(\w+)/` \| \S", README.read_text(encoding="utf-8"), flags=re.M)
    package = ROOT / "sensitivity"
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    assert set(named) == rooms
    assert len(named) == len(rooms)


def test_the_readmes_figures_are_those_of_the_pictures_search() -> None:
    """What the README says of the search is what the JSON beside the picture says."""
    recipe = json.loads((DOCS / "data" / "front.json").read_text(encoding="utf-8"))
    text = README.read_text(encoding="utf-8")
    compared = recipe["verified"]["compared"]
    by_hand = [row for row in compared if not row["name"].startswith("trial ")]
    lpips = sorted(row["typical"] for row in by_hand)
    speedups = sorted(row["speedup"] for row in by_hand)
    chosen = recipe["fidelity"]["lpips"]["typical"], recipe["latency"]["speedup"]
    prose_of_it = " ".join(text.split())
    assert f"typical LPIPS of {lpips[0]:.3f} to {lpips[-1]:.3f}" in prose_of_it
    assert f"costs {chosen[0]:.3f}, at a predicted speedup of {chosen[1]:.2f}x" in prose_of_it
    assert f"instead of {speedups[0]:.2f}x to {speedups[-1]:.2f}x" in prose_of_it


# --- pages ---------------------------------------------------------------------------------------


def python_blocks() -> list[Any]:
    """Each Python block with its page."""
    return [
        pytest.param(page, code, id=f"{name_of(page)}-{i}")
        for page in PAGES
        for i, code in enumerate(blocks(page, "python"))
    ]


def is_there(module: str) -> bool:
    """Whether a module is installed; its package is not imported, which would take seconds."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not rest:
        return spec is not None
    file = Path(next(iter(spec.submodule_search_locations or ()))).joinpath(*rest)
    return file.is_dir() or file.with_suffix(".py").is_file()


@pytest.mark.parametrize(("page", "code"), python_blocks())
def test_python_examples_are_real(page: Path, code: str) -> None:
    """Each Python block compiles, what it imports is there, and each name that it takes from the
    package is public.
    """
    tree = ast.parse(code, name_of(page))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            continue
        for module in modules:
            if module.split(".")[0] in ELSEWHERE | EXPORTED:
                continue
            assert is_there(module), module
            if isinstance(node, ast.ImportFrom) and module.startswith("sensitivity"):
                found = importlib.import_module(module)
                assert [a.name for a in node.names if not hasattr(found, a.name)] == []
    names = re.findall(r"\bsensitivity\.([A-Za-z_]+)", code)
    assert set(names) <= set(sensitivity.__all__)


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", prose(page), flags=re.M)
    plain = (re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles)
    return frozenset(re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", t)).strip("-") for t in plain)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_local_link_leads_somewhere(page: Path) -> None:
    """Each link to a file, picture or heading of the repository has its target; pages of docs/ link
    to pages of docs/ only, since the site has no others.
    """
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)} links to {target}"
        if page.is_relative_to(DOCS):
            assert file.is_relative_to(DOCS), f"{name_of(page)} links out of docs/: {target}"
        if anchor:
            assert anchor in anchors(file), f"{name_of(page)} links to {target}"


NAMED = re.compile(
    r"`((?:docs|studies|recipes|benchmarks|tests|sensitivity|\.ci)/[\w./-]*|[A-Z]+\.(?:md|cff))`"
)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_named_exists(page: Path) -> None:
    """Each path of the repository that a page names in code is there."""
    named = NAMED.findall(prose(page))
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", SITE, ids=name_of)
def test_pages_name_no_machine(page: Path) -> None:
    """No page, and no data beside it, holds a path of the machine that made it."""
    assert not re.search(r"(?<![\w.])/(?:home|root|tmp|work|Users)/", page.read_text("utf-8"))


def test_data_and_scripts_name_no_machine() -> None:
    """The same for the scripts and their data."""
    for path in [*DOCS.rglob("*.json"), *DOCS.rglob("*.py"), *DOCS.rglob("*.toml")]:
        assert not re.search(r"(?<![\w.])/(?:home|root|tmp|work|Users)/", path.read_text("utf-8"))


def nav_pages(entry: Any) -> Iterator[str]:
    """The pages of a part of mkdocs.yml's nav."""
    for part in entry if isinstance(entry, list) else [entry]:
        if isinstance(part, dict):
            for value in part.values():
                yield from nav_pages(value)
        else:
            yield part


def test_the_sites_navigation_is_complete() -> None:
    """Each page is in mkdocs.yml's navigation once, and there is a page for each entry."""
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = list(nav_pages(config["nav"]))
    assert sorted(named) == sorted(page.relative_to(DOCS).as_posix() for page in SITE)


def test_every_consumer_has_its_page() -> None:
    """Each exporter has a how-to page, and the table of consumers has each of its forms."""
    from sensitivity.consumers.exporters import EXPORTERS

    table = (DOCS / "reference" / "consumers.md").read_text(encoding="utf-8")
    for name, exporter in EXPORTERS.items():
        assert (DOCS / "how-to" / f"{name}.md").is_file()
        row = next(line for line in table.splitlines() if line.startswith(f"| [`{name}`]"))
        assert [form for form in exporter.forms if f"`{form}`" not in row] == []


# --- what is written by scripts ------------------------------------------------------------------


@pytest.mark.parametrize("name", list(script("make_reference").PAGES))
def test_reference_pages_are_current(name: str) -> None:
    """Each generated page is what `docs/make_reference.py` would write now."""
    text = script("make_reference").PAGES[name]().rstrip() + "\n"
    found = (DOCS / "reference" / name).read_text(encoding="utf-8")
    assert found == text, "run uv run python docs/make_reference.py"


def test_shown_outputs_are_well_formed() -> None:
    """Each comment of a shown output is understood, and its block holds an output."""
    shown = list(script("make_outputs").shown())
    comments = sum(page.read_text("utf-8").count("<!-- output of:") for page in [README, *SITE])
    assert len(shown) == comments > 8
    assert [one.command for one in shown if not one.text.strip()] == []


def written(*arguments: str) -> tuple[str, Any]:
    """What a command prints, and its JSON."""
    done = CliRunner().invoke(app, [*arguments, "--json", "-"])
    assert done.exit_code in (0, 1), done.output
    return done.stderr, json.loads(done.stdout)


def key_paths(value: Any, path: str = "") -> Iterator[str]:
    """The path of each key of a JSON object."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{path}.{key}" if path else key
            yield from key_paths(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in value:
            yield from key_paths(inner, f"{path}[]")


EXAMPLE = "recipes/flux1-dev-nvfp4-b200-unverified.json"


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("models", ["models"]),
        ("doctor", ["doctor"]),
        ("device", ["device"]),
        ("profile", ["profile", "--model", "tiny-flux"]),
        ("latency", ["latency", "--model", "tiny-flux"]),
        ("audit", ["audit", "-", "--model", "tiny-flux", "--as", "substring", "--no-vary"]),
        ("check", ["check", "-", "--model", "tiny-flux", "--min-speedup", "1.01"]),
        ("export", ["export", str(ROOT / EXAMPLE), "--to", "skip-list"]),
        ("diff", ["diff", str(ROOT / EXAMPLE), str(ROOT / EXAMPLE)]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_json_keys_are_documented(
    command: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The reference names each key that a cheap command writes, and no other."""
    monkeypatch.chdir(tmp_path)
    if "-" in arguments:
        listed = tmp_path / "list.txt"
        listed.write_text("embed\nno_such_layer\n", encoding="utf-8")
        arguments = [str(listed) if word == "-" else word for word in arguments]
    known = script("make_reference").documented(command)
    found = set(key_paths(written(*arguments)[1]))
    said = {key.removesuffix(".*") for key in known}
    whole = tuple(part for key in said for part in (f"{key}.", f"{key}[]"))
    outer = {
        path for path in found if any(key.startswith((f"{path}.", f"{path}[]")) for key in said)
    }
    assert [path for path in sorted(found - said - outer) if not path.startswith(whole)] == []
    needed = {key.removesuffix(".*") for key, optional in known.items() if not optional}
    if command != "diff":  # equal recipes have no changes to show
        assert sorted(needed - found) == []


# --- studies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", sorted(studies_folder().rglob("*.toml")), ids=lambda path: path.stem
)
def test_every_study_loads(path: Path) -> None:
    """Each TOML under studies/, at any depth, is a study, and the files that it names exist."""
    spec = load_spec(path)
    assert spec.name == path.stem
    assert spec.title
    for file in (spec.model.path, spec.fidelity.weights):
        assert file is None or file.exists()


def test_studies_are_found_by_name() -> None:
    """There are studies, and every TOML under studies/ is one that `--model` takes by its name."""
    files = sorted(studies_folder().rglob("*.toml"))
    assert files
    assert sorted(list_studies().values()) == files
