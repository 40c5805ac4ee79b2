"""What does a search hand over, and how does a model become what the recipe says?

`Recipe`: one JSON file, and `apply`.

A recipe gives every `nn.Linear` of a pipeline's denoiser its format, and beside it what that costs
and gains: seconds, LPIPS, bytes, where each number came from, and the front that it was chosen
from. `recipe.schema.json` beside this module is its JSON Schema.

Method. A recipe comes from elsewhere, so reading is strict (`strict_json`), files over 8 MiB or of
100,000 values are refused, and loading runs nothing. Writing is whole or not at all.

Compatibility. `schema_version` is "major.minor", and a reader of 1.x reads every 1.y. A later minor
only adds fields; they have defaults, so that older files are read. Fields that a reader does not
know are kept at every level, through load and save. What a reader would misunderstand takes a new
major, and another major is refused: another meaning of a field, one more that is required, a new
word where words are listed (a format, a source).

Conventions. Keys carry their units (`_s` seconds of one whole pipeline call, `_bytes`); `source`
beside a number says predicted or measured; LPIPS has none. `layers` names every Linear, `bf16` ones
included, and `skip` repeats those; where the pipeline has several denoisers (`model.components`),
names begin with the component's and a dot. A recipe whose pictures were never compared is
unverified: `fidelity` and `verified` are null, and `notice` is shown wherever it is (`caveat`).

It does not measure or choose, and imports no torch: only `Recipe.apply`, `to_torchao` and
`to_diffusers` do, when called.
    recipe = load_recipe("recipes/ltx2-nvfp4-b200.json")
    report = recipe.apply(pipeline)            # or emulate=True: the quality of the recipe, without the speed

The schema is written by `python -m sensitivity.recipes > schema.json && mv schema.json
sensitivity/recipes/recipe.schema.json`.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import by_component, is_in
from sensitivity.core.json_files import check_value, parse_json, read_bounded, write_whole
from sensitivity.core.patterns import FQN, MAX_LENGTH, Pattern, is_fqn, match
from sensitivity.core.words import counted, printable
from sensitivity.errors import PatternError, RecipeError
from sensitivity.recipes.applying import ApplyReport, apply_layers
from sensitivity.recipes.records import (
    Choice,
    Count,
    Fidelity,
    FrontMember,
    Latency,
    Memory,
    ModelInfo,
    Record,
    SearchInfo,
)

SCHEMA_VERSION = "1.0"
MAX_BYTES, MAX_VALUES = 8 * 1024 * 1024, 100_000
"""Of a recipe file; one of 1,400 Linears has 0.3 MB and 4,000 values."""
MAX_MATCHING = 250_000_000
"""Characters of patterns and layers that are compared, every pattern with every layer: half a
second at the worst. 1,400 layers and 300 patterns make 35 million.
"""

UNSAFE = r"/\\\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069"
LAYERS: dict[str, Any] = {
    "minProperties": 1,
    "propertyNames": {"pattern": f"^{FQN}$", "maxLength": MAX_LENGTH},
}

Name = Annotated[str, Field(min_length=1, max_length=256, pattern=rf"^[^.{UNSAFE}][^{UNSAFE}]*$")]
"""A text that is safe as a file name and on a terminal: no path separators, no control characters,
line breaks or marks of direction, no dot in front.
"""


class Recipe(Record):
    """A format for every Linear of one component, or of several, and the numbers that defend it.

    The fields are those of the JSON.
    """

    schema_version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+$", max_length=16)] = (
        SCHEMA_VERSION
    )
    name: Name
    model: ModelInfo
    layers: Annotated[Mapping[str, FormatName], Field(max_length=20_000, json_schema_extra=LAYERS)]
    skip: tuple[str, ...]
    patterns: Annotated[tuple[Pattern, ...], Field(max_length=1_000)] = ()
    latency: Latency
    fidelity: Fidelity | None
    notice: Annotated[str, Field(min_length=1, max_length=2_000)] | None = None
    memory: Memory
    block_patterns: Mapping[str, Count]
    search: SearchInfo
    choice: Choice | None = None
    verified: Mapping[str, JsonValue] | None = None
    environment: Mapping[str, JsonValue]
    front: tuple[FrontMember, ...] = ()

    @field_validator("schema_version")
    @classmethod
    def _check_version(cls, value: str) -> str:
        if value.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
            raise ValueError(_version_message(value))
        return value

    @field_validator("layers")
    @classmethod
    def _check_fqns(cls, value: Mapping[str, FormatName]) -> Mapping[str, FormatName]:
        if not value:
            raise ValueError(
                "found no layers; a recipe names every Linear of the component; export it again"
            )
        for fqn in value:
            if not is_fqn(fqn):
                raise ValueError(
                    f"found the layer {fqn[:80]!r}; allowed are module names (letters, digits, '_',"
                    " '-', '.'); export it again"
                )
        return value

    @model_validator(mode="after")
    def _check_components(self) -> Self:
        names = self.model.components
        stray = [
            fqn for fqn in self.layers if names and not any(is_in(fqn, name) for name in names)
        ]
        empty = [name for name, own in by_component(self.layers, names).items() if not own]
        if stray or empty:
            what = (
                f"the layers {counted(stray)}, of none of them"
                if stray
                else f"no layer of {', '.join(empty)}"
            )
            raise ValueError(
                f"found components {', '.join(names)} and {what}; every layer begins with a"
                " component's name and a dot; export it again"
            )
        return self

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        plain = {fqn for fqn, name in self.layers.items() if name is FormatName.BF16}
        if set(self.skip) != plain or len(self.skip) != len(plain):
            wrong = sorted(
                plain.symmetric_difference(self.skip) or (Counter(self.skip) - Counter(plain))
            )
            raise ValueError(
                f"found a skip list that differs from the bf16 layers in {counted(wrong)}; list"
                " each bf16 layer once"
            )
        check_value(self.model_dump())
        return self

    @model_validator(mode="after")
    def _check_patterns(self) -> Self:
        characters = sum(map(len, self.layers)) * len(self.patterns) + len(self.layers) * sum(
            len(entry.pattern) for entry in self.patterns
        )
        if characters > MAX_MATCHING:
            raise ValueError(
                f"found {len(self.patterns)} patterns for {len(self.layers)} layers, {characters}"
                f" characters to compare; allowed are {MAX_MATCHING}; drop patterns"
            )
        for entry in self.patterns:
            try:
                hits = match(entry.pattern, self.layers)
            except PatternError as error:
                raise ValueError(str(error)) from None
            wrong = [fqn for fqn in hits if self.layers[fqn] is not FormatName.BF16]
            if wrong or not hits:
                what = (
                    f"matches quantized layers: {counted(wrong)}" if wrong else "matches no layer"
                )
                raise ValueError(
                    f"found the pattern {entry.pattern!r}, which {what}; patterns explain bf16"
                    " layers; correct or drop it"
                )
        return self

    @model_validator(mode="after")
    def _check_evidence(self) -> Self:
        if self.fidelity is None and (self.notice is None or not self.notice.strip()):
            raise ValueError(
                "found fidelity null without a notice; a recipe whose pictures were not compared"
                " says so in notice; write it"
            )
        if self.fidelity is None and self.verified is not None:
            raise ValueError(
                "found fidelity null and verified filled; nothing is verified without pictures;"
                " write verified null"
            )
        return self

    @property
    def is_unverified(self) -> bool:
        """Whether no picture was compared: formats and predicted seconds only.

        `notice` says why, wherever the recipe is shown.
        """
        return self.fidelity is None

    @property
    def caveat(self) -> str:
        """The one printable line that stands wherever the recipe is shown: its notice, behind
        UNVERIFIED where no picture was compared; "" where there is none.
        """
        if self.notice is None:
            return ""
        return f"{'UNVERIFIED' if self.is_unverified else 'notice'}: {printable(self.notice)}"

    @property
    def layers_by_component(self) -> dict[str, dict[str, FormatName]]:
        """{component: {FQN inside it: format}}."""
        return (
            by_component(self.layers, self.model.components)
            if self.model.components
            else {self.model.component: dict(self.layers)}
        )

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> Self:
        """A recipe from parsed JSON.

        Raises:
            RecipeError: its major version is unknown, or a field is missing or wrong; the message
                lists the fields.
        """
        version = data.get("schema_version")
        if (
            isinstance(version, str)
            and version.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]
        ):
            raise RecipeError(_version_message(version))
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            newer = (
                isinstance(version, str)
                and re.fullmatch(r"\d{1,9}\.\d{1,9}", version)
                and version != SCHEMA_VERSION
            )
            more = (
                f"; its schema_version is {version}, this reads {SCHEMA_VERSION}: update"
                " `sensitivity`"
                if newer
                else ""
            )
            raise RecipeError(_validation_message(error) + more) from None

    def to_json(self) -> str:
        """The recipe as strict JSON text, indented, with a final newline."""
        return (
            json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
            + "\n"
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the recipe to `path`, whole or not at all, and return where it lies.

        Raises:
            OutputError: the folder does not exist or cannot be written, or `path` is something
                other than a file.
            RecipeError: the file would be larger than `load_recipe` reads.
        """
        data = self.to_json().encode()
        if len(data) <= MAX_BYTES:
            return write_whole(path, data)
        raise RecipeError(
            f"found a recipe of {len(data)} bytes; allowed are {MAX_BYTES}; shorten front or"
            " per_prompt"
        )

    def apply(
        self,
        pipeline_or_module: object,
        *,
        emulate: bool | None = None,
        allow_random_weights: bool = False,
    ) -> ApplyReport:
        """Quantize a pipeline's denoisers, or the bare component, in place, exactly as the recipe
        says.

        Nothing is changed unless the model fits: same component class, same Linears, formats that
        accept every shape.

        Args:
            pipeline_or_module: a diffusers pipeline (its components are named in the recipe), or
                the component itself where it is one.
            emulate: None and False run the native kernels and refuse where the hardware lacks one.
                True computes with the same quantized values in bf16 arithmetic: the recipe's
                quality, never its speed.
            allow_random_weights: take a recipe that was searched on random weights, which says
                nothing about the model.

        Raises:
            RecipeMismatchError: the model is not the recipe's; the message names layers.
            RecipeError: the hardware lacks a format, the kernels left a layer as it was, or the
                recipe is of random weights.
        """
        self.check_weights(allow_random=allow_random_weights)
        return apply_layers(
            self.layers,
            self.model,
            pipeline_or_module,
            name=self.name,
            emulate=bool(emulate),
            caveat=self.caveat,
        )

    def check_weights(self, *, allow_random: bool = False) -> None:
        """Raise RecipeError for a recipe that was searched on random weights, unless that is
        allowed.
        """
        if self.model.weights == "random" and not allow_random:
            raise RecipeError(
                f"the recipe {self.name!r} was searched on random weights: its skip-list and its"
                f" LPIPS say nothing about {printable(self.model.id)}; allowed are recipes of"
                " trained weights: search again without --weights random, or, to try out what"
                " follows, pass --allow-random-weights (allow_random_weights=True)"
            )


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe file. Nothing in it is run.

    Raises:
        RecipeError: the file cannot be read, is no strict JSON, or is no recipe; the message starts
            with the path.
    """
    try:
        parsed = parse_json(read_bounded(path, max_bytes=MAX_BYTES, max_values=MAX_VALUES))
        if not isinstance(parsed, dict):
            raise RecipeError(
                f"found a {type(parsed).__name__} at the top; a recipe is one JSON object; name"
                " another file"
            )
        return Recipe.from_mapping(parsed)
    except OSError as error:
        raise RecipeError(
            f"{os.fspath(path)}: found {error.strerror}; a recipe is a readable JSON file; name one"
            " from `export`"
        ) from None
    except (ValueError, RecipeError) as error:
        raise RecipeError(f"{os.fspath(path)}: {error}") from None


def recipe_json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a recipe file.

    Most rules between fields (skip, speedup) and the dialect of patterns are checked on loading
    only.
    """
    schema = Recipe.model_json_schema()
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:sensitivity:recipe:{SCHEMA_VERSION}",
    }
    unverified = {
        "required": ["notice"],
        "properties": {"notice": {"type": "string"}, "verified": {"type": "null"}},
    }
    rule = {"if": {"properties": {"fidelity": {"type": "null"}}}, "then": unverified}
    return {**head, **schema, **rule, "title": f"sensitivity recipe {SCHEMA_VERSION}"}


def _version_message(found: str) -> str:
    return (
        f"found schema_version {found[:40]!r}; allowed are {SCHEMA_VERSION[:1]}.x; update"
        " `sensitivity`, or export the recipe again"
    )


def _validation_message(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False)
    lines = []
    for item in found[:5]:
        value = (
            ""
            if item["type"] in ("missing", "value_error")
            else f" (found {repr(item['input'])[:80]})"
        )
        place = ".".join(
            ascii(key[:80])[1:-1] if isinstance(key, str) else str(key) for key in item["loc"]
        )
        lines.append(f"{place or 'recipe'}: {item['msg'].removeprefix('Value error, ')}{value}")
    return (
        f"found {len(found)} wrong field(s), first {'; '.join(lines)}; recipe.schema.json has what"
        " is allowed; export the recipe again"
    )
