"""Which trials need a held-out score? The first choice, what may be as good, and what it is
compared with.

The search ranks skip-lists by its own prompts, and the best of many is partly chance. So trials are
ranked by the estimates that all of them together give (`search.estimate`), and the first choice
alone is not enough. Held-out scores are needed for

- the first choice: what the search prompts choose (`search.front.choose`);
- what may be as good: its two neighbours on the front, and what a paired test over the search
  prompts (95 %) does not distinguish from it (`fidelity.alike`). Of those that keep to the
  constraints, the `NEAR` nearest count, the first choice included;
- what the winner is compared with: the baselines, and the `ANSWERS` best skip-lists that beat the
  rule of thumb.

    contest = Contest.of(trials, Constraints(max_lpips=0.15), bf16_s=candidates.bf16_s)
    contest.planned()

Trials are ranked by typical damage. A bound on the mean is one on the mean that the study's curve
expects, and a bound on flips one on the flips of the search prompts (`fidelity.summary`). Where
there is sound, "LPIPS" means damage (`fidelity.score`), and a trial whose sound breaks the study's
bound is not on the front. No score is computed here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from sensitivity.errors import ConstraintError
from sensitivity.fidelity.alike import is_distinguishable
from sensitivity.fidelity.score import Score
from sensitivity.fidelity.summary import SummaryRules
from sensitivity.fidelity.words import lpips_words
from sensitivity.search.front import Constraints, Offer, Point, choose, pareto_front
from sensitivity.search.trials import ScoredTrial

NEAR = 6
"""Skip-lists that may be chosen, the first choice included."""
ANSWERS = 2
"""Skip-lists beside the winner that beat the rule of thumb on the search prompts."""


def points(trials: Sequence[ScoredTrial]) -> list[Point]:
    """(seconds, estimated typical LPIPS) of each trial."""
    return [(trial.latency_s, trial.typical) for trial in trials]


def front_of(trials: Sequence[ScoredTrial]) -> list[ScoredTrial]:
    """The non-dominated trials among those whose sound keeps to its bound, fastest first."""
    kept = [t for t in trials if t.score.is_allowed]
    return [kept[i] for i in pareto_front(points(kept))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """The trials of a search, and what is asked of its winner.

    Attributes:
        trials: all finished trials.
        constraints: what the winner must keep to.
        bf16_s: priced seconds of a run with nothing quantized.
        rules: how scores are summarized.
    """

    trials: tuple[ScoredTrial, ...]
    constraints: Constraints
    bf16_s: float
    rules: SummaryRules

    @classmethod
    def of(
        cls,
        trials: Sequence[ScoredTrial],
        constraints: Constraints,
        *,
        bf16_s: float,
        rules: SummaryRules | None = None,
    ) -> Self:
        """A contest; `rules` None are those of the trials, without another seed as an anchor."""
        if rules is None:
            rules = SummaryRules.of([t.score for t in trials], another_seed=None)
        return cls(trials=tuple(trials), constraints=constraints, bf16_s=bf16_s, rules=rules)

    def offer(self, trial: ScoredTrial) -> Offer:
        """What is known of a trial on the search prompts."""
        return Offer(
            seconds=trial.latency_s,
            typical=trial.typical,
            mean=self.rules.damage_curve.mean(trial.typical),
            flips=len(self.rules.flips(trial.score)),
            memory_bytes=trial.memory_bytes,
        )

    def is_fast_enough(self, trial: ScoredTrial) -> bool:
        """Whether a trial keeps to the bounds on time."""
        return self.constraints.is_fast_enough(trial.latency_s, bf16_s=self.bf16_s)

    def front(self) -> list[ScoredTrial]:
        """The front of what keeps to the bound on memory, fastest first."""
        return front_of([t for t in self.trials if self.constraints.fits(t.memory_bytes)])

    def first_choice(self) -> ScoredTrial:
        """What the search prompts choose.

        Raises:
            ConstraintError: no trial keeps to the constraints, or to the study's bound on sound.
            UserError: memory is bounded, and not known.
        """
        kept = [t for t in self.trials if t.score.is_allowed]
        if self.trials and not kept:
            raise ConstraintError(describe_sound([t.score for t in self.trials]))
        offers = [self.offer(t) for t in kept]
        return kept[choose(offers, bf16_s=self.bf16_s, constraints=self.constraints)]

    def near(self, first: ScoredTrial) -> list[ScoredTrial]:
        """What may be as good as the first choice (see the module), the nearest first, the first
        choice included: members of the front of what keeps to the constraints.
        """
        members = front_of(
            [t for t in self.trials if self.constraints.is_met(self.offer(t), bf16_s=self.bf16_s)]
        )
        at = next(i for i, t in enumerate(members) if t.index == first.index)
        floor, damages = first.score.damage_floor, first.score.damages
        alike = [
            i
            for i, t in enumerate(members)
            if abs(i - at) <= 1
            or not is_distinguishable(damages, t.score.damages, noise_floor=floor)
        ]
        return [members[i] for i in sorted(alike, key=lambda i: (abs(i - at), -i))[:NEAR]]

    def beside(self) -> list[ScoredTrial]:
        """What the winner is compared with: the baselines, and the best that beat the rule of
        thumb.

        A skip-list beats the rule of thumb with less typical LPIPS in no more seconds.
        """
        picked = [t for t in self.trials if t.label and t.label != "none"]
        thumb = next((t for t in self.trials if t.label == "rule of thumb"), None)
        if thumb is not None:
            better = [
                t
                for t in front_of(self.trials)
                if t.latency_s <= thumb.latency_s and t.typical < thumb.typical
            ]
            picked += sorted(better, key=lambda t: t.typical)[:ANSWERS]
        return list({t.index: t for t in picked}.values())

    def planned(self) -> list[ScoredTrial]:
        """Every trial whose held-out score will be asked for, as far as the search prompts decide
        it.

        Raises:
            ConstraintError: no trial keeps to the constraints on the search prompts.
        """
        planned = [*self.near(self.first_choice()), *self.beside()]
        return list({t.index: t for t in planned}.values())


def describe_sound(scores: Sequence[Score]) -> str:
    """Why none of these scores is allowed: the bound on sound, the nearest, and the next step."""
    distances = [score.audio.mean if score.audio else 0.0 for score in scores]
    nearest = min(distances)
    bound = scores[distances.index(nearest)].max_audio_distance or 0.0
    return (
        f"the sound of none of the {len(scores)} skip-lists is within {bound:g} of bf16's, the"
        f" nearest is at {lpips_words(nearest)}; expected one that keeps to"
        " `fidelity.max_audio_distance`: raise it in the study TOML (no picture is generated"
        " again), or raise `budget` (the study is kept)"
    )
