"""How does one use the knapsack proposer in an Optuna study of one's own? `KnapsackSampler`.

    sampler = KnapsackSampler(candidates, errors=errors, seed=0)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    study.optimize(lambda trial: score(sampler.suggest(trial)), n_trials=50)

where score(choice) returns (seconds, typical LPIPS). The search space is one categorical parameter
for each group. It has the group's name, and the formats that the group takes as choices. Where step
policies are searched, `step_policy` is one more, whose choices are the policies' keys. Other
parameters of an objective are sampled at random.

The history is read from the study: finished trials with a value for every group. The last objective
is taken as typical LPIPS. A choice that a trial already has, finished or running, is not proposed
again while there is another. The choices in `first` are proposed before all others, as a search
does with the baselines.

Constraints and values of pruned trials are not used.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sensitivity.search.calibration.jobs import Errors
from sensitivity.search.candidates import Candidates, Choice
from sensitivity.search.proposers import STEP_POLICY, KnapsackProposer, Observation
from sensitivity.search.step_table import StepTable

STATES = (TrialState.COMPLETE, TrialState.RUNNING, TrialState.PRUNED, TrialState.FAIL)
"""States of trials whose choice is not proposed again."""


class KnapsackSampler(BaseSampler):
    """See the module.

    Args:
        candidates: groups, formats and gains.
        errors: {(group, option): calibrated error}, None without calibration.
        steps: what each group does in which part of a run; None: the same in every step.
        seed: of everything random.
        first: choices that are proposed before all others.
    """

    def __init__(
        self,
        candidates: Candidates,
        *,
        errors: Errors | None = None,
        steps: StepTable | None = None,
        seed: int = 0,
        first: Sequence[Choice] = (),
    ) -> None:
        self.candidates, self.first = candidates, tuple(first)
        self._proposer = KnapsackProposer(candidates, seed=seed, errors=errors, steps=steps)
        self._random = RandomSampler(seed=seed)
        self.space: dict[str, BaseDistribution] = {
            group.name: CategoricalDistribution(
                [
                    str(fmt)
                    for option, fmt in enumerate(candidates.formats)
                    if not option or group.members[option]
                ]
            )
            for group in candidates.groups
        }
        if candidates.chooses_policy:
            self.space[STEP_POLICY] = CategoricalDistribution(_keys(candidates))

    def reseed_rng(self) -> None:
        """Reseed the sampling of parameters that are no groups.

        Proposals depend on the seed and the history alone.
        """
        self._random.reseed_rng()

    def infer_relative_search_space(
        self,
        study: Study,  # noqa: ARG002 - Optuna's contract
        trial: FrozenTrial,  # noqa: ARG002 - the same
    ) -> dict[str, BaseDistribution]:
        """The groups."""
        return self.space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The proposal as {group: format}; parameters that are no groups are sampled at random."""
        others = {
            name: self._random.sample_independent(study, trial, name, search_space[name])
            for name in sorted(search_space)
            if self.space.get(name) != search_space[name]
        }
        if set(search_space) - set(others) != set(self.space):
            return others
        history, seen = self._read(study, trial)
        choice = next(
            (first for first in self.first if first not in seen), None
        ) or self._proposer.next_choice(history, seen, len(history))
        return others | self.parameters(choice)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A parameter that is no group, sampled at random."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def suggest(self, trial: optuna.Trial) -> Choice:
        """The trial's choice. Call this in the objective."""
        return self._choice(
            {
                name: trial.suggest_categorical(name, own.choices)
                for name, own in self._categorical()
            }
        )

    def parameters(self, choice: Choice) -> dict[str, str]:
        """A choice as Optuna's parameters, for `study.enqueue_trial`."""
        options = self.candidates.options_of(choice)
        found = {
            group.name: str(self.candidates.formats[option])
            for group, option in zip(self.candidates.groups, options, strict=True)
        }
        if self.candidates.chooses_policy:
            found[STEP_POLICY] = _keys(self.candidates)[self.candidates.place_of_policy(choice)]
        return found

    def _choice(self, parameters: Mapping[str, Any]) -> Choice:
        """The choice of these parameters.

        Raises KeyError, ValueError: one is missing, or is none of ours.
        """
        formats, keys = list(map(str, self.candidates.formats)), _keys(self.candidates)
        options = [formats.index(str(parameters[group.name])) for group in self.candidates.groups]
        chooses = self.candidates.chooses_policy
        place = keys.index(parameters[STEP_POLICY]) if chooses else 0
        return self.candidates.with_policy(options, place)

    def _categorical(self) -> list[tuple[str, CategoricalDistribution]]:
        return [
            (name, space)
            for name, space in self.space.items()
            if isinstance(space, CategoricalDistribution)
        ]

    def _read(self, study: Study, current: FrozenTrial) -> tuple[list[Observation], set[Choice]]:
        """The scored choices in order, and all choices of other trials."""
        history, seen = [], set()
        for trial in study.get_trials(deepcopy=False, states=STATES):
            if trial.number == current.number:
                continue
            try:
                choice = self._choice(trial.params)
            except (KeyError, ValueError):
                continue
            seen.add(choice)
            if trial.state is TrialState.COMPLETE and trial.values[-1] >= 0:
                history.append(Observation(choice=choice, typical=trial.values[-1]))
        return history, seen


def _keys(candidates: Candidates) -> list[str]:
    """What the step policies are called as a parameter's choices."""
    return [policy.key or "plain" for policy in candidates.policies]
