"""Which finished searches does a database hold, and which of them is meant?

What `sensitivity select` needs before it loads a model.

A search keeps its settings beside its trials, so a study is found by what was asked for, not by its
fingerprint: settings that are given must be those of the study, settings that are not given may be
any. One study left is the one; none or several are listed with their trials and settings.

    study = pick_study(list_studies(store, "tiny-flux"), Wanted(seed=1), model="tiny-flux", database=store.path)
    study.settings                                       # as the search had them

Studies of earlier versions kept no settings. They are found by --study or where they are alone, and
their settings are those that are given, else a search's defaults; the fingerprint in the name then
says whether those are right (`workflow.select_recipe` compares).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from sensitivity.core.format_name import QUANTIZED_FORMATS, FormatName, Granularity
from sensitivity.errors import StoreError
from sensitivity.search.loop import OURS, SearchSettings, open_storage
from sensitivity.search.proposers import SamplerName
from sensitivity.search.store import Store

FLAGS = {
    "formats": "--format",
    "target": "--target",
    "seed": "--seed",
    "sampler": "--sampler",
    "granularity": "--granularity",
    "calibrated": "--calibrate",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a study's settings are to be; None is any."""

    name: str | None = None
    formats: tuple[FormatName, ...] | None = None
    target: str | None = None
    seed: int | None = None
    sampler: SamplerName | None = None
    granularity: Granularity | None = None
    calibrated: bool | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The settings that are not None, by name."""
        return {
            key: value for key, value in asdict(self).items() if key in FLAGS and value is not None
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptStudy:
    """A study in a database: its name, its settings where they were kept, and how many of its
    trials have finished or were stopped early.
    """

    name: str
    settings: SearchSettings | None
    finished: int
    stopped: int = 0

    def is_wanted(self, wanted: Wanted) -> bool:
        """Whether its name and its settings, as far as they are known, are those that are wanted."""
        if wanted.name is not None and wanted.name != self.name:
            return False
        return self.settings is None or all(
            getattr(self.settings, key) == value for key, value in wanted.given.items()
        )

    def describe(self) -> str:
        """One line: name, trials, settings as flags."""
        if self.settings is None:
            return f"{self.name}: {self.finished} trials, settings not kept (an earlier version's)"
        return (
            f"{self.name}: {self.finished + self.stopped} of {self.settings.budget} trials,"
            f" {describe_settings(asdict(self.settings))}"
        )


def describe_settings(settings: Mapping[str, Any]) -> str:
    """Settings as the flags that give them."""
    return " ".join(_flag(key, settings[key]) for key in FLAGS if key in settings)


def _flag(key: str, value: Any) -> str:
    if key == "calibrated":
        return "--calibrate" if value else "--no-calibrate"
    return " ".join(f"{FLAGS[key]} {item}" for item in (value if key == "formats" else (value,)))


def list_studies(store: Store, model: str) -> list[KeptStudy]:
    """The studies of a model in a database, oldest first."""
    storage = open_storage(store)
    formats = "|".join(map(re.escape, QUANTIZED_FORMATS))
    named_so = re.compile(rf"{re.escape(model)}-({formats})(\+({formats}))*-.+-[0-9a-f]{{8}}")
    found = []
    for summary in optuna.get_all_study_summaries(storage, include_best_trial=False):
        kept = summary.user_attrs.get("settings")
        if OURS not in summary.user_attrs or not (
            kept["model"] == model if kept else named_so.fullmatch(summary.study_name)
        ):
            continue
        trials = optuna.load_study(study_name=summary.study_name, storage=storage).get_trials(
            deepcopy=False
        )
        count = Counter(trial.state for trial in trials)
        found.append(
            KeptStudy(
                name=summary.study_name,
                settings=_thaw(kept) if kept else None,
                finished=count[TrialState.COMPLETE],
                stopped=count[TrialState.PRUNED],
            )
        )
    return found


def _thaw(kept: Mapping[str, Any]) -> SearchSettings:
    """Settings as `run_search` kept them; those that did not exist then have their defaults."""
    data = {item.name: kept[item.name] for item in fields(SearchSettings) if item.name in kept}
    return SearchSettings(
        **data
        | {
            "formats": tuple(map(FormatName, kept["formats"])),
            "sampler": SamplerName(kept["sampler"]),
        }
    )


def assume_settings(wanted: Wanted, *, target: str, budget: int) -> SearchSettings:
    """The settings of a study that kept none: what is given, else a search's defaults."""
    given = {"formats": (FormatName.NVFP4,), "target": target} | wanted.given
    return SearchSettings(**given, budget=budget)


def pick_study(
    studies: Sequence[KeptStudy], wanted: Wanted, *, model: str, database: Path
) -> KeptStudy:
    """The one study that is wanted.

    Raises:
        StoreError: none or several are; the message lists those there are. Or the one has no
            finished trial.
    """
    if not studies:
        raise StoreError(
            f"{database} holds no study of {model}; run `sensitivity search --model {model}` first,"
            " or pass its --storage"
        )
    fitting = [study for study in studies if study.is_wanted(wanted)]
    if len(fitting) == 1:
        if not fitting[0].finished:
            raise StoreError(
                f"the study {fitting[0].name} has no finished trial; at least one is needed: run"
                " the same search again, it goes on"
            )
        return fitting[0]
    asked = " ".join(
        [f"--study {wanted.name}"] * (wanted.name is not None)
        + [describe_settings(wanted.given)] * bool(wanted.given)
    )
    lines = "\n  ".join(study.describe() for study in fitting or studies)
    if not fitting:
        raise StoreError(
            f"no study of {model} in {database} has {asked}; it holds\n  {lines}\ngive the settings"
            " of one of them, or its --study NAME"
        )
    which = f" have {asked}" if asked else ""
    raise StoreError(
        f"{len(fitting)} studies of {model} in {database}{which}; allowed is one: pass --study NAME"
        f" or more of its settings\n  {lines}"
    )
