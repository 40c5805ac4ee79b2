"""What was a recipe tested for, on what, and when? The record of a gate, as `sensitivity check`
writes it into a recipe.

    recipe.gate.decision, recipe.gate.date      # "passes", "2026-11-29"
    recipe.gate.is_of(recipe.assignment)        # False where formats or steps were changed since

The record is the JSON of the check: its bounds, every criterion with its numbers, the LPIPS of each
prompt, the weights and the versions. It says nothing of later changes of the recipe, which is why
it names the formats that were tested, and the step policy, by their digest.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from sensitivity.core.assignment import Assignment
from sensitivity.recipes._base import Count, Real, Record

Verdict = Literal["passes", "fails", "undecided"]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Text = Annotated[str, Field(max_length=2_000)]


class GateCriterion(Record):
    """One bound, `asked` in words, and what was found.

    `field` is the bound's option, such as `max_lpips`. `interval` decides (null: a count); an end
    that is infinite is null. `prompts_needed` is about how many prompts would decide it (null: it
    is decided, or more prompts would not).
    """

    field: Annotated[str, Field(max_length=64)]
    asked: _Text
    decision: Verdict
    value: Real | None
    interval: tuple[Real | None, Real | None] | None = None
    found: _Text = ""
    why: _Text | None = None
    prompts: Count | None = None
    prompts_needed: Count | None = None


class GateRecord(Record):
    """What `sensitivity check` found.

    `gate` has the bounds that were set, and `against` the name of the recipe that it was compared
    with. `layers_sha256` is of the formats and the step policy that were tested (`layers_digest`).
    `weights_sha256` identifies the model's weights; it, `net`, `per_prompt` and `kernels` are null
    where nothing was drawn. `environment` has versions and machine; `date` is a day in UTC.
    """

    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    decision: Verdict
    gate: Annotated[Mapping[str, JsonValue], Field(max_length=64)]
    criteria: Annotated[tuple[GateCriterion, ...], Field(max_length=256)]
    layers_sha256: _Digest
    against: Annotated[str, Field(max_length=256)] | None = None
    net: Annotated[str, Field(max_length=256)] | None = None
    per_prompt: tuple[Annotated[Real, Field(ge=0)], ...] | None = None
    against_per_prompt: tuple[Annotated[Real, Field(ge=0)], ...] | None = None
    kernels: Literal["native", "emulated"] | None = None
    weights_sha256: _Digest | None = None
    environment: Annotated[Mapping[str, JsonValue], Field(max_length=256)]

    def is_of(self, layers: Mapping[str, str]) -> bool:
        """Whether these formats were tested, by their policy where they are an `Assignment`."""
        return self.layers_sha256 == layers_digest(layers)


def layers_digest(layers: Mapping[str, str]) -> str:
    """sha256 of the formats of a recipe: of {FQN: format} as JSON, sorted, without blanks.

    Of an `Assignment` with a step policy, its key (`StepPolicy.key`) follows in a line of its own.
    """
    formats = {fqn: str(name) for fqn, name in layers.items()}
    text = json.dumps(formats, sort_keys=True, separators=(",", ":"))
    if isinstance(layers, Assignment) and not layers.policy.is_plain:
        text += f"\n{layers.policy.key}"
    return hashlib.sha256(text.encode()).hexdigest()
