"""What does a search have to do still? `SearchWork`: counts, known before the first picture.

    work = SearchWork(trials=50, trials_done=12, prompts=10, lists=10, held_out=24)
    work.pictures_of_verification           # 240, at most

Who shows a search turns counts into time (`workflows.time_left`). Counts are of what is asked for;
a trial that is stopped early, or that the store knows, takes less.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchWork:
    """The work of one search, in its order.

    Attributes:
        references: bf16 pictures of the search prompts that are still to be drawn, with those of
            the noise floor.
        sensitivities: what measuring layer sensitivities still takes, in pictures of a trial.
        baselines, baselines_done: lists by hand that are scored first, and how many of them are.
        trials, trials_done: the budget, and how many trials of it are scored or stopped.
        prompts: pictures of one trial.
        lists: skip-lists that are still to be verified, at most.
        held_out: pictures of one verified skip-list.
        held_out_references: bf16 pictures of the held-out prompts that are still to be drawn.
    """

    references: int = 0
    sensitivities: float = 0.0
    baselines: int = 0
    baselines_done: int = 0
    trials: int
    trials_done: int = 0
    prompts: int
    lists: int
    held_out: int
    held_out_references: int = 0

    @property
    def trials_left(self) -> int:
        """Trials of the budget that are still to run."""
        return max(0, self.trials - self.trials_done)

    @property
    def pictures_of_verification(self) -> int:
        """Quantized pictures of the held-out prompts, at most."""
        return self.lists * self.held_out
