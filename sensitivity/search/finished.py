"""Which studies does a database hold, and which of them is meant? What `select` needs to know
before it loads a model.

A search keeps its settings with its trials, so a study is found by what was asked for and not by
the fingerprint in its name. Settings that are given must be those of the study; settings that are
not given may be any. If one study fits, it is the one. If none or several do, the error lists them
with their trials and settings.

    studies = list_optuna_studies(store, "tiny-flux")
    study = pick_study(studies, Wanted(seed=1), model="tiny-flux", database=store.describe())
    study.settings                                       # those of the search

Studies of earlier versions kept no settings. They are found by name, or if they are the only one.
Their settings are then those that are given, else a search's defaults (`assume_settings`); whether
these are right shows in the fingerprint, which `workflows.select` compares.
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from optuna.trial import TrialState
from pydantic import TypeAdapter, ValidationError

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import QUANTIZED_FORMATS, FormatName, Granularity, Source
from sensitivity.core.step_policy import EdgeMode
from sensitivity.core.storage_url import Storage
from sensitivity.core.typed_fields import coerce_fields
from sensitivity.core.words import printable
from sensitivity.errors import DamageError, StoreError
from sensitivity.latency.runtimes import DEFAULT
from sensitivity.search.kept_prices import KeptPrices
from sensitivity.search.kept_trials import first_fault
from sensitivity.search.optuna_storage import open_storage
from sensitivity.search.proposers import SamplerName
from sensitivity.search.seals import (
    CONTINUES,
    PRICES,
    SETTINGS,
    count_baselines,
    count_states,
    kept_attribute,
    list_studies,
    study_rows_fault,
)
from sensitivity.search.settings import SearchSettings
from sensitivity.search.store import Store

_SETTINGS = TypeAdapter(SearchSettings)
_DISTINGUISHING = (
    "formats",
    "target",
    "seed",
    "sampler",
    "granularity",
    "calibrated",
    "arithmetic",
    "emulate",
    "latency",
    "runtime",
    "consumers",
    "edge_steps",
    "first_steps",
    "last_steps",
)
"""Settings that distinguish studies of one model, in the order in which they are shown."""
_UNSAID: Mapping[str, tuple[Any, ...]] = {
    "arithmetic": (Arithmetic.EAGER,),
    "emulate": (False, None),
    "latency": ("predicted",),
    "runtime": (DEFAULT,),
    "consumers": ((), []),
    "edge_steps": (None,),
    "first_steps": (None,),
    "last_steps": (None,),
}
"""Values that are not shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """The name and the settings of the study that is meant; None is any."""

    name: str | None = None
    formats: tuple[FormatName, ...] | None = None
    target: str | None = None
    seed: int | None = None
    sampler: SamplerName | None = None
    granularity: Granularity | None = None
    calibrated: bool | None = None
    arithmetic: Arithmetic | None = None
    emulate: bool | None = None
    latency: Source | None = None
    runtime: str | None = None
    consumers: tuple[str, ...] | None = None
    edge_steps: EdgeMode | None = None
    first_steps: tuple[int, ...] | None = None
    last_steps: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Raise UserError for a value of another type."""
        coerce_fields(self)

    @property
    def given(self) -> dict[str, Any]:
        """The settings that are not None, by name."""
        return {key: value for key in _DISTINGUISHING if (value := getattr(self, key)) is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptStudy:
    """A study in a database.

    Attributes:
        name: with a fingerprint.
        settings: what its search was asked for; None where it was not kept.
        finished: how many of its trials have a score, baselines included.
        baselines: how many of these are baselines, which are no trials of the budget.
        stopped: how many were stopped early.
        prices: the measured times that it was searched by; None where prices were predicted.
        is_continued: whether another study continues it, as this version does with those of an
            earlier one. It is meant only where it is named.
    """

    name: str
    settings: SearchSettings | None
    finished: int
    stopped: int = 0
    baselines: int = 0
    prices: KeptPrices | None = None
    is_continued: bool = False

    def is_wanted(self, wanted: Wanted) -> bool:
        """Whether its name and its settings are as wanted; unknown settings may be any."""
        if self.is_continued if wanted.name is None else wanted.name != self.name:
            return False
        return self.settings is None or all(
            getattr(self.settings, key) in (value, None) for key, value in wanted.given.items()
        )

    def describe(self) -> str:
        """One line: name, trials, settings."""
        trials = self.finished - self.baselines + self.stopped
        if self.settings is None:
            return f"{self.name}: {trials} trials, settings not kept (an earlier version's)"
        own = self.settings.objective
        return (
            f"{self.name}: {trials} of {self.settings.budget} trials,"
            f" {describe_settings(asdict(self.settings))}"
            + ("" if own is None else f" `objective` {printable(own)}")
        )


def describe_settings(settings: Mapping[str, Any], *, in_full: bool = False) -> str:
    """Settings as text, each after its field's name: "`format` nvfp4 `seed` 1".

    Those of `_UNSAID` are left out, unless `in_full`.
    """
    return " ".join(
        _describe(key, settings[key])
        for key in _DISTINGUISHING
        if key in settings and (in_full or settings[key] not in _UNSAID.get(key, ()))
    )


def _describe(key: str, value: Any) -> str:
    if key in ("emulate", "calibrated"):
        name = "`calibrate`" if key == "calibrated" else "`emulate`"
        return name if value else f"without {name}"
    if key in ("formats", "consumers"):
        field = "`format`" if key == "formats" else "`consumers`"
        return " ".join(f"{field} {name}" for name in value)
    if key in ("first_steps", "last_steps"):
        return f"`{key}` {','.join(map(str, value))}"
    return f"`{key}` {value}"


def list_optuna_studies(store: Store, model: str) -> list[KeptStudy]:
    """The studies of a model in a database, oldest first.

    Raises:
        DamageError: the settings of a study are not what was written.
        StoreError: they cannot be read.
    """
    if not store.may_write and not store.has_studies():
        return []
    open_storage(store)  # checks the version of Optuna's tables
    formats = "|".join(map(re.escape, sorted(QUANTIZED_FORMATS, key=len, reverse=True)))
    name_of_model = re.compile(rf"{re.escape(model)}-({formats})(\+({formats}))*-.+-[0-9a-f]{{8}}")
    found = []
    with store.reading() as session:
        connection = session.connection()
        studies = list_studies(connection)
        continued = {kept_attribute(connection, study.study_id, CONTINUES) for study in studies}
        for study in studies:
            if study.is_set_aside or not study.is_ours:
                continue
            kept = _parsed(kept_attribute(connection, study.study_id, SETTINGS))
            of_model = kept.get("model") if kept else None
            if not isinstance(of_model, str) and name_of_model.fullmatch(study.name):
                of_model = model
            if of_model != model:
                continue
            fault = study_rows_fault(connection, study.study_id) if store.has_checksums else None
            if fault is not None:
                raise DamageError(
                    f"the study {study.name} in {store.describe()} is damaged: {fault}; expected"
                    " what a search wrote: run the same search again, which makes it again from the"
                    " scores that are kept"
                )
            count = count_states(connection, study.study_id)
            prices = _parsed(kept_attribute(connection, study.study_id, PRICES))
            found.append(
                KeptStudy(
                    name=study.name,
                    settings=None if kept is None else _read_settings(study.name, kept),
                    finished=count[TrialState.COMPLETE.name],
                    stopped=count[TrialState.PRUNED.name],
                    baselines=count_baselines(connection, study.study_id),
                    prices=None
                    if prices is None
                    else KeptPrices.from_json(prices, study=study.name),
                    is_continued=json.dumps(study.name) in continued,
                )
            )
    return found


def find_prices(store: Store, model: str) -> list[KeptPrices]:
    """The measured prices of a model's studies in a database, oldest first.

    Studies that are not what was written are left out: a search makes them again.
    """
    open_storage(store)
    found = []
    with store.reading() as session:
        connection = session.connection()
        for study in list_studies(connection):
            if study.is_set_aside or not study.is_ours:
                continue
            settings = _parsed(kept_attribute(connection, study.study_id, SETTINGS)) or {}
            prices = _parsed(kept_attribute(connection, study.study_id, PRICES))
            if prices is None or settings.get("model") != model:
                continue
            if store.has_checksums and study_rows_fault(connection, study.study_id) is not None:
                continue
            with suppress(StoreError):
                found.append(KeptPrices.from_json(prices, study=study.name))
    return found


def _parsed(text: object) -> dict[str, Any] | None:
    """Settings as they were kept; None where none were, {} where they cannot be read."""
    if text is None:
        return None
    try:
        found = json.loads(str(text))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _read_settings(study: str, kept: Mapping[str, Any]) -> SearchSettings:
    """Settings as a search kept them; those of later versions have their defaults."""
    try:
        return _SETTINGS.validate_python(kept)
    except ValidationError as error:
        raise StoreError(
            f"the settings of the study {study} cannot be read ({printable(first_fault(error))});"
            " expected those of a search: choose with the version that made it, or run the same"
            " search again, which keeps them anew"
        ) from None


def assume_settings(wanted: Wanted, *, target: str, budget: int) -> SearchSettings:
    """The settings of a study that kept none: what is given, else a search's defaults."""
    given = {"formats": (FormatName.NVFP4,), "target": target} | wanted.given
    return SearchSettings(**given, budget=budget)


def pick_study(
    studies: Sequence[KeptStudy], wanted: Wanted, *, model: str, database: Storage | str
) -> KeptStudy:
    """The one study that is wanted.

    Raises:
        StoreError: none or several fit, and the message lists what there is; or the one that does
            has no finished trial.
    """
    if not studies:
        raise StoreError(
            f"{database} holds no study of {model}; expected at least one: run `sensitivity search`"
            f" on {model} first, or name the `storage` of its search"
        )
    fitting = [study for study in studies if study.is_wanted(wanted)]
    if len(fitting) == 1:
        if not fitting[0].finished:
            raise StoreError(
                f"the study {fitting[0].name} has no finished trial; expected at least one: run the"
                " same search again, it goes on"
            )
        return fitting[0]
    asked = " ".join(
        [f"`study` {wanted.name}"] * (wanted.name is not None)
        + [describe_settings(wanted.given, in_full=True)] * bool(wanted.given)
    )
    lines = "\n  ".join(study.describe() for study in fitting or studies)
    if not fitting:
        raise StoreError(
            f"no study of {model} in {database} has {asked}; expected one of\n  {lines}\ngive the"
            " settings of one of them, or its `study` NAME"
        )
    which = f" have {asked}" if asked else ""
    raise StoreError(
        f"{len(fitting)} studies of {model} in {database}{which}; expected one: give"
        f" `study` NAME, or more of its settings\n  {lines}"
    )
