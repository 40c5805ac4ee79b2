"""Which prompts choose the recipe, and which only report how good it is?

    prompts = read_prompts(Path("mine.txt"))    # one prompt a line
    spec = with_prompts(spec, prompts)          # the same study with other prompts

Method. A trial generates pictures of all search prompts. Held-out prompts are used only for the few
skip-lists that may become the recipe. A TOML states both lists. A text file is split by a rule
(`split_prompts`): a third of it, the smaller part, becomes search prompts, evenly spread over the
file, since people sort such files by kind. A file is split the same way each time.

What this module does not do: decide on batches, which are the study's, or know what a tokenizer
makes of a prompt.
"""

import tomllib
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from sensitivity.errors import SpecError
from sensitivity.spec._base import Section, wrong_keys
from sensitivity.spec.shipped import studies_folder

FEWEST = 4
"""Prompts of each part of a text file, at least. An interval over fewer says nothing."""
MOST_SEARCH = 16
"""Search prompts of a text file, at most, since every trial generates pictures of all of them."""


class PromptSection(Section):
    """The prompts of a study, in two lists that have none in common.

    Each picture has a random generator of its own: it is seeded with `seed` + i for search prompt
    i, and with `held_out_seed` + i for held-out prompt i.
    """

    search: Annotated[tuple[str, ...], Field(min_length=1)]
    held_out: Annotated[tuple[str, ...], Field(min_length=1)]
    seed: int = 0
    held_out_seed: int = 1000

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        both = sorted(set(self.search) & set(self.held_out))
        if both:
            raise ValueError(
                f"{len(both)} prompts are in `search` and in `held_out`, the first is {both[0]!r};"
                " expected each in one list only: take them out of one"
            )
        return self

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for name, texts in (("search", self.search), ("held_out", self.held_out)):
            again = next((text for i, text in enumerate(texts) if text in texts[:i]), None)
            if again is not None:
                raise ValueError(
                    f"{again!r} is in `{name}` more than once; expected each prompt once: take the"
                    " repeats out"
                )
            if any(not text.strip() for text in texts):
                raise ValueError(f"`{name}` has an empty prompt; expected text: take it out")
        return self


def read_prompts(path: Path) -> PromptSection:
    """The prompts of a file: a `.toml` with the keys of a study's `[prompts]`, or a text file.

    A text file is UTF-8 and has one prompt a line. Empty lines and lines that begin with # are left
    out; a # later in a line is part of the prompt.

    Raises:
        SpecError: the file cannot be read, is not text, has too few prompts, or one of them twice.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SpecError(
            f"{path}: {error.strerror}; expected a text file, one prompt a line, or a TOML with"
            " `search` and `held_out`: name one"
        ) from None
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{path} is no UTF-8 text (byte {error.start}); expected UTF-8, one prompt a line: save"
            " it as UTF-8"
        ) from None
    return _from_toml(path, text) if path.suffix == ".toml" else _from_lines(path, text)


def split_prompts(texts: list[str]) -> PromptSection:
    """Split prompts into search prompts and held-out prompts.

    A third of them become search prompts, at least `FEWEST` and at most `MOST_SEARCH`. They are
    evenly spread over the list, from the first on.
    """
    count = min(MOST_SEARCH, max(FEWEST, len(texts) // 3))
    chosen = {i * len(texts) // count for i in range(count)}
    return PromptSection(
        search=tuple(text for i, text in enumerate(texts) if i in chosen),
        held_out=tuple(text for i, text in enumerate(texts) if i not in chosen),
    )


@lru_cache(maxsize=1)
def general_pictures() -> PromptSection:
    """Prompts for a model of pictures that has no study of its own."""
    return read_prompts(studies_folder() / "prompts" / "general-pictures.txt")


@lru_cache(maxsize=1)
def general_videos() -> PromptSection:
    """Prompts for a model of videos that has no study of its own; something moves in each."""
    return read_prompts(studies_folder() / "prompts" / "general-videos.txt")


def _from_lines(path: Path, text: str) -> PromptSection:
    first: dict[str, int] = {}  # {prompt: its line number}
    for number, line in enumerate(text.splitlines(), start=1):
        prompt = line.strip()
        if not prompt or prompt.startswith("#"):
            continue
        if any(unicodedata.category(c) == "Cc" for c in prompt.replace("\t", " ")):
            raise SpecError(
                f"{path}: line {number} has control characters; expected text, one prompt a line:"
                " name a text file"
            )
        if prompt in first:
            raise SpecError(
                f"{path}: line {number} repeats line {first[prompt]} ({prompt[:80]!r}); expected"
                " each prompt once: take one of them out"
            )
        first[prompt] = number
    if len(first) < 2 * FEWEST:
        raise SpecError(
            f"{path} has {len(first)} prompts; expected {2 * FEWEST} or more, {FEWEST} to search"
            f" with and {FEWEST} held out: add some, or state `search` and `held_out` in a TOML"
        )
    return split_prompts(list(first))


def _from_toml(path: Path, text: str) -> PromptSection:
    try:
        data: dict[str, Any] = tomllib.loads(text)
        return PromptSection.model_validate(
            data.get("prompts", data) if set(data) <= {"prompts"} else data
        )
    except tomllib.TOMLDecodeError as error:
        raise SpecError(
            f"{path} is no TOML: {error}; expected `search = [...]` and `held_out = [...]`: correct"
            " it"
        ) from None
    except ValidationError as error:
        raise SpecError(
            f"{path} has no prompts: {wrong_keys(error, 'prompts')}; expected `search = [...]` and"
            " `held_out = [...]`, texts in both: correct these keys"
        ) from None
