"""What do skip-lists score on held-out prompts? `HeldOutScores`: from the store, or computed.

Held-out scores are facts of the database like all others. A known score is read; a missing one is
computed, which generates pictures, and kept. A skip-list whose run fails (`search.attempts`) has
none, and the others go on. `search.shortlist` says which trials need one,
`search.winner` chooses by them, and `search.to_recipe` reports them.

    scores = HeldOutScores(evaluator=evaluator, store=store, candidates=candidates)
    scores.draw_together(contest.planned())
    winner = choose_winner(trials, constraints=constraints, bf16_s=bf16_s, score=scores)

Several workers (`Evaluator.sharing`) first draw what is planned together, each score once. Then all
of it is known, and the one that chooses draws only what the choice adds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sensitivity.core.words import duration
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.score import Score
from sensitivity.fidelity.sharing import Alone
from sensitivity.search.attempts import RunError, known_or_scored, make_references
from sensitivity.search.candidates import Candidates
from sensitivity.search.store import Store, assignment_key
from sensitivity.search.trials import ScoredTrial


@dataclass(kw_only=True)
class HeldOutScores:
    """Held-out scores of trials, known or computed.

    Attributes:
        evaluator: computes scores.
        store: keeps them.
        candidates: what the trials' choices mean.
        compute: whether missing scores are computed; else there is none.
        progress: called as progress(pictures done, pictures in all).
        noted: called with a text where a run fails or is tried again.
        announced: called with what is known and what will be drawn; None: as `noted`.
        picture_s: seconds of a picture, as far as is known; 0 is not known.
        failures: {trial index: why it could not be scored}; it is not tried again.
        generated: pictures so far.
        expected: pictures in all, as far as is known.
    """

    evaluator: Evaluator
    store: Store
    candidates: Candidates
    compute: bool = True
    progress: Callable[[int, int], None] = lambda _done, _total: None
    noted: Callable[[str], None] = lambda _text: None
    announced: Callable[[str], None] | None = None
    picture_s: float = 0.0
    failures: dict[int, str] = field(default_factory=dict, init=False)
    generated: int = field(default=0, init=False)
    expected: int = field(default=0, init=False)

    def find(self, trial: ScoredTrial) -> Score | None:
        """The score if it is known and says what was asked of judges."""
        known = self._known(trial)
        return None if known is None or not self._is_enough(known) else known

    def _known(self, trial: ScoredTrial) -> Score | None:
        known = self.store.find_score(
            self.evaluator.evaluation_key("held_out"),
            assignment_key(self.candidates.decode(trial.choice)),
        )
        return None if known is None else self.evaluator.judged(known)

    def _is_enough(self, score: Score) -> bool:
        """Whether no judge is lacking that was asked for by name or, where nothing is computed,
        that is bounded.
        """
        panel = self.evaluator.panel
        if panel is None:
            return True
        asked = panel.wishes.required if self.compute else panel.wishes.bounded
        return not set(asked) & set(self._lacking(score))

    def _lacking(self, score: Score) -> tuple[str, ...]:
        """Judges that would look at the pictures of a score and did not."""
        panel = self.evaluator.panel
        if panel is None:
            return ()
        return panel.lacking(score, self.evaluator.prompts("held_out")[0])

    def announce(self, trials: Sequence[ScoredTrial]) -> str:
        """How many scores are known and how many pictures the others take, in words.

        Progress counts these pictures from now on.
        """
        prompts = len(self.evaluator.prompts("held_out")[0])
        found = [self.find(t) for t in trials]
        missing = sum(score is None for score in found)
        self.expected = missing * prompts
        if self.compute:
            self.progress(0, self.expected)
        text = (
            f"verifying {len(trials)} skip-lists on {prompts} held-out prompts:"
            f" {len(trials) - missing} scores are known"
        )
        text += (
            self._cost(missing)
            if self.compute
            else f", {missing} are passed over (`verify` is off)"
        )
        return text + self._unseen([score for score in found if score is not None])

    def _cost(self, missing: int) -> str:
        """What the missing scores take, in words."""
        if not missing:
            return ", nothing is drawn"
        about = f", about {duration(self.expected * self.picture_s)}" if self.picture_s else ""
        return f", {missing} to draw ({self.expected} pictures{about})"

    def _unseen(self, scores: Sequence[Score]) -> str:
        """Which judges did not look at known scores, in words."""
        lacking = [row for score in scores if (row := self._lacking(score))]
        if not lacking:
            return ""
        names = ", ".join(dict.fromkeys(name for row in lacking for name in row))
        return (
            f"; {len(lacking)} of the known are older than the judges {names}: they are drawn again"
            " only if `judges` names these"
        )

    def draw_together(self, trials: Sequence[ScoredTrial]) -> None:
        """Compute what is missing of these scores, with all workers that ask for it: each score
        once. A worker by itself computes nothing here, but when a score is asked for.

        A skip-list whose run fails is tried by each worker, and then has no score.

        Raises:
            MeasurementError: bf16 itself cannot be run.
        """
        sharing = self.evaluator.sharing
        if not self.compute or isinstance(sharing, Alone):
            return
        trials_by_key = {
            assignment_key(self.candidates.decode(trial.choice)): trial for trial in trials
        }

        def is_done(key: str) -> bool:
            trial = trials_by_key[key]
            return trial.index in self.failures or self.find(trial) is not None

        def draw(key: str) -> None:
            self(trials_by_key[key])

        if not all(map(is_done, trials_by_key)):
            make_references(self.evaluator, "held_out", noted=self.noted)
        sharing.run(
            f"verification-{self.evaluator.evaluation_key('held_out')}",
            list(trials_by_key),
            is_done=is_done,
            do=draw,
            noted=self.noted,
        )
        self.generated = max(self.generated, self.expected)  # others have drawn the rest
        self.progress(self.generated, self.generated)

    def __call__(self, trial: ScoredTrial) -> Score | None:
        """The score, computed if need be; None where it is not known and `compute` is off, or where
        its run failed.
        """
        known = self.find(trial)
        if known is not None or not self.compute or trial.index in self.failures:
            return known
        before, each = self.generated, len(self.evaluator.prompts("held_out")[0])
        total = max(self.expected, before + each)
        try:
            score = known_or_scored(
                self.evaluator,
                self.store,
                self.candidates.decode(trial.choice),
                "held_out",
                lambda done: self.progress(before + done, total),
                noted=lambda text: self.noted(f"verifying {trial.name}: {text}"),
                is_enough=self._is_enough,
            )
        except RunError as error:
            self.failures[trial.index] = str(error)
            self.noted(f"{trial.name} could not be verified: {error}")
            score = None
        self.generated = before + each
        self.progress(self.generated, total)
        return score
