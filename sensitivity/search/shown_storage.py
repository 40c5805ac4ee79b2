"""How is a study shown by a tool that knows Optuna? `ShownStorage`: Optuna's trials, in our words.

Tools such as optuna-dashboard take an Optuna storage. This one is read live, beside a search that
runs, and what it shows is meant for people: each trial has its name, its speedup and its distances
as attributes, pictures as artifacts, and a note; the study has a note and figures. None of that is
in the database, so nothing there is changed by looking at it.

    storage = ShownStorage(database, extras)        # extras: {study name: Extras}
    optuna_dashboard.wsgi(storage, artifact_store=PictureStore(storage))

What a tool writes is refused, but for notes of a study or a trial, which are the user's own: they
go into the database, where seals leave them out (`search.seals`), and replace ours.

Conventions. Keys of notes, figures and artifacts are those that optuna-dashboard 0.21 reads.
"""

import copy
import json
import mimetypes
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from sensitivity.errors import OutputError
from sensitivity.search.database import Database
from sensitivity.search.kept_trials import TRIED
from sensitivity.search.optuna_storage import SealedStorage
from sensitivity.search.proposers import STEP_POLICY
from sensitivity.search.seals import OURS
from sensitivity.search.trials import name_of

PIECE = 2045
"""Characters of a text that an attribute of a study holds."""
MOST_GROUPS = 100
"""Groups that are shown as parameters of each trial."""
NONE = "none"
"""The label of the baseline in which nothing is quantized."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownPicture:
    """A picture of a trial.

    Attributes:
        key: of hexadecimal digits and hyphens, its own in the study.
        path: of its file.
        title: what a file that is saved is called, without an ending.
    """

    key: str
    path: Path
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Extras:
    """What is shown of a study beside its trials.

    Attributes:
        note: Markdown.
        figures: {letters, digits and hyphens: a plotly figure as JSON}.
        pictures: {name of a trial: its pictures}.
        trial_note: (name of a trial, how the address of its pictures begins) -> Markdown.
        groups: names of the groups of Linears; with more than `MOST_GROUPS` they are not shown.
        formats: the formats of a group's options, bf16 first.
        policies: the step policies that were searched, in words.
    """

    note: str = ""
    figures: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, Sequence[ShownPicture]] = field(default_factory=dict)
    trial_note: Callable[[str, str], str] = lambda _name, _address: ""
    groups: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()


class ShownStorage(_CachedStorage):
    """Studies of a database, as they are shown.

    Args:
        database: that is only read, so that whatever else is written through Optuna fails.
        extras: {study name: what is shown beside its trials}.
    """

    def __init__(self, database: Database, extras: Mapping[str, Extras]) -> None:
        super().__init__(SealedStorage(database))
        self.extras = extras
        self._notes = RDBStorage(
            database.url,
            engine_kwargs=database.place.engine_options(writes_notes=True),
            skip_table_creation=True,
        )
        database.use(self._notes.engine, writes_notes=True)

    # --- studies

    def get_all_studies(self) -> list[FrozenStudy]:
        """Those that a search made."""
        shown = []
        for study in super().get_all_studies():
            if OURS in study.user_attrs:
                study.system_attrs = self._study_attrs(study._study_id, study.system_attrs)
                study.user_attrs = _settings(study.user_attrs)
                shown.append(study)
        return shown

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """The settings of the search."""
        return _settings(super().get_study_user_attrs(study_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Optuna's, with notes and figures."""
        return self._study_attrs(study_id, super().get_study_system_attrs(study_id))

    def _study_attrs(self, study_id: int, own: Mapping[str, Any]) -> dict[str, Any]:
        extras = self._extras(study_id)
        shown: dict[str, Any] = {}
        for key, figure in extras.figures.items():
            shown |= _pieces(f"dashboard:plot_data:{key}:", figure)
        if extras.note and "dashboard:note_ver" not in own:
            shown |= {"dashboard:note_ver": 1} | _pieces("dashboard:note_str:", extras.note)
        for trial_id, name in self._names(study_id).items():
            note = extras.trial_note(name, f"/artifacts/{study_id}/{trial_id}")
            if note and f"dashboard:{trial_id}:note_ver" not in own:
                shown[f"dashboard:{trial_id}:note_ver"] = 1
                shown |= _pieces(f"dashboard:{trial_id}:note_str:", note)
        return {**own, **shown}

    def _extras(self, study_id: int) -> Extras:
        return self.extras.get(self.get_study_name_from_id(study_id), Extras())

    # --- trials

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial in our words."""
        if trial_id not in self._trial_id_to_study_id_and_number:
            for study in super().get_all_studies():
                super().get_all_trials(study._study_id, deepcopy=False)
        trial = super().get_trial(trial_id)
        place = self._trial_id_to_study_id_and_number.get(trial_id)
        shown = [] if place is None else self.get_all_trials(place[0])
        return next((t for t in shown if t._trial_id == trial_id), trial)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """All trials in our words."""
        del deepcopy  # what is given away is a copy
        own = super().get_all_trials(study_id, deepcopy=False)
        names, extras = _names(own), self._extras(study_id)
        bf16_s = next(
            (t.values[0] for t in own if names.get(t._trial_id) == NONE and t.values), None
        )
        return [
            _shown(t, names.get(t._trial_id, ""), extras, bf16_s)
            for t in own
            if states is None or t.state in states
        ]

    def _names(self, study_id: int) -> dict[int, str]:
        return _names(super().get_all_trials(study_id, deepcopy=False))

    # --- what a tool may write

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """A note of the user's. Raises OutputError for anything else."""
        if not key.startswith("dashboard:") or ":note_" not in f":{key.partition(':')[2]}":
            _refuse()
        self._notes.set_study_system_attr(study_id, key, value)


class PictureStore:
    """Optuna's artifact store over the pictures of `Extras`; it writes and removes nothing.

    Args:
        extras: {study name: what is shown beside its trials}.
    """

    def __init__(self, extras: Iterable[Extras]) -> None:
        self._paths = {
            own.key: own.path
            for extra in extras
            for pictures in extra.pictures.values()
            for own in pictures
        }

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The file of a picture. Raises ArtifactNotFound where there is none."""
        try:
            return self._paths[artifact_id].open("rb")
        except (KeyError, OSError):
            raise ArtifactNotFound(artifact_id) from None

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Refused: raises OutputError."""
        del artifact_id, content_body
        _refuse()

    def remove(self, artifact_id: str) -> None:
        """Refused: raises OutputError."""
        del artifact_id
        _refuse()


def _refuse() -> NoReturn:
    raise OutputError(
        "the study is only shown here; expected nothing to be changed but notes: what a search"
        " found is changed by a search"
    )


def _names(trials: Iterable[FrozenTrial]) -> dict[int, str]:
    """{trial_id: name} of the trials with a place in the study, as tables and recipes call them."""
    tried = [t for t in trials if "index" in t.user_attrs and t.state.is_finished()]
    names, number = {}, 0
    for trial in sorted(tried, key=lambda t: t.user_attrs["index"]):
        label = str(trial.user_attrs.get("label", ""))
        number += not label
        names[trial._trial_id] = name_of(label, number)
    return names


def _shown(trial: FrozenTrial, name: str, extras: Extras, bf16_s: float | None) -> FrozenTrial:
    """A copy of a trial with a person's attributes, and with its pictures."""
    shown = copy.copy(trial)
    own = trial.user_attrs
    attributes: dict[str, Any] = {"name": name} if name else {}
    if trial.values:
        attributes |= {} if bf16_s is None else {"speedup": round(bf16_s / trial.values[0], 4)}
        attributes["mean_lpips"] = _mean(own.get("score"))
    for key in ("seconds", "stopped", "reason", "compiled_graphs"):
        if key in own:
            attributes[key] = own[key]
    shown._user_attrs = attributes
    if not trial.params and 0 < len(extras.groups) <= MOST_GROUPS and trial.state in TRIED:
        shown._params, shown._distributions = _parameters(own.get("choice"), extras)
    shown._system_attrs = dict(trial._system_attrs) | {
        f"artifacts:{own.key}": json.dumps(
            {
                "artifact_id": own.key,
                "filename": f"{own.title}{own.path.suffix}",
                "mimetype": mimetypes.guess_type(own.path.name)[0] or "image/webp",
                "encoding": None,
            }
        )
        for own in extras.pictures.get(name, ())
    }
    return shown


def _parameters(
    choice: object, extras: Extras
) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """The format of each group, and the step policy where several were searched, as Optuna's
    parameters and their distributions.
    """
    spaces = dict.fromkeys(extras.groups, CategoricalDistribution(extras.formats))
    if len(extras.policies) > 1:
        spaces[STEP_POLICY] = CategoricalDistribution(extras.policies)
    try:
        pairs = zip(spaces.values(), json.loads(str(choice)), strict=True)
        names = [own.choices[place] for own, place in pairs]
    except (ValueError, TypeError, IndexError):
        return {}, {}
    return dict(zip(spaces, names, strict=True)), dict(spaces)


def _mean(score: object) -> float | None:
    try:
        return round(float(json.loads(str(score))["mean"]), 6)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _settings(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What a search was asked for, each setting by itself; the rest is for programs."""
    settings = attributes.get("settings")
    return dict(settings) if isinstance(settings, dict) else {}


def _pieces(prefix: str, text: str) -> dict[str, str]:
    """A text as attributes that are short enough."""
    starts = range(0, len(text), PIECE)
    return {f"{prefix}{i}": text[start : start + PIECE] for i, start in enumerate(starts)}
