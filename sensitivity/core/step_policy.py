"""At which denoising steps does a quantized Linear run at higher precision? `StepPolicy`.

A policy is two numbers and a mode: the first and the last steps of a run are its **edge steps**,
and what is quantized runs there in bf16 (`EdgeMode.BF16`), or with its quantized weight and a bf16
activation (`EdgeMode.A16`, also written W4A16 and W8A16). All other steps run as the skip-list
says. A policy changes no Linear that stays bf16 anyway.

    policy = StepPolicy(first_steps=2, last_steps=1)
    policy.quantizes(1, steps=28), policy.quantizes(2, steps=28)       # False, True
    policy.share(steps=28)                                            # 25 / 28

**Conventions.** A step is one iteration of the pipeline's denoising loop, counted from 0; a step
with guidance calls the denoiser twice and is one step. This is the `index_space`
"denoising_loop_iteration" of a checkpoint's `diffusion_step_policy` (diffusers 0.42.1,
`pipelines/cosmos/mixed_precision.py`), and steps that are both first and last are edge steps, as
its `overlap` "a16" says. `EdgeMode.BF16` needs the bf16 weights beside the quantized ones;
`EdgeMode.A16` needs no second copy.
"""

from dataclasses import dataclass
from enum import StrEnum

from sensitivity.errors import FormatError


class EdgeMode(StrEnum):
    """What a quantized Linear computes in at edge steps.

    `bf16`: its bf16 weight, as if it were not quantized. `a16`: its quantized weight, dequantized,
    with an activation that is not quantized.
    """

    BF16 = "bf16"
    A16 = "a16"


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPolicy:
    """Which steps run at higher precision.

    Attributes:
        first_steps: How many steps from the first on.
        last_steps: How many steps up to the last.
        mode: What a quantized Linear computes in at these steps.

    Raises:
        FormatError: A number of steps is negative.
    """

    first_steps: int = 0
    last_steps: int = 0
    mode: EdgeMode = EdgeMode.BF16

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value in (("first_steps", self.first_steps), ("last_steps", self.last_steps)):
            if value < 0:
                raise FormatError(
                    f"`{name}` of a step policy is {value}; expected 0 or more: count denoising"
                    " steps that run at higher precision"
                )

    @property
    def is_plain(self) -> bool:
        """Whether no step is an edge step."""
        return not (self.first_steps or self.last_steps)

    def quantizes(self, step: int, *, steps: int) -> bool:
        """Whether a step, from 0, of a run of `steps` steps runs quantized."""
        return self.first_steps <= step < steps - self.last_steps

    def share(self, *, steps: int) -> float:
        """The part of a run's steps that run quantized, from 0 to 1.

        Raises FormatError for a run without steps.
        """
        if steps < 1:
            raise FormatError(f"a run of {steps} steps has no step policy; expected 1 step or more")
        return max(steps - self.first_steps - self.last_steps, 0) / steps

    @property
    def words(self) -> str:
        """The policy as text: "first 2 and last 1 steps in bf16"; "every step" of a plain one."""
        if self.is_plain:
            return "every step quantized"
        ends = [
            f"{name} {count}"
            for name, count in (("first", self.first_steps), ("last", self.last_steps))
            if count
        ]
        how = "bf16" if self.mode is EdgeMode.BF16 else "W x A16"
        steps = "step" if self.first_steps + self.last_steps == 1 else "steps"
        return f"{' and '.join(ends)} {steps} in {how}"

    @property
    def key(self) -> str:
        """The policy in one word, for keys: "first2-last1-bf16"; "" of a plain one."""
        if self.is_plain:
            return ""
        return f"first{self.first_steps}-last{self.last_steps}-{self.mode}"


PLAIN = StepPolicy()
"""Every step runs as the skip-list says."""
