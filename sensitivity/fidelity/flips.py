"""Which prompts became another picture? `FlipRule`, `flipped`.

    rule = FlipRule.of_another_seed(evaluator.another_seed())
    flipped(held_out.per_prompt, rule)                  # (3, 17)
    rule.threshold, rule.rests_on                       # 0.15, "40% of the LPIPS of ..."

Sampling amplifies rounding, and now and then a picture **flips**: it is as good as bf16's and
follows the prompt as well, but objects are turned or moved, or a background is another one. That is
what another seed does to all of a picture. So the rule is a share of another seed's LPIPS: of the
geometric mean of bf16's pictures with another seed from bf16's, over some search prompts.

The share was set by eye, on 48 pictures of tiny-flux in NVFP4 with LPIPS of 0.02 to 0.6, where
another seed has 0.37. From 0.155 on all 10 were other pictures (stripes that run another way,
squares that are turned), between 0.135 and 0.155 2 of 4, and below none of 34.

A rule on LPIPS alone does not say what changed: one object of many that is gone may count less. Of
a clip it is the mean over the frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

SHARE = 0.4
"""Of another seed's LPIPS, from which on a picture is another one (see the module)."""
USUAL = 0.4
"""LPIPS of another seed where it was not measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FlipRule:
    """From which LPIPS on a picture counts as another one.

    Attributes:
        threshold: LPIPS of a prompt.
        another_seed: LPIPS of bf16 with another seed, on which it rests; None: not measured.
    """

    threshold: float
    another_seed: float | None

    @classmethod
    def of_another_seed(cls, another_seed: float | None) -> "FlipRule":
        """`SHARE` of another seed's LPIPS, or of `USUAL` where it is None."""
        anchor = USUAL if another_seed is None else another_seed
        return cls(threshold=SHARE * anchor, another_seed=another_seed)

    @property
    def rests_on(self) -> str:
        """What the threshold rests on, in words."""
        if self.another_seed is None:
            return f"LPIPS {self.threshold:.2g}, since another seed was not measured"
        share = self.threshold / self.another_seed if self.another_seed else SHARE
        return f"{share:.0%} of the LPIPS of another seed, {self.another_seed:.2g}"


def flipped(values: Sequence[float], rule: FlipRule) -> tuple[int, ...]:
    """The indices of the prompts whose picture became another one.

    Args:
        values: (N,) LPIPS of each prompt.
        rule: from which LPIPS on, itself included.
    """
    return tuple(i for i, value in enumerate(values) if value >= rule.threshold)
