"""Which prompts choose, and which only report?

`PromptSection`, and `read_prompts`: a file of the user's own.

    prompts = read_prompts(Path("mine.txt"))           # one prompt a line
    spec = with_prompts(spec, prompts)                 # the same study of other pictures: another study

A text file is split by a rule (`split_prompts`), a TOML states both lists. The search prompts are
drawn in every trial, the held-out ones only for the few skip-lists that could be named: so the
smaller part chooses. People sort such files by kind, so that a part from the top would be of one
kind: the prompts that choose are spread evenly over the file. A file is split the same way each
time.

What it does not do: decide which seeds and batches the prompts are drawn in (the study), or know
what a tokenizer makes of them.
"""

import tomllib
import unicodedata
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from sensitivity.errors import SpecError
from sensitivity.spec.hand_lists import Section

FEWEST, MOST_SEARCH = 4, 16
"""Prompts of each part, at least: intervals over fewer say nothing; and search prompts that a text
file gives, at most: each is drawn in every trial.
"""


class PromptSection(Section):
    """The prompts.

    Prompt i of a list is drawn from a generator of its own, seeded `seed` + i (held-out ones:
    `held_out_seed` + i).
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
                " held-out prompts must be others"
            )
        return self

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for name, texts in (("search", self.search), ("held_out", self.held_out)):
            again = next((text for i, text in enumerate(texts) if text in texts[:i]), None)
            if again is not None:
                raise ValueError(
                    f"{again!r} is in `{name}` more than once; each prompt counts once: take the"
                    " repeats out"
                )
            if any(not text.strip() for text in texts):
                raise ValueError(f"`{name}` has an empty prompt; allowed are texts: take it out")
        return self


def read_prompts(path: Path) -> PromptSection:
    """The prompts of a file:

    `.toml` with the keys of a study's `[prompts]`, else UTF-8 text with one prompt a line.

    Empty lines and lines that begin with # are left out; a # inside a line is part of the prompt.

    Raises:
        SpecError: it cannot be read, holds too few prompts, one of them twice, or something other
            than text.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SpecError(
            f"{path}: {error.strerror}; prompts are a text file, one prompt a line, or a TOML with"
            " `search` and `held_out`"
        ) from None
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{path} is no UTF-8 text (byte {error.start}); allowed is UTF-8, one prompt a line:"
            " save it as UTF-8"
        ) from None
    return _from_toml(path, text) if path.suffix == ".toml" else _from_lines(path, text)


def split_prompts(texts: list[str]) -> PromptSection:
    """A third of the prompts, at least `FEWEST` and at most `MOST_SEARCH`, evenly spread over the
    list from the first, as search prompts; the others held out.
    """
    count = min(MOST_SEARCH, max(FEWEST, len(texts) // 3))
    chosen = {i * len(texts) // count for i in range(count)}
    return PromptSection(
        search=tuple(text for i, text in enumerate(texts) if i in chosen),
        held_out=tuple(text for i, text in enumerate(texts) if i not in chosen),
    )


def _from_lines(path: Path, text: str) -> PromptSection:
    first: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        prompt = line.strip()
        if not prompt or prompt.startswith("#"):
            continue
        if any(unicodedata.category(c) == "Cc" for c in prompt.replace("\t", " ")):
            raise SpecError(
                f"{path}: line {number} holds control characters; allowed is text, one prompt a"
                " line: name a text file"
            )
        if prompt in first:
            raise SpecError(
                f"{path}: line {number} repeats line {first[prompt]} ({prompt[:80]!r}); each prompt"
                " counts once: take one of them out"
            )
        first[prompt] = number
    if len(first) < 2 * FEWEST:
        raise SpecError(
            f"{path} holds {len(first)} prompts; allowed are {2 * FEWEST} or more, of which"
            f" {FEWEST} choose and {FEWEST} are held out: add some, or state `search` and"
            " `held_out` in a TOML"
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
            f"{path} is no TOML: {error}; allowed is `search = [...]` and `held_out = [...]`:"
            " correct it"
        ) from None
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, e['loc'])) or 'prompts'}: {e['msg']}"
            for e in error.errors(include_url=False)
        ]
        raise SpecError(
            f"{path} holds no prompts: {'; '.join(problems[:5])}; allowed is `search = [...]` and"
            " `held_out = [...]`, texts in both: correct these keys"
        ) from None


PICTURES: PromptSection = PromptSection(
    search=(
        "a red bicycle leaning against a yellow wall",
        "a bowl of fresh fruit on a wooden table, morning light",
        "portrait of an old fisherman with a grey beard",
        "a small town street in the rain at night, neon signs",
        "three cats sitting on a blue sofa",
        "a mountain lake with a wooden pier, mist",
        'a shop window with the word "OPEN" in white letters',
        "a robot watering plants in a greenhouse",
    ),
    held_out=(
        "a lighthouse on a cliff in a storm",
        "a child's drawing of a house, crayons on paper",
        "two people playing chess in a park",
        "a plate of sushi seen from above",
        "a steam train crossing a stone bridge",
        "a close-up of a dragonfly on a leaf",
        'a road sign that says "STOP", snow around it',
        "an astronaut riding a horse in a desert",
        "a cup of coffee beside an open book",
        "a crowded market with colourful umbrellas",
        "a violin on a velvet chair",
        "a fox in a birch forest in autumn",
        "the inside of a cathedral, sunbeams",
        "a sailing boat at sunset",
        "a green vintage car in front of a diner",
        "a snowman with a black hat",
    ),
)
"""General prompts for a model of pictures that has no study."""
VIDEOS: PromptSection = PromptSection(
    search=(
        "a dog runs along a beach and shakes water off its fur, the camera follows",
        "a woman in a red coat walks through falling snow, street lamps behind her",
        "waves break against black rocks in slow motion",
        "a chef tosses vegetables in a pan, steam rises, close-up",
        "a drone flies over a river that winds through an autumn forest",
        "two children on swings, one goes up while the other comes down",
    ),
    held_out=(
        "a hot air balloon rises over a valley at sunrise",
        "a cat jumps from a chair onto a table and knocks over a glass",
        "time lapse of clouds above a city skyline",
        "a man plays a cello on an empty stage, the camera circles him",
        "a paper boat floats down a gutter in the rain",
        "a horse gallops across a dry plain, dust behind it",
        "a potter shapes a bowl on a spinning wheel, hands in close-up",
        "a tram turns a corner in an old town, people step aside",
        "leaves fall on a pond and make rings",
        "a robot arm paints a yellow line on white paper",
        "an old film of a steam locomotive leaving a station",
        "a jellyfish drifts upwards in dark blue water",
    ),
)
"""General prompts for a model of videos that has no study: something moves in each."""
