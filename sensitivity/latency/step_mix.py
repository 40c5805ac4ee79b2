"""What does a Linear cost in a run whose first and last steps are more precise? `StepMix`.

Method. Seconds are linear in the steps. A step policy (`core.step_policy`) divides a run in two
kinds of steps, and a quantized Linear costs

    share x (in its format) + (1 - share) x (at an edge step)

where `share` is the part of the steps that run quantized. At an edge step it costs what bf16 costs,
or, with `EdgeMode.A16`, what the weight-only form of its format costs: its weight is dequantized in
each call. A rotated weight needs a rotated activation there too, so what the rotation adds to the
plain format is added (`edge_terms`).

Conventions. The steps of a run are `num_inference_steps` in the settings of its shape table. All
steps call the denoiser alike. Denoisers that take turns, as Wan 2.2's two, are both priced with the
share of the whole run, although the first steps are all the first one's.

    mix = StepMix.of(table, StepPolicy(first_steps=2))
    mix.share                                          # 26 / 28
    edge_terms(FormatName.NVFP4, EdgeMode.A16)         # {nvfp4-a16: 1}

What it does not do: ask what a format costs (`LatencyModel`), or count the bf16 weights that are
kept for edge steps (`memory`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName, quantized
from sensitivity.core.step_policy import EdgeMode, StepPolicy
from sensitivity.errors import UserError
from sensitivity.latency.estimate import LinearCost
from sensitivity.shapes.table import ShapeTable

STEPS_SETTING = "num_inference_steps"
"""The key in a table's settings that holds the denoising steps of the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMix:
    """The two kinds of steps of one run.

    Attributes:
        share: The part of the steps that run quantized, from 0 to 1; 1 without edge steps.
        mode: What edge steps compute in; None without edge steps.
        words: The policy in words, for notes; "" without edge steps.
    """

    share: float = 1.0
    mode: EdgeMode | None = None
    words: str = ""

    @classmethod
    def of(cls, table: ShapeTable, policy: StepPolicy) -> "StepMix":
        """The steps of a run under a policy.

        Raises:
            UserError: The policy has edge steps, and the table does not say how many steps its run
                has.
        """
        if policy.is_plain:
            return cls()
        steps = steps_of(table)
        share = policy.share(steps=steps)
        words = f"{policy.words}, {share:.1%} of {steps} steps quantized"
        return cls(share=share, mode=policy.mode, words=words)

    @property
    def notes(self) -> list[str]:
        """The policy in words, as a list; [] without edge steps."""
        return [self.words] if self.words else []

    def terms(self, format: FormatName) -> Mapping[FormatName, float]:
        """What a Linear in a format costs in the run: {format: part of its calls}."""
        if self.mode is None or not format.is_quantized:
            return {format: 1.0}
        terms = {format: self.share}
        for name, count in edge_terms(format, self.mode).items():
            terms[name] = terms.get(name, 0.0) + (1 - self.share) * count
        return {name: part for name, part in terms.items() if part}


def steps_of(table: ShapeTable) -> int:
    """How many denoising steps the run of a table has.

    Raises:
        UserError: Its settings do not say.
    """
    steps = table.settings.get(STEPS_SETTING)
    if type(steps) is not int or steps < 1:
        raise UserError(
            f"The shape table of {table.model!r} has `{STEPS_SETTING}` {steps!r} in its settings;"
            " expected the number of denoising steps, since a step policy is priced by the share of"
            " its steps. Profile the model with a study that sets it, or leave the policy out."
        )
    return steps


def edge_terms(format: FormatName, mode: EdgeMode) -> Mapping[FormatName, int]:
    """Which prices make up a quantized Linear's at an edge step: {format: how often it counts}.

    With a rotated weight, what the rotation adds counts on top: {-a16: 1, -rot: 1, plain: -1}.
    """
    if mode is EdgeMode.BF16:
        return {FormatName.BF16: 1}
    if format.is_rotated:
        return {format.weight_only: 1, format: 1, format.plain: -1}
    return {format.weight_only: 1}


def priced_formats(assignment: Assignment) -> tuple[FormatName, ...]:
    """Every format whose price a run needs: those of its Linears, and those of its edge steps."""
    needed = dict.fromkeys(assignment.values())
    if not assignment.policy.is_plain:
        for name in dict.fromkeys(quantized(assignment).values()):
            needed |= dict.fromkeys(edge_terms(name, assignment.policy.mode))
    return tuple(needed)


def mixed_costs(
    quantized: tuple[LinearCost, ...], edge: tuple[LinearCost, ...], share: float
) -> tuple[LinearCost, ...]:
    """The costs of Linears over a run, `share` of whose steps run quantized."""
    return tuple(
        replace(own, quantized_us=share * own.quantized_us + (1 - share) * other.quantized_us)
        for own, other in zip(quantized, edge, strict=True)
    )
