"""At which steps does a recipe run at higher precision? The field `step_policy` of a recipe.

    recipe.step_policy.words         # "first 2 and last 1 steps in bf16"
    recipe.step_policy.share         # 25 / 28: the part of the run that is quantized
    recipe.assignment.policy         # the `StepPolicy`; the plain one where the field is null

A recipe without a policy has null: every step runs as `layers` says. A policy that leaves every
step as it is, or that leaves no step quantized, is refused, so that one recipe is written in one
way. What a policy means is said in `core.step_policy`.

`steps` is the number of steps of the run that the recipe was searched at. Its seconds and its LPIPS
hold for that number; the policy counts from both ends of a run of any length.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from sensitivity.core.assignment import Assignment
from sensitivity.core.step_policy import EdgeMode, StepPolicy
from sensitivity.recipes._base import Count, Record


class StepPolicyRecord(Record):
    """Which denoising steps run what is quantized at higher precision: the `first_steps` and the
    `last_steps` of a run.

    `mode` says in what. `bf16`: in its bf16 weight, which is kept beside the quantized one
    (`memory.beside_bytes`). `a16`: in its quantized weight, dequantized, with a bf16 activation.
    `steps` is the number of steps of the run that the recipe was searched at.
    """

    first_steps: Count
    last_steps: Count
    mode: EdgeMode
    steps: Annotated[int, Field(strict=True, ge=1, lt=2**64)]

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        edges = self.first_steps + self.last_steps
        if edges == 0:
            raise ValueError(
                "found a policy without first and last steps; expected one of them at least: write"
                " null where every step runs quantized"
            )
        if edges >= self.steps:
            raise ValueError(
                f"found {self.first_steps} first and {self.last_steps} last steps of {self.steps},"
                " by which no step runs quantized; expected fewer than all: search again, or write"
                " every layer in bf16"
            )
        return self

    @classmethod
    def of(cls, assignment: Assignment, *, steps: int) -> Self | None:
        """The record of what was assigned, for a run of `steps` steps; None of a plain policy."""
        policy = assignment.policy
        if policy.is_plain:
            return None
        return cls(
            first_steps=policy.first_steps,
            last_steps=policy.last_steps,
            mode=policy.mode,
            steps=steps,
        )

    @property
    def policy(self) -> StepPolicy:
        """The policy, without the number of steps that it was searched at."""
        return StepPolicy(first_steps=self.first_steps, last_steps=self.last_steps, mode=self.mode)

    @property
    def share(self) -> float:
        """The part of the steps that run quantized, from 0 to 1, at the searched number of them."""
        return self.policy.share(steps=self.steps)

    @property
    def words(self) -> str:
        """The policy, and the share of a run: "first 2 and last 1 steps in bf16 (25 of 28 steps
        quantized)".
        """
        quantized = self.steps - self.first_steps - self.last_steps
        return f"{self.policy.words} ({quantized} of {self.steps} steps quantized)"
