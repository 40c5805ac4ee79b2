"""What does a search hand over? `Recipe`: one JSON file, which is read, written and applied here.

    recipe = load_recipe("recipes/ltx2-nvfp4-b200.json")
    report = recipe.apply(pipeline)       # emulate=True: the recipe's quality, not its speed

A recipe gives every `nn.Linear` of a pipeline's denoiser its format. Beside the formats it has what
they cost and gain (seconds, LPIPS, bytes), where each number comes from, and the front that the
recipe was chosen from. `recipe.schema.json` beside this module is its JSON Schema.

Method. A recipe may come from anybody, so only strict JSON is read (`core.json_files`), a file of
more than `MAX_BYTES` or `MAX_VALUES` is refused, and nothing in a file is run. A file is written as
a whole or not at all.

Compatibility. `schema_version` is "major.minor", and a reader of 2.x reads every 2.y. A later minor
only adds fields, which have defaults, so that older files are read. Fields that a reader does not
know are kept at every level, through loading and saving. What a reader would misunderstand takes a
new major version, and a later major version is refused: a changed meaning, a required field more or
less, a new word in a closed list (a format, a source). Files of 1.x are read too. They say the bf16
Linears twice, in `layers` and in `skip`, and are written back so.

Conventions. Keys carry their units (`_s`: seconds of one whole pipeline call; `_bytes`), and
`source` beside a number is "predicted" or "measured"; LPIPS has no unit. `patterns` cover the bf16
Linears and say why; `layers` has every Linear once, those in bf16 included. If the pipeline has
several denoisers (`model.components`), names begin with the component's and a dot. A recipe whose
pictures were never compared is unverified: `fidelity` and `verified` are null, and `notice` is
shown wherever the recipe is (`Recipe.caveat`).

What this module does not do: measure or choose, or import torch before `Recipe.apply` is called.
Other tools' forms of a recipe are written by the room `consumers`.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName, skipped
from sensitivity.core.fqns import by_component
from sensitivity.core.json_files import check_value, write_whole
from sensitivity.core.outside_files import RECIPE, read_json
from sensitivity.core.patterns import FQN, MAX_LENGTH, Pattern
from sensitivity.core.step_policy import PLAIN
from sensitivity.core.words import printable
from sensitivity.errors import RecipeError
from sensitivity.recipes._base import Count, Record
from sensitivity.recipes.applying import ApplyReport, apply_layers
from sensitivity.recipes.fidelity_records import Fidelity
from sensitivity.recipes.gate_record import GateRecord
from sensitivity.recipes.layout import laid_out
from sensitivity.recipes.records import (
    ChoiceInfo,
    FrontMember,
    Latency,
    Made,
    Memory,
    ModelInfo,
    SearchInfo,
    Timing,
)
from sensitivity.recipes.rules import (
    check_components,
    check_evidence,
    check_layers,
    check_patterns,
    check_policy,
    check_refused,
    check_skip,
    wrong_fields,
)
from sensitivity.recipes.shown import facts_table, layers_table, patterns_table, short_words
from sensitivity.recipes.step_policy_record import StepPolicyRecord

SCHEMA_VERSION = "2.2"
"""2.2 declares `step_policy`, here and in `front`, `memory.beside_bytes` and the peaks in `memory`,
and the formats int8 and the variants. No reader of 2.0 or 2.1 was ever released; one would keep
`step_policy` and run every step as `layers` says.

2.1 declares `gate`. 2.0 has each Linear once: `skip`, which 1.x requires, is gone. `patterns` come
first, and `made` and `search.consumers` are new.

1.3 declares what `fidelity.lpips` says of typical LPIPS, of the expected mean and of flips,
`fidelity.against`, `front.typical`, `choice.max_typical` and `max_flips`, and `latency.whole_run`.
1.2 declares `latency.runtime`, `covers`, `speedup_interval90` and `shapes`, `timings`, `refused`
and `fidelity.kernels`. 1.1 declares `search.trial` and counts it from 1; files of 1.0 may have it,
counted from 0.
"""
_MAJORS = ("1", "2")
"""Major versions that are read."""
MAX_BYTES = RECIPE.max_bytes
"""Of a recipe file. One of 1,400 Linears has 0.3 MB."""
MAX_VALUES = RECIPE.max_values
"""JSON values in a recipe file. One of 1,400 Linears has 4,000."""

UNSAFE = r"/\\\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069"
"""Characters that are not safe in a file name or on a terminal, for a set of a regular expression:
path separators, control characters, line breaks and marks of direction.
"""
Name = Annotated[str, Field(min_length=1, max_length=256, pattern=rf"^[^.{UNSAFE}][^{UNSAFE}]*$")]
"""A text without `UNSAFE` characters that does not begin with a dot."""
LAYERS: dict[str, Any] = {
    "minProperties": 1,
    "propertyNames": {"pattern": f"^{FQN}$", "maxLength": MAX_LENGTH},
}
"""What the JSON Schema says of `layers` besides its type."""


class Recipe(Record):
    """A format for every Linear of one or several denoisers, and the numbers that support it.

    Its fields are those of the JSON file.
    """

    later_fields: ClassVar[frozenset[str]] = frozenset({"gate", "step_policy"})

    schema_version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+$", max_length=16)] = (
        SCHEMA_VERSION
    )
    name: Name
    made: Made | None = None
    model: ModelInfo
    patterns: Annotated[tuple[Pattern, ...], Field(max_length=1_000)] = ()
    layers: Annotated[Mapping[str, FormatName], Field(max_length=20_000, json_schema_extra=LAYERS)]
    step_policy: StepPolicyRecord | None = None
    latency: Latency
    fidelity: Fidelity | None
    notice: Annotated[str, Field(min_length=1, max_length=2_000)] | None = None
    memory: Memory
    block_patterns: Mapping[str, Count]
    search: SearchInfo
    choice: ChoiceInfo | None = None
    verified: Mapping[str, JsonValue] | None = None
    gate: GateRecord | None = None
    environment: Mapping[str, JsonValue]
    front: tuple[FrontMember, ...] = ()
    timings: Annotated[tuple[Timing, ...], Field(max_length=1_000)] = ()
    refused: Annotated[Mapping[str, str], Field(max_length=20_000)] = Field(default_factory=dict)

    @field_validator("schema_version")
    @classmethod
    def _check_version(cls, value: str) -> str:
        if value.partition(".")[0] not in _MAJORS:
            raise ValueError(_version_message(value))
        return value

    @field_validator("layers")
    @classmethod
    def _check_layers(cls, value: Mapping[str, FormatName]) -> Mapping[str, FormatName]:
        check_layers(value)
        return value

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        check_components(self.layers, self.model.components)
        if (skip := (self.model_extra or {}).pop("skip", None)) is not None:
            check_skip(skip, self.layers)
        check_refused(self.refused, self.layers)
        check_policy(self.layers, has_policy=self.step_policy is not None)
        check_value(self.model_dump())
        check_patterns(self.patterns, self.layers)
        check_evidence(
            has_fidelity=self.fidelity is not None,
            is_verified=self.verified is not None,
            notice=self.notice,
        )
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The fields, without `gate` and `step_policy` where there are none; for a file of 1.x with
        `skip`, which its readers require.
        """
        data = self.without_unset(handler(self))
        return data | ({"skip": list(self.skip)} if self.schema_version.startswith("1.") else {})

    @property
    def skip(self) -> tuple[str, ...]:
        """The bf16 Linears."""
        return tuple(skipped(self.layers))

    @property
    def assignment(self) -> Assignment:
        """The formats of the Linears, and the policy by which steps run in them: what is drawn,
        priced and compared. It is `layers` where there is no policy.
        """
        policy = PLAIN if self.step_policy is None else self.step_policy.policy
        return Assignment(self.layers, policy)

    @property
    def is_unverified(self) -> bool:
        """Whether no picture was compared; `notice` says why then."""
        return self.fidelity is None

    @property
    def caveat(self) -> str:
        """The line that is shown wherever the recipe is: its notice, "" if it has none.

        It is printable, and begins with UNVERIFIED if no picture was compared.
        """
        if self.notice is None:
            return ""
        return f"{'UNVERIFIED' if self.is_unverified else 'notice'}: {printable(self.notice)}"

    def __repr__(self) -> str:
        return f"Recipe({self.name}: {short_words(self.assignment, self.latency, self.fidelity)})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        title = ": ".join(text for text in (self.name, self.caveat) if text)
        facts = facts_table(
            title, self.model, self.assignment, self.latency, self.fidelity, self.memory
        )
        return f"{facts.to_html()}\n{patterns_table(self.patterns).to_html()}"

    def to_pandas(self) -> Any:
        """A pandas DataFrame with a row for each Linear: name, block, role, format, and why a
        format refuses it.

        Raises:
            UserError: pandas is not installed.
        """
        return layers_table(self.layers, self.refused).to_pandas()

    @property
    def layers_by_component(self) -> dict[str, dict[str, FormatName]]:
        """{component: {FQN inside it: format}}."""
        if not self.model.components:
            return {self.model.component: dict(self.layers)}
        return by_component(self.layers, self.model.components)

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> Self:
        """A recipe from parsed JSON.

        Raises:
            RecipeError: its major version is unknown, or a field is missing or wrong; the message
                lists the fields.
        """
        version = data.get("schema_version")
        if isinstance(version, str) and version.partition(".")[0] not in _MAJORS:
            raise RecipeError(_version_message(version))
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise RecipeError(wrong_fields(error) + _newer_version(version)) from None

    def to_json(self) -> str:
        """The recipe as strict JSON text, laid out for people and for short diffs."""
        return laid_out(self.model_dump(mode="json"))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the recipe to `path`, as a whole or not at all; returns the real path.

        Raises:
            OutputError: the folder does not exist or cannot be written to, or `path` is something
                other than a file.
            RecipeError: the file would be larger than `load_recipe` reads.
        """
        data = self.to_json().encode()
        if len(data) > MAX_BYTES:
            raise RecipeError(
                f"found a recipe of {len(data)} bytes; expected at most {MAX_BYTES}: shorten front"
                " or per_prompt"
            )
        return write_whole(path, data)

    def made_by(self, command: str | None) -> Self:
        """The recipe with the command line that made it; the same recipe where there is none."""
        if command is None or self.made is None:
            return self
        return self.model_copy(update={"made": self.made.model_copy(update={"command": command})})

    def apply(
        self,
        pipeline_or_module: object,
        *,
        emulate: bool | None = None,
        allow_random_weights: bool = False,
    ) -> ApplyReport:
        """Quantize a pipeline's denoisers in place, exactly as the recipe says.

        Nothing is changed unless the model fits: it has the recipe's classes and Linears, and the
        formats take every shape. A step policy is run by `step_switching.precision_by_step`; until
        then every step runs quantized, which the report and a warning say (`ApplyReport.note`).

        Args:
            pipeline_or_module: a diffusers pipeline, or the denoiser itself if there is one.
            emulate: None and False run the native kernels, and refuse where the hardware lacks one.
                True computes with the same quantized values in bf16 arithmetic: the recipe's
                quality, never its speed.
            allow_random_weights: apply a recipe that was searched on random weights, which says
                nothing about the model.

        Raises:
            RecipeMismatchError: the model is not the recipe's; the message names layers.
            RecipeError: the hardware lacks a format, the kernels left a layer in bf16, or the
                recipe is one of random weights.
        """
        self.check_weights(allow_random=allow_random_weights)
        return apply_layers(
            self.assignment,
            self.model,
            pipeline_or_module,
            name=self.name,
            emulate=bool(emulate),
            caveat=self.caveat,
        )

    def check_weights(self, *, allow_random: bool = False) -> None:
        """Raise RecipeError if the recipe was searched on random weights, unless `allow_random`.

        The skip-list and the LPIPS of such a recipe say nothing about the model.
        """
        if self.model.weights == "random" and not allow_random:
            raise RecipeError(
                f"the recipe {self.name!r} was searched on random weights: its skip-list and its"
                f" LPIPS say nothing about {printable(self.model.id)}; expected a recipe of trained"
                " weights: search again with those, or set `allow_random_weights` to try out what"
                " comes after a search"
            )


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe file. Nothing in it is run.

    Raises:
        RecipeError: the file cannot be read, is not strict JSON, or is not a recipe; the message
            starts with the path.
    """
    try:
        parsed = read_json(path, RECIPE)
        if not isinstance(parsed, dict):
            raise RecipeError(
                f"found a {type(parsed).__name__} at the top; expected one JSON object: name"
                " another file"
            )
        return Recipe.from_mapping(parsed)
    except OSError as error:
        raise RecipeError(
            f"{os.fspath(path)}: found {error.strerror}; expected a JSON file that can be read:"
            " name a recipe that `sensitivity search` or `sensitivity select` wrote"
        ) from None
    except (ValueError, RecipeError) as error:
        raise RecipeError(f"{os.fspath(path)}: {error}") from None


def _version_message(found: str) -> str:
    return (
        f"found schema_version {found[:40]!r}; expected {' or '.join(f'{m}.x' for m in _MAJORS)}:"
        " update `sensitivity`, or export the recipe again"
    )


def _newer_version(version: object) -> str:
    """The hint to update, for a file of a later minor version; "" for any other."""
    is_version = isinstance(version, str) and re.fullmatch(r"\d{1,9}\.\d{1,9}", version)
    if not is_version or _numbers(str(version)) <= _numbers(SCHEMA_VERSION):
        return ""
    return f"; its schema_version is {version}, this reads {SCHEMA_VERSION}: update `sensitivity`"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
