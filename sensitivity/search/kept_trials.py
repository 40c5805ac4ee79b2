"""How is one trial kept among Optuna's? `finished_trial`, `failed_trial`, and back: `read_tried`.

A scored trial is complete, with seconds and typical damage as its values; a stopped one is pruned,
without values; one that failed is failed, with the reason. What else there is to know are user
attributes: the whole choice is one of them, as JSON, and no parameter is kept. What a sampler wants
to find again (`Proposal.state`) are system attributes.

    trial = finished_trial(scored, state={})        # optuna's FrozenTrial, in no study yet
    read_tried(trial, candidates)                   # the same ScoredTrial

The index is added by the transaction that adds the trial (`search.study_log`). Earlier versions
kept parameters for Optuna's samplers, and trials that were interrupted.
"""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, Json, TypeAdapter, ValidationError

from sensitivity.core.words import first_line
from sensitivity.errors import FormatError, StoreError
from sensitivity.fidelity.score import Score
from sensitivity.search.candidates import Candidates, Choice
from sensitivity.search.proposers import ASKED, State
from sensitivity.search.stopping import Stop
from sensitivity.search.trials import ScoredTrial, StoppedTrial, Tried

TRIED = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of trials that were scored or stopped."""
INTERRUPTED = "interrupted"
"""The reason of a trial of an earlier version that was cut by something else than itself."""
_CHOICE = TypeAdapter(Json[tuple[int, ...]])
_NO_STATE = ("dashboard:", "artifacts:", "fixed_params")
"""How system attributes begin that no sampler set."""


class _Kept(BaseModel):
    """The user attributes of a scored or stopped trial; others are ignored."""

    model_config = ConfigDict(frozen=True)

    index: int
    choice: Json[tuple[int, ...]]
    seconds: float
    label: str = ""
    score: Json[dict[str, Any]] | None = None
    stopped: Stop | None = None


def finished_trial(
    tried: Tried, *, state: State, compiled_graphs: int | None = None
) -> FrozenTrial:
    """A scored or stopped trial, without its index.

    Args:
        tried: the trial.
        state: of its proposal.
        compiled_graphs: how many graphs were compiled for it; None is not kept.
    """
    attributes: dict[str, Any] = {
        "choice": json.dumps(tried.choice),
        "label": tried.label,
        "seconds": tried.seconds,
    }
    if compiled_graphs is not None:
        attributes["compiled_graphs"] = compiled_graphs
    if isinstance(tried, StoppedTrial):
        attributes["stopped"] = tried.stop.to_json()
        return _trial(TrialState.PRUNED, attributes, tried.seconds, state=state)
    attributes["score"] = json.dumps(tried.score.to_json())
    values = [tried.latency_s, tried.score.cost]
    return _trial(TrialState.COMPLETE, attributes, tried.seconds, values, state)


def failed_trial(choice: Choice, reason: str, seconds: float = 0.0) -> FrozenTrial:
    """A trial that failed for a reason of its own."""
    attributes = {"choice": json.dumps(choice), "reason": reason}
    return _trial(TrialState.FAIL, attributes, seconds)


def _trial(
    how: TrialState,
    attributes: Mapping[str, Any],
    seconds: float,
    values: Sequence[float] | None = None,
    state: State | None = None,
) -> FrozenTrial:
    now = datetime.now()
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=how,
        value=None,
        values=values,
        datetime_start=now - timedelta(seconds=seconds),
        datetime_complete=now,
        params={},
        distributions={},
        user_attrs=dict(attributes),
        system_attrs=dict(state or {}),
        intermediate_values={},
    )


def has_place(trial: FrozenTrial) -> bool:
    """Whether a trial was scored or stopped by a search."""
    return trial.state in TRIED and "index" in trial.user_attrs


def read_tried(trial: FrozenTrial, candidates: Candidates) -> Tried:
    """The trial that was kept; proposals have no number yet.

    Raises ValueError, which says what cannot be read.
    """
    try:
        kept = _Kept.model_validate(trial.user_attrs)
        latency_s = candidates.latency_s(kept.choice)
        common: dict[str, Any] = {
            "index": kept.index,
            "choice": kept.choice,
            "seconds": kept.seconds,
            "policy": candidates.decode(kept.choice).policy,
        }
        if kept.stopped is not None:
            return StoppedTrial(**common, latency_s=latency_s, stop=kept.stopped)
        score = Score.from_json(kept.score or {})
        _check_values(trial.values, latency_s, score)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None
    except (StoreError, FormatError) as error:
        raise ValueError(first_line(error)) from None
    return ScoredTrial(
        **common,
        label=kept.label,
        latency_s=trial.values[0],
        score=score,
        memory_bytes=candidates.memory_bytes(kept.choice),
    )


def read_failed(trial: FrozenTrial) -> tuple[Choice, str] | None:
    """(choice, reason) of a trial that failed; None where it only repeated another one, or was
    interrupted, as earlier versions kept.
    """
    reason = str(trial.user_attrs.get("reason", ""))
    if "choice" not in trial.user_attrs or reason == INTERRUPTED:
        return None
    return _CHOICE.validate_python(trial.user_attrs["choice"]), reason


def read_state(trial: FrozenTrial, choice: Choice, candidates: Candidates) -> State:
    """What a sampler noted of its trial."""
    state = {
        key: value for key, value in trial.system_attrs.items() if not key.startswith(_NO_STATE)
    }
    if trial.params:
        asked = [trial.params.get(group.name, 0) for group in candidates.groups]
        if asked != list(choice):
            state[ASKED] = asked
    return state


def _check_values(values: Sequence[float] | None, latency_s: float, score: Score) -> None:
    """Raise ValueError where the values that Optuna has are not those of choice and score. Earlier
    versions kept the mean damage.
    """
    if not all(math.isfinite(number) for number in (score.mean, *score.per_prompt)):
        raise ValueError("its score is NaN or inf")
    expected, earlier = [latency_s, score.cost], [latency_s, score.damage * score.penalty]
    if values is None or not any(
        len(values) == 2 and all(map(_alike, values, known)) for known in (expected, earlier)
    ):
        raise ValueError(f"its values are {values}, those of its choice and score {expected}")


def _alike(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)


def first_fault(error: ValidationError) -> str:
    """The first field of a record that pydantic refused, and why."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
