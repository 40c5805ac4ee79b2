"""What is said of a score over prompts? Typical LPIPS, mean LPIPS, and flips: `SummaryRules`.

    rules = SummaryRules.of([trial.score for trial in trials], another_seed=0.43)
    said = rules.summarize(held_out)
    said.typical, said.typical_ci95                # 0.0088, (0.0062, 0.0125)
    said.mean, said.mean_ci95                      # 0.0163, (0.0101, 0.0262)
    said.flips, said.prompts                       # (17,), 24

- **Typical** is the geometric mean over the prompts (`typical`).
- **Mean** is what the mean over prompts that were not drawn is expected to be. It is read from the
  typical LPIPS by the curve that all skip-lists of a study share (`mean_curve`). It is not the
  average of these prompts, which a flip or two rule; that is `average`.
- **Flips** are the prompts whose picture became another one (`flips`).

Every place that states a score takes it from here: recipes, tables, verdicts, `select`, `verify`.
So a skip-list has the same numbers everywhere. `fidelity.words` writes them.

With sound a search ranks and bounds *damage* (`score`), and `mean_damage` is its mean. What is
summarized is LPIPS, in both cases.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sensitivity.fidelity.flips import FlipRule, flipped
from sensitivity.fidelity.mean_curve import MeanCurve
from sensitivity.fidelity.score import Score
from sensitivity.fidelity.typical import Interval, typical, typical_interval
from sensitivity.fidelity.words import flips_words, summary_words


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreSummary:
    """What a score over prompts says (see the module).

    Attributes:
        typical: geometric mean of LPIPS over the prompts.
        typical_ci95: its 95 % interval.
        mean: expected mean LPIPS over other prompts.
        mean_ci95: its 95 % interval.
        average: arithmetic mean of LPIPS over these prompts.
        flips: indices of the prompts whose picture became another one.
        prompts: how many prompts there are.
    """

    typical: float
    typical_ci95: Interval
    mean: float
    mean_ci95: Interval
    average: float
    flips: tuple[int, ...]
    prompts: int

    @property
    def words(self) -> str:
        """All three, with intervals."""
        return summary_words(
            typical=self.typical,
            typical_ci95=self.typical_ci95,
            mean=self.mean,
            mean_ci95=self.mean_ci95,
            flips=flips_words(len(self.flips), self.prompts),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SummaryRules:
    """What the summaries of a study rest on.

    Attributes:
        curve: from the typical to the mean LPIPS.
        damage_curve: from the typical to the mean damage; the same where there is no sound.
        flip_rule: from which LPIPS on a picture is another one.
    """

    curve: MeanCurve
    damage_curve: MeanCurve
    flip_rule: FlipRule

    @classmethod
    def of(cls, scores: Sequence[Score], *, another_seed: float | None) -> "SummaryRules":
        """The rules of a study.

        Args:
            scores: of its finished trials, on the search prompts. The same trials give the same
                rules, whatever was verified.
            another_seed: typical LPIPS of bf16 with another seed; None: not measured.
        """
        floors = [score.noise_floor for score in scores if score.noise_floor is not None]
        curve = MeanCurve.fit([s.per_prompt for s in scores], max(floors, default=None))
        damage_curve = curve
        if any(score.audio is not None for score in scores):
            floor = max((score.damage_floor for score in scores), default=None)
            damage_curve = MeanCurve.fit([s.damages for s in scores], floor)
        return cls(
            curve=curve,
            damage_curve=damage_curve,
            flip_rule=FlipRule.of_another_seed(another_seed),
        )

    def summarize(self, score: Score) -> ScoreSummary:
        """What is said of a score."""
        values, floor = score.per_prompt, score.noise_floor
        mean, low, high = self.curve.mean_interval(values, floor)
        return ScoreSummary(
            typical=typical(values, floor),
            typical_ci95=typical_interval(values, floor),
            mean=mean,
            mean_ci95=(low, high),
            average=score.mean,
            flips=self.flips(score),
            prompts=len(values),
        )

    def flips(self, score: Score) -> tuple[int, ...]:
        """Indices of the prompts whose picture became another one."""
        return flipped(score.per_prompt, self.flip_rule)

    def mean_damage(self, score: Score) -> float:
        """The expected mean damage of a score over other prompts."""
        return self.damage_curve.mean_interval(score.damages, score.damage_floor)[0]
