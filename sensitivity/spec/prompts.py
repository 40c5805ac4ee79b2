"""Which prompts choose the recipe, and which only report how good it is?

    prompts = read_prompts(Path("mine.csv"))    # the column "prompt"
    spec = with_prompts(spec, prompts)          # the same study with other prompts
    prompts.source.describe()                   # what was read, in words

Method. A trial generates pictures of all search prompts. Held-out prompts are used only for the few
skip-lists that may become the recipe. A TOML states both lists. Any other file is split by a rule
(`split_prompts`): a third of it, the smaller part, becomes search prompts, evenly spread over the
file, since people sort such files by kind. A file is split the same way each time.

What this module does not do: decide on batches, which are the study's, or know what a tokenizer
makes of a prompt. `prompt_tables` and `prompt_lines` know the forms of files.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from sensitivity.core.outside_files import PROMPTS, PROMPTS_TOML, read_text, read_toml, reason
from sensitivity.core.words import printable
from sensitivity.errors import SpecError
from sensitivity.spec._base import Section, Seed, wrong_keys
from sensitivity.spec.prompt_lines import has_control, read_lines
from sensitivity.spec.prompt_tables import (
    DELIMITERS,
    PromptTexts,
    header_of,
    json_value,
    normal_name,
    prompt_field,
    read_delimited,
    read_json_texts,
)
from sensitivity.spec.shipped import studies_folder

FEWEST = 4
"""Prompts of each part of a text file, at least. An interval over fewer says nothing."""
MOST_SEARCH = 16
"""Search prompts of a text file, at most, since every trial generates pictures of all of them."""


MAX_CHARACTERS = 20_000
"""Of one prompt, at most. Text encoders read some thousand."""
_Prompt = Annotated[str, Field(max_length=MAX_CHARACTERS)]
_FORMS = "a text file with one prompt a line, a .csv, .tsv, .json, .jsonl, or a .toml"
_NO_TEXT = re.compile(
    r"\.(ya?ml|xml|html?|ini|py|parquet|arrow|feather|xlsx?|ods|docx|odt|rtf|pdf|pkl|np[yz]|db"
    r"|sqlite|zip|gz|bz2|xz|zst|tar|safetensors)"
)
"""Endings of files that hold prompts in forms that are not read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSource:
    """What was read of a file of prompts.

    Attributes:
        path: where it is.
        kind: its form: "CSV", "text, one prompt a line".
        field: the column or field that holds the prompts; "" where there is none.
        left_out: the other columns or fields.
        count: prompts.
        repeats: how many texts were there already, and were left out.
        first: the first three prompts.
    """

    path: Path
    kind: str
    field: str
    left_out: tuple[str, ...]
    count: int
    repeats: int
    first: tuple[str, ...]

    @property
    def file(self) -> str:
        """The file's name."""
        return self.path.name

    def describe(self) -> str:
        """One line for people: how many prompts of which column, and how they begin."""
        field = f", {self.field!r}" if self.field else ""
        others = f"; left out: {', '.join(self.left_out[:6])}" if self.left_out else ""
        again = f"; {self.repeats} repeats left out" if self.repeats else ""
        begins = ", ".join(f'"{text[:60]}{"..." if len(text) > 60 else ""}"' for text in self.first)
        return printable(
            f"{self.count} prompts of {self.file} ({self.kind}{field}{others}{again}): {begins}"
        )

    def to_json(self) -> dict[str, Any]:
        """As an object of JSON."""
        return {
            "file": self.file,
            "kind": self.kind,
            "field": self.field or None,
            "left_out": list(self.left_out),
            "prompts": self.count,
            "repeats": self.repeats,
            "first": list(self.first),
        }


class PromptSection(Section):
    """The prompts of a study, in two lists that have none in common.

    Each picture has a random generator of its own: it is seeded with `seed` + i for search prompt
    i, and with `held_out_seed` + i for held-out prompt i. Two sections are equal if their prompts
    and seeds are, wherever they were read.
    """

    search: Annotated[tuple[_Prompt, ...], Field(min_length=1)]
    held_out: Annotated[tuple[_Prompt, ...], Field(min_length=1)]
    seed: Seed = 0
    held_out_seed: Seed = 1000
    _source: PromptSource | None = PrivateAttr(default=None)

    @property
    def source(self) -> PromptSource | None:
        """What was read of the file that the prompts come from; None if they were stated."""
        return self._source

    def read_from(self, source: PromptSource | None) -> Self:
        """The same prompts and seeds, with what was read of their file."""
        copy = self.model_copy()
        copy._source = source
        return copy

    def __eq__(self, other: object) -> bool:
        """Whether prompts and seeds are the same."""
        return isinstance(other, PromptSection) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        """As equal sections have it."""
        return hash(tuple(self.__dict__.items()))

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
            if len(set(texts)) < len(texts):
                again = Counter(texts).most_common(1)[0][0]
                raise ValueError(
                    f"{again!r} is in `{name}` more than once; expected each prompt once: take the"
                    " repeats out"
                )
            if any(map(has_control, texts)):
                raise ValueError(f"`{name}` has control characters; expected text: take them out")
            if any(not text.strip() for text in texts):
                raise ValueError(f"`{name}` has an empty prompt; expected text: take it out")
        return self


def read_prompts(path: Path) -> PromptSection:
    """The prompts of a file.

    - `.toml`: the keys of a study's `[prompts]`.
    - `.csv`, `.tsv`: a table whose header has "prompt", "caption" or another of
      `prompt_tables.FIELDS`.
    - `.json`, `.jsonl`: a list of texts, or objects with such a field.
    - Any other: one prompt a line. Empty lines and lines that begin with # are left out; a # later
      in a line is part of the prompt. A text that is a table or JSON is read as that, and one that
      looks structured otherwise is refused.

    Text is UTF-8, or UTF-16 with a byte-order mark.

    Raises:
        SpecError: the file cannot be read, is in another form, has too few prompts, or says one of
            them twice.
    """
    try:
        if path.suffix.lower() == ".toml":
            return _from_toml(path)
        read = _read_texts(path)
        _check_texts(read)
    except (OSError, ValueError) as error:
        raise SpecError(_wrong_file(path, error)) from None
    if len(read.texts) < 2 * FEWEST:
        raise SpecError(
            f"{path} has {len(read.texts)} prompts (read as {read.kind}); expected {2 * FEWEST} or"
            f" more, {FEWEST} to search with and {FEWEST} held out: add some, or state `search` and"
            " `held_out` in a TOML"
        )
    source = PromptSource(
        path=path,
        kind=read.kind,
        field=read.field,
        left_out=read.left_out,
        count=len(read.texts),
        repeats=read.repeats,
        first=read.texts[:3],
    )
    return split_prompts(read.texts).read_from(source)


def list_prompts(texts: Sequence[str]) -> PromptSection:
    """Prompts that are given one by one, split as those of a file.

    Raises:
        SpecError: there are too few, one is there twice, or one is no prompt.
    """
    if not all(isinstance(text, str) for text in texts):
        raise SpecError(
            "`prompts` holds something other than texts; expected one text a prompt: correct it"
        )
    twice = [text for text, count in Counter(texts).items() if count > 1]
    if twice:
        raise SpecError(
            f"`prompts` has {printable(twice[0][:80])!r} twice; expected each prompt once: take the"
            " repeat out"
        )
    if len(texts) < 2 * FEWEST:
        raise SpecError(
            f"`prompts` has {len(texts)} prompts; expected {2 * FEWEST} or more, {FEWEST} to search"
            f" with and {FEWEST} held out: add some"
        )
    try:
        return split_prompts(texts)
    except ValidationError as error:
        raise SpecError(f"`prompts`: {wrong_keys(error, 'prompts')}: correct it") from None


def split_prompts(texts: Sequence[str]) -> PromptSection:
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


def _read_texts(path: Path) -> PromptTexts:
    """The texts of a file that is no TOML, by its ending, or else by its looks.

    Raises OSError or ValueError.
    """
    suffix = path.suffix.lower()
    if _NO_TEXT.fullmatch(suffix):
        raise ValueError(f"found a {suffix} file; expected {_FORMS}: save the prompts as one")
    text = read_text(path, PROMPTS)
    if suffix == ".csv":
        return read_delimited(text, "CSV")
    if suffix in (".tsv", ".tab"):
        return read_delimited(text, "TSV", ("\t", ",", ";"))
    if suffix in (".json", ".jsonl", ".ndjson"):
        return read_json_texts(text)
    return _by_looks(text)


def _by_looks(text: str) -> PromptTexts:
    """JSON or a table if the text is one, else one prompt a line."""
    text = text.lstrip()
    if text[:1] and text[0] in '[{"':
        try:
            json_value(text)
        except ValueError:
            pass  # "[cinematic] a fox" begins so, and damaged JSON is refused by its looks
        else:
            return read_json_texts(text)
    for delimiter in DELIMITERS:
        header = header_of(text, delimiter)
        field = prompt_field(header) if len(header) > 1 else None
        if field is None or (normal_name(field) == "text" and not _are_names(header)):
            continue  # "a red fox, text, letters" may be a prompt
        try:
            return read_delimited(text, "a table", (delimiter,))
        except ValueError:
            if normal_name(field) != "text":
                raise
    return read_lines(text)


def _are_names(header: Sequence[str]) -> bool:
    return all(re.fullmatch(r"[\w.-]+", cell.strip()) for cell in header)


def _check_texts(read: PromptTexts) -> None:
    """Raise ValueError for a prompt that no text encoder can be meant to read."""
    for number, text in enumerate(read.texts, 1):
        if has_control(text):
            raise ValueError(
                f"prompt {number} has control characters; expected text: take them out"
            )
        if len(text) > MAX_CHARACTERS:
            raise ValueError(
                f"prompt {number} has {len(text)} characters; expected at most {MAX_CHARACTERS}:"
                " shorten it"
            )


def _wrong_file(path: Path, error: OSError | ValueError) -> str:
    words = printable(f"{path}: {reason(error)}")
    if isinstance(error, OSError):
        return f"{words}; expected {_FORMS} with `search` and `held_out`: name one"
    return words


def _from_toml(path: Path) -> PromptSection:
    """The prompts of a TOML. Raises OSError, ValueError, or SpecError for wrong keys."""
    data = read_toml(path, PROMPTS_TOML)
    try:
        section = PromptSection.model_validate(
            data.get("prompts", data) if set(data) <= {"prompts"} else data
        )
    except ValidationError as error:
        raise SpecError(
            f"{path} has no prompts: {wrong_keys(error, 'prompts')}; expected `search = [...]` and"
            " `held_out = [...]`, texts in both: correct these keys"
        ) from None
    texts = (*section.search, *section.held_out)
    source = PromptSource(
        path=path,
        kind="TOML",
        field="search, held_out",
        left_out=(),
        count=len(texts),
        repeats=0,
        first=texts[:3],
    )
    return section.read_from(source)
