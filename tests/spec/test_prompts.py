"""A file of prompts is split alike each time, and one that cannot be meant is refused with its
line.
"""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from pydantic import ValidationError

from sensitivity.errors import SpecError
from sensitivity.spec.loading import load_spec
from sensitivity.spec.prompts import (
    PromptSection,
    general_pictures,
    general_videos,
    read_prompts,
    split_prompts,
)

EIGHT = [f"prompt number {i}" for i in range(8)]


def file_of(folder: Path, text: str | bytes, name: str = "mine.txt") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("count", "search"),
    [(8, 4), (9, 4), (12, 4), (15, 5), (48, 16), (200, 16)],
    ids=lambda value: str(value),
)
def test_a_third_chooses_evenly_spread(count: int, search: int) -> None:
    """A third of the prompts, 4 to 16, are search prompts; two neighbours among them are about
    equally far apart, and the first prompt is one.
    """
    texts = [str(i) for i in range(count)]
    split = split_prompts(texts)
    assert (len(split.search), len(split.held_out)) == (search, count - search)
    assert sorted([*split.search, *split.held_out], key=int) == texts
    places = [int(text) for text in split.search]
    gaps = [b - a for a, b in zip(places, [*places[1:], count], strict=True)]
    assert places[0] == 0
    assert max(gaps) - min(gaps) <= 1


def test_comments_and_empty_lines_are_no_prompts(tmp_path: Path) -> None:
    """Lines that begin with # and empty ones are left out; a # inside a line, quotes and other
    scripts are part of a prompt; a BOM and CRLF are not.
    """
    odd = ['a sign that says "#1"', "猫が窓辺で眠る", "  a fox   in snow  "]
    text = "\ufeff# kinds\r\n\r\n" + "\r\n".join([*EIGHT, *odd]) + "\r\n  # the end"
    found = read_prompts(file_of(tmp_path, text))
    assert set(found.search) | set(found.held_out) == {*EIGHT, *(line.strip() for line in odd)}


def test_a_toml_says_which_prompts_choose(tmp_path: Path) -> None:
    """Both lists are taken as they are written, seeds too, with and without the section's name."""
    bare = 'search = ["a", "b"]\nheld_out = ["c"]\nseed = 7\n'
    expected = PromptSection(search=("a", "b"), held_out=("c",), seed=7)
    assert read_prompts(file_of(tmp_path, bare, "a.toml")) == expected
    assert read_prompts(file_of(tmp_path, "[prompts]\n" + bare, "b.toml")) == expected


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("mine.txt", "", ["has 0 prompts", "8 or more"]),
        ("mine.txt", "# nothing\n\n", ["has 0 prompts", "8 or more"]),
        ("mine.txt", "\n".join(EIGHT[:7]), ["has 7 prompts", "8 or more", "search"]),
        ("mine.txt", "\n".join([*EIGHT, EIGHT[2]]), ["line 9 repeats line 3", "prompt number 2"]),
        ("mine.txt", b"ab\xff", ["not UTF-8 at position 2", "save the file as UTF-8"]),
        ("mine.txt", "\n".join([*EIGHT, "x" * 20_001]), ["prompt 9 has 20001 characters"]),
        ("mine.csv", "prompt\n" + "\n".join(EIGHT[:7]), ["has 7 prompts (read as CSV)"]),
        ("mine.json", '["a\\u001b[31m"]', ["prompt 1 has control characters"]),
        ("mine.yaml", "- a", ["found a .yaml file", ".jsonl"]),
        ("mine.parquet", b"PAR1\xff", ["found a .parquet file", "save the prompts as one"]),
        ("mine.txt", "\n".join([*EIGHT, "a\x00b"]), ["line 9 has control characters"]),
        ("mine.toml", "search = [", ["found no valid TOML"]),
        ("mine.toml", 'search = ["a"]', ["held_out: Field required"]),
        ("mine.toml", 'search = ["a"]\nheld_out = ["a"]', ["in `search` and in `held_out`", "'a'"]),
        (
            "mine.toml",
            'search = ["a", "a"]\nheld_out = ["b"]',
            ["'a' is in `search` more than once"],
        ),
        ("mine.toml", 'search = ["a"]\nheld_out = [" "]', ["`held_out` has an empty prompt"]),
        ("mine.toml", 'search = ["a"]\nheld_out = ["b"]\nsplit = 3', ["split: Extra inputs"]),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(
    tmp_path: Path, name: str, content: str | bytes, words: list[str]
) -> None:
    """The message names the file, the line or key that is wrong, and what was expected."""
    with pytest.raises(SpecError) as caught:
        read_prompts(file_of(tmp_path, content, name))
    for word in [name, *words]:
        assert word in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A missing file and a folder say what the system says, and what a file of prompts is."""
    with pytest.raises(SpecError, match=r"No such file.*one prompt a line"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(SpecError, match="found a folder; expected a regular file"):
        read_prompts(tmp_path)


def test_a_study_may_name_a_file_of_prompts(tmp_path: Path) -> None:
    """`prompts.file` is relative to the TOML and may come with seeds, not with prompts."""
    file_of(tmp_path, "\n".join(EIGHT))
    head = 'name = "toy"\n[model]\nhub = "a/b"\n[prompts]\nfile = "mine.txt"\n'
    spec = load_spec(file_of(tmp_path, head + "seed = 5\n", "toy.toml"))
    assert (spec.prompts.search, spec.prompts.seed) == (tuple(EIGHT[::2]), 5)
    with pytest.raises(SpecError, match="`file` and the prompts themselves are both given"):
        load_spec(file_of(tmp_path, head + 'search = ["a"]\n', "toy.toml"))
    with pytest.raises(SpecError, match=r"prompts\.file: Extra inputs"):
        load_spec(file_of(tmp_path, head.replace('"mine.txt"', "3"), "toy.toml"))


@pytest.mark.parametrize(
    ("general", "digest"),
    [
        (general_pictures, "43b99fd30406e2f8975c1185fd71dd36a2fe8ba4c8b689aeb9d7e00e5469b078"),
        (general_videos, "f4a5f60c644462ca5b84325fdff2c1a7df04212dc7425a02d932cf716b820943"),
    ],
)
def test_general_prompts_never_change(general: Callable[[], PromptSection], digest: str) -> None:
    """They are in the fingerprints of studies: another prompt, order or seed would make every
    result of a model without a study that of another study.
    """
    prompts = general()
    assert sha256(prompts.model_dump_json().encode()).hexdigest() == digest
    assert len(prompts.held_out) == 2 * len(prompts.search) >= 8
    with pytest.raises(ValidationError, match="frozen"):
        prompts.seed = 1  # type: ignore[misc]
