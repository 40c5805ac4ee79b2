"""Recipes of other versions and of other people: old files are read, later fields are kept, what is
hostile is refused in words and at once.
"""

import copy
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensitivity.errors import RecipeError
from sensitivity.recipes.recipe import Recipe, load_recipe

DATA = Path(__file__).parents[1] / "data"
FIRST, LATER = DATA / "recipe-1.0-first.json", DATA / "recipe-1.9-later.json"
"""As the first version wrote them; as a later minor version may, with a field that is unknown today
at every level.
"""

SECONDS = 4.0
"""Of this process that refusing a file may take."""

LONG = {"a" * 490 + str(i): "bf16" for i in range(2000)}


def first() -> dict[str, Any]:
    """The oldest recipe, parsed."""
    data: dict[str, Any] = json.loads(FIRST.read_text())
    return data


def unverified(**changes: Any) -> dict[str, Any]:
    """A recipe without pictures."""
    return {
        **first(),
        "fidelity": None,
        "notice": "priced by shapes; no picture was drawn",
        "front": [],
        **changes,
    }


# --- versions -------------------------------------------------------------------------------------


def test_the_first_files_are_read() -> None:
    """Fields that came later have defaults that say: not known, not measured, one alone."""
    recipe = load_recipe(FIRST)
    assert recipe.fidelity is not None
    assert (recipe.choice, recipe.notice, recipe.caveat, recipe.is_unverified) == (
        None,
        None,
        "",
        False,
    )
    assert (
        recipe.latency.stands_for,
        recipe.fidelity.lpips.simultaneous,
        recipe.search.stopped,
    ) == (1, 1, 0)
    assert recipe.model.classes == {"transformer": "TwoBlockNet"}
    saved = json.loads(recipe.to_json())
    assert contains(saved, first())


def contains(whole: Any, part: Any) -> bool:
    """Whether all of `part` is in `whole`, at every level."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            key in whole and contains(whole[key], value) for key, value in part.items()
        )
    if isinstance(part, list):
        return (
            isinstance(whole, list) and len(whole) == len(part) and all(map(contains, whole, part))
        )
    return bool(whole == part)


def test_a_later_minor_is_read_and_keeps_its_fields(tmp_path: Path) -> None:
    """What this version does not know is there again, unchanged, after load and save, at every
    level; so is the version.
    """
    recipe = load_recipe(LATER)
    saved = recipe.save(tmp_path / "again.json")
    assert contains(json.loads(saved.read_text()), json.loads(LATER.read_text()))
    assert recipe.caveat == "notice: found with a smaller budget than usual"


def test_another_major_is_refused() -> None:
    """Whatever else is in the file."""
    for version in ("3.0", "0.9", "11.0"):
        with pytest.raises(
            RecipeError, match=rf"found schema_version '{version}'; expected 1\.x or 2\.x: update"
        ):
            Recipe.from_mapping({**first(), "schema_version": version})


def test_what_a_later_minor_must_not_do_says_to_update() -> None:
    """A word that this version does not know is refused, and the message says which version wrote
    it; a file of this version gets no such hint.
    """
    later = {**first(), "schema_version": "2.9"} | {"layers": first()["layers"] | {"head": "int3"}}
    with pytest.raises(
        RecipeError, match=r"layers\.head: .*its schema_version is 2\.9, this reads 2\.2: update"
    ):
        Recipe.from_mapping(later)
    with pytest.raises(RecipeError) as caught:
        Recipe.from_mapping({**later, "schema_version": "1.0"})
    assert "update" not in str(caught.value)


# --- unverified -----------------------------------------------------------------------------------


def test_a_recipe_without_pictures_says_so(tmp_path: Path) -> None:
    """Null fidelity makes a recipe unverified; its notice stands in one printable line, and
    survives a round trip.
    """
    recipe = Recipe.from_mapping(unverified(notice="two\nlines\x1b[31m"))
    assert recipe.is_unverified
    assert recipe.caveat == "UNVERIFIED: two lines [31m"
    assert load_recipe(recipe.save(tmp_path / "r.json")) == recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"notice": None}, "found fidelity null without a notice"),
        ({"notice": "  \n"}, "found fidelity null without a notice"),
        ({"notice": ""}, "notice: String should have at least 1"),
        ({"notice": "x" * 2001}, "notice: String should have at most 2000"),
        ({"verified": {"split": "held_out"}}, "found fidelity null and verified filled"),
    ],
)
def test_an_unlabelled_recipe_without_pictures_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    """No LPIPS and no word about it is no recipe, and nothing is verified without pictures."""
    with pytest.raises(RecipeError, match=message):
        Recipe.from_mapping(unverified(**changes))


def test_fidelity_may_be_null_but_not_missing() -> None:
    """A file that lost the field is damaged, not unverified."""
    data = unverified()
    del data["fidelity"]
    with pytest.raises(RecipeError, match="fidelity: Field required"):
        Recipe.from_mapping(data)


# --- hostile files --------------------------------------------------------------------------------


def refuse(path: Path, message: str) -> None:
    """Loading is refused within the time, with the path in front, and no more text than a screen
    holds.
    """
    began = time.process_time()
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert time.process_time() - began < SECONDS
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 20_000


def many(count: int) -> dict[str, str]:
    return {f"b.{i}.c": "bf16" for i in range(count)}


def changed(**changes: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {**first(), **changes}


def within(path: str, value: Any) -> Callable[[], dict[str, Any]]:
    """The first recipe with one field changed."""

    def make() -> dict[str, Any]:
        data = first()
        *front, last = path.split("/")
        place = data
        for key in front:
            place = place[key]
        place[last] = value
        return data

    return make


HOSTILE: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "20,001 layers": (
        changed(layers=many(20_001), skip=list(many(20_001)), patterns=[]),
        "at most 20000 items",
    ),
    "a hundred thousand members": (
        changed(front=[0] * 90_000),
        r"found 90000 wrong field\(s\), first front\.0",
    ),
    "empty members": (changed(front=[{}] * 45_000), r"wrong field\(s\), first front\.0\.name"),
    "wrong formats": (
        changed(layers={f"a{i}": 0 for i in range(90_000)}),
        r"found \d+ wrong field\(s\), first layers\.a0",
    ),
    "a key of a megabyte": (within("layers/" + "a" * 2**20, 0), "layers.aaa"),
    "a key of control characters": (within("layers/a\x1b[2J\n", 0), r"layers\.a\\x1b\[2J\\n: "),
    "a version of a megabyte": (changed(schema_version="9" * 2**20), "found schema_version '999"),
    "an entry of a megabyte": (
        changed(skip=["\x1b" * 2**20]),
        r"differs from the bf16 layers in 3 \('\\x1b",
    ),
    "a class of a megabyte": (
        within("model/component_class", "A" * 2**20),
        "model.component_class: String should have at most 256",
    ),
    "a path as a name": (changed(name="../../etc/passwd"), "name: String should match pattern"),
    "a backslash in a name": (changed(name="a\\b"), "name: String should match pattern"),
    "a hidden name": (changed(name=".bashrc"), "name: String should match pattern"),
    "a newline in a name": (changed(name="a\n# proj_out"), "name: String should match pattern"),
    "a name that turns the text around": (
        changed(name="a\u202etxt.exe"),
        "name: String should match pattern",
    ),
    "a name that steers a terminal": (changed(name="a\x9b2J"), "name: String should match pattern"),
    "a path as an FQN": (
        changed(layers={"/etc/passwd": "bf16"}, skip=["/etc/passwd"], patterns=[]),
        "found the layer '/etc/passwd'",
    ),
    "a component that is code": (
        within("model/component", "os.system('x')"),
        "model.component: String should match pattern",
    ),
    "stars that backtrack": (
        changed(
            layers=LONG,
            skip=list(LONG),
            patterns=[{"pattern": "*a" * 250 + "*?", "reason": ""}] * 1000,
        ),
        r"1000 patterns for 2000 layers, \d+ characters to compare; expected at most 250000000",
    ),
    "a regular expression": (
        changed(patterns=[{"pattern": "(a+)+$", "reason": ""}]),
        "it is a shell glob on the FQN, not a regular expression",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_values_are_refused_at_once(kind: str, tmp_path: Path) -> None:
    """Size, names and patterns that would cost time, or harm where they are shown or used as a
    path.
    """
    make, message = HOSTILE[kind]
    path = tmp_path / "r.json"
    path.write_text(json.dumps(make(), separators=(",", ":")))
    refuse(path, message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found no valid JSON at line 1, column 1"),
        (b"[" * 7_000_000, r"found 7000000 values; expected at most 100000"),
        (b'{"a":' * 90_000, "nesting deeper than 64"),
        (b"[{}]", "found a list at the top"),
        (b'"1.0"', "found a str at the top"),
        (b"null", "found a NoneType at the top"),
        (b"\xff\xfe\x00", "found bytes that are not UTF-8 at position 0"),
        (
            b'{"schema_version": "1.0", "schema_version": "2.0"}',
            "found the key 'schema_version' twice",
        ),
        (b'{"latency": NaN}', "found NaN"),
        (b'{"latency": -Infinity}', "found -Infinity"),
        (b'{"latency": 1e999}', "found the number 1e999"),
        (b'{"latency": ' + b"9" * 8_000_000 + b"}", "found an integer of 8000000 digits"),
        (b'{"name": "\\udc80"}', "found a lone surrogate"),
        (b'{"name": "' + b"x" * 9_000_000, "found more than 8388608 bytes"),
    ],
    ids=range(14),
)
def test_hostile_texts_are_refused_at_once(data: bytes, message: str, tmp_path: Path) -> None:
    """What is no strict JSON, too deep, or too much."""
    path = tmp_path / "r.json"
    path.write_bytes(data)
    refuse(path, message)


def test_the_largest_honest_recipe_is_read(tmp_path: Path) -> None:
    """20,000 layers with a pattern for each ten thousand take about as long as reading the file
    does.
    """
    layers = many(20_000)
    recipe = Recipe.from_mapping(
        {
            **first(),
            "layers": layers,
            "skip": list(layers),
            "patterns": [{"pattern": "b.*.c", "reason": "all"}] * 2,
        }
    )
    path = recipe.save(tmp_path / "r.json")
    began = time.process_time()
    assert load_recipe(path) == recipe
    assert time.process_time() - began < 2 * SECONDS


def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    """A folder, a pipe that nobody writes to, a device without end, a link to itself, a path that
    is none, and nothing at all.
    """
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "link.json").symlink_to(tmp_path / "link.json")
    (tmp_path / "to-pipe.json").symlink_to(tmp_path / "pipe.json")
    refuse(tmp_path, "found a folder; expected a regular file")
    refuse(tmp_path / "pipe.json", "found a pipe or device; expected a regular file")
    refuse(tmp_path / "to-pipe.json", "found a pipe or device")
    refuse(Path("/dev/zero"), "found a pipe or device")
    refuse(tmp_path / "link.json", "found Too many levels of symbolic links")
    refuse(tmp_path / "nothing.json", "found No such file or directory")
    refuse(tmp_path / ("x" * 5000), "found File name too long")
    refuse(tmp_path / "a\0b", "path with a NUL character")


# --- fuzzing --------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        "bf16",
        "nvfp4",
        "1.0",
        "1.9",
        "2.0",
        "",
        "a",
        "blocks.0.up",
        "*",
        "/",
        "\x00",
        "predicted",
        "\ud800",
        "é",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
FUZZ = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read_or_refused(path: Path, data: bytes) -> None:
    """A Recipe that survives a round trip, or a RecipeError in words; nothing else."""
    path.write_bytes(data)
    try:
        recipe = load_recipe(path)
    except RecipeError as error:
        assert "found" in str(error)  # noqa: PT017 - most inputs raise, some do not
        return
    assert load_recipe(recipe.save(path)) == recipe


@FUZZ
@given(data=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes, tmp_path: Path) -> None:
    """Whatever a file holds."""
    read_or_refused(tmp_path / "r.json", data)


@FUZZ
@given(data=st.data())
def test_any_change_of_a_recipe_is_read_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    """A good file with some places replaced, removed or added to by arbitrary values."""
    value = copy.deepcopy(json.loads(LATER.read_text()))
    for _ in range(data.draw(st.integers(1, 3))):
        change(value, data)
    text = json.dumps(value)  # writes NaN and lone surrogates as well
    read_or_refused(tmp_path / "r.json", text.encode())


def change(value: Any, data: st.DataObject) -> None:
    """Change one place below `value`, which is an object or a list."""
    places: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        item = pending.pop()
        keys = list(item) if isinstance(item, dict) else list(range(len(item)))
        places += [(item, key) for key in keys]
        pending += [item[key] for key in keys if isinstance(item[key], dict | list)]
    if not places:
        return
    holder, key = data.draw(st.sampled_from(places))
    what = data.draw(st.sampled_from(["replace", "remove", "add"]))
    if what == "remove":
        del holder[key]
    elif what == "add" and isinstance(holder, dict):
        holder[data.draw(WORDS)] = data.draw(VALUES)
    else:
        holder[key] = data.draw(VALUES)
