"""What a search keeps as JSON, in its store and in its Optuna study, comes back with all fields."""

from pathlib import Path

import optuna
import pytest

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName
from sensitivity.core.step_policy import EdgeMode
from sensitivity.errors import StoreError
from sensitivity.fidelity.score import JudgeValues, MetricValues, Score
from sensitivity.latency.shape_times import ShapeTime
from sensitivity.search.candidates import Candidates, Group
from sensitivity.search.finished import KeptStudy, list_optuna_studies
from sensitivity.search.log import StudyLog, open_log
from sensitivity.search.proposers import SamplerName
from sensitivity.search.settings import SearchSettings
from sensitivity.search.stopping import Stop
from sensitivity.search.store import Store
from sensitivity.search.trials import ScoredTrial, StoppedTrial

from contracts.round_trip import assert_all_fields_set

TIMES = MetricValues(per_prompt=(0.1 + 0.2, 5e-324), noise_floor=1 / 3)
SCORE = Score(
    net="vgg",
    mean=0.1 + 0.2,
    per_prompt=(0.1, 0.5),
    noise_floor=1 / 7,
    per_frame=((0.1, 0.3), (0.5,)),
    motion=TIMES,
    detail_db=TIMES,
    audio=TIMES,
    latent=TIMES,
    audio_weight=0.25,
    max_audio_distance=0.75,
    judges={
        "text": JudgeValues(
            per_prompt=(1 / 3,),
            noise_floor=0.5,
            higher_is_better=True,
            unit="dB",
            prompts=(1,),
            made_by="a reader 1.0",
        )
    },
)
STOP = Stop(prompts=3, share=3 / 8, rival=1, p_value=1e-300, estimate=2 / 3)
SETTINGS = SearchSettings(
    formats=(FormatName.MXFP8, FormatName.NVFP4),
    target="b200",
    budget=5,
    seed=2,
    sampler=SamplerName("optuna.samplers:RandomSampler"),
    granularity="layer",
    calibrated=False,
    arithmetic=Arithmetic.COMPILED,
    emulate=True,
    latency="measured",
    runtime="torchao-step-graph",
    objective="mine:distance",
    consumers=("torchao",),
    edge_steps=EdgeMode.A16,
    first_steps=(0, 2),
    last_steps=(1,),
)
ERRORS = {(0, 1): 0.1 + 0.2, (0, 2): 1e-300, (1, 1): 10.0}
CANDIDATES = Candidates(
    formats=(FormatName.BF16, FormatName.NVFP4),
    groups=tuple(
        Group(name=f"x[{g}]", fqns=(f"x.{g}",), members=((), (f"x.{g}",)), gains_s=(0.0, 0.3))
        for g in range(2)
    ),
    fixed={},
    refused={},
    fqns=("x.0", "x.1"),
    rule_of_thumb=(1, 0),
    bf16_s=2.0,
)
NAME = "tiny-mxfp8+nvfp4-b200-0123abcd"
COMPUTED = {
    f"ScoredTrial.{field}"
    for field in ("estimate", "expected_mean", "index", "memory_bytes", "number", "policy")
} | {"StoppedTrial.policy"}
"""What follows from a trial's place, its choice and from all trials, and is not kept."""


def opened(store: Store) -> StudyLog:
    """The log of one study, made or opened again."""
    kept = {
        "model": "tiny",
        **{field: getattr(SETTINGS, field) for field in SETTINGS.__dataclass_fields__},
    }
    return open_log(store, NAME, CANDIDATES, kept)


def test_a_score_in_the_store(tmp_path: Path) -> None:
    """Every field of a score comes back to the last bit, also those of sound and of frames."""
    assert_all_fields_set(SCORE)
    with Store.open(tmp_path / "s.db") as store:
        store.save_score("e", "a", SCORE, seconds=1.5)
    with Store.open(tmp_path / "s.db") as store:
        assert store.find_score("e", "a") == SCORE


def test_times_of_a_shape_in_the_store(tmp_path: Path) -> None:
    """Every field of a shape's times comes back."""
    row = ShapeTime(
        key="nvfp4:128x64x32",
        us=(0.1 + 0.2, 1.0),
        rested_us=(2 / 3,),
        producer_us=(0.5,),
        reason="none",
        copies=3,
    )
    assert_all_fields_set(row)
    with Store.open(tmp_path / "s.db") as store:
        store.save_shape_time({"gpu": "b200"}, "default", row.key, row.to_json())
    with Store.open(tmp_path / "s.db") as store:
        (kept,) = store.find_shape_times({"gpu": "b200"}, "default").values()
    assert ShapeTime.from_json(kept) == row


def test_trials_in_the_study(tmp_path: Path) -> None:
    """A scored and a stopped trial come back as they were, and in order."""
    scored = ScoredTrial(
        index=0, choice=(1, 0), label="rule of thumb", latency_s=1.7, score=SCORE, seconds=0.1 + 0.2
    )
    stopped = StoppedTrial(
        index=1,
        number=1,
        choice=(0, 1),
        latency_s=CANDIDATES.latency_s((0, 1)),
        stop=STOP,
        seconds=2 / 3,
    )
    assert_all_fields_set(scored, only_value=COMPUTED)
    assert_all_fields_set(stopped, only_value=COMPUTED)
    state = {"NSGAIISampler:generation": 3, "sensitivity:asked": [2, 1]}
    with Store.open(tmp_path / "s.db") as store:
        log = opened(store)
        log.finish(scored)
        log.finish(stopped, state=state)
    with Store.open(tmp_path / "s.db") as store:
        log = opened(store)
        assert log.history() == [scored, stopped]
        assert [obs.state for obs in log.observations] == [{}, state]


def test_layer_sensitivities_in_the_study(tmp_path: Path) -> None:
    """They come back with their keys; a search without calibration has none."""
    with Store.open(tmp_path / "s.db") as store:
        log = opened(store)
        assert log.errors() is None
        log.keep_errors(ERRORS)
        assert log.errors() == ERRORS
        log.keep_errors(None)
        assert log.errors() is None


def test_settings_in_the_study(tmp_path: Path) -> None:
    """The settings of a search come back, each with its own type."""
    assert_all_fields_set(SETTINGS)
    with Store.open(tmp_path / "s.db") as store:
        opened(store)
        (study,) = list_optuna_studies(store, "tiny")
    assert study == KeptStudy(name=NAME, settings=SETTINGS, finished=0)
    assert study.settings is not None
    assert isinstance(study.settings.sampler, SamplerName)
    assert all(isinstance(name, FormatName) for name in study.settings.formats)


def test_a_damaged_trial_is_refused_with_its_number(tmp_path: Path) -> None:
    """The message names the trial, the field and the next step."""
    with Store.open(tmp_path / "s.db") as store:
        log = opened(store)
        trial = log.study.ask()  # as an earlier version, and anybody else
        for key, value in {"index": 0, "choice": "[1, ", "seconds": 1.0}.items():
            trial.set_user_attr(key, value)
        log.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        with pytest.raises(StoreError, match=r"trial 0 of the study tiny-.*choice: .*name another"):
            log.history()


def test_damaged_settings_are_refused(tmp_path: Path) -> None:
    """The message names the study and the field."""
    with Store.open(tmp_path / "s.db") as store:
        opened(store).study.set_user_attr(
            "settings", {"model": "tiny", "formats": ["nvfp4"], "target": "b200", "budget": "many"}
        )
        with pytest.raises(StoreError, match=r"settings of the study tiny-.*budget: "):
            list_optuna_studies(store, "tiny")
