"""The contract of `Estimator`, for all five, on a tiny random FluxPipeline.

Whatever an estimator computes, `calibrate` keeps it, continues it, and leaves the pipeline as it
was. What the numbers are is shown in tests/search.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sensitivity.core.format_name import FormatName
from sensitivity.errors import CalibrationError, MeasurementError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.latency import ShapeScale, stand_for
from sensitivity.latency.devices import get_device
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.models.loading import load_pipeline
from sensitivity.search.calibration.choosing import get_estimator
from sensitivity.search.calibration.jobs import BROKEN, Errors, EstimatorName, jobs_of
from sensitivity.search.calibration.stored import calibrate, calibration_cost
from sensitivity.search.candidates import Candidates
from sensitivity.search.grouping import make_candidates
from sensitivity.search.store import Store
from sensitivity.spec.loading import load_spec

STATES, PROMPTS, STEPS = 2, 3, 2


@pytest.fixture(scope="module")
def evaluator(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evaluator]:
    """One for all tests here: each leaves it as it was."""
    made = Evaluator(
        load_pipeline(load_spec(tiny_study), device="cpu"),
        cache_folder=tmp_path_factory.mktemp("contract") / "references",
    )
    yield made
    made.close()


@pytest.fixture(scope="module")
def candidates(evaluator: Evaluator) -> Candidates:
    """Two groups in two formats: q, k and v of a block, and the last Linear."""
    made = make_candidates(
        stand_for(evaluator.profile(), ShapeScale(factor=evaluator.spec.pricing.stands_for)),
        evaluator.spec,
        formats=(FormatName.MXFP8, FormatName.NVFP4),
        latency=PredictedLatency(get_device("b200")),
    )
    fused = next(group for group in made.groups if len(group.fqns) == 3)
    last = next(group for group in made.groups if group.fqns == ("proj_out",))
    return dataclasses.replace(made, groups=(fused, last))


@pytest.fixture(params=list(EstimatorName), scope="module")
def name(request: pytest.FixtureRequest) -> EstimatorName:
    """Each estimator."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty database."""
    with Store.open(tmp_path / "study.db") as opened:
        yield opened


@pytest.fixture(scope="module")
def whole(
    evaluator: Evaluator,
    candidates: Candidates,
    name: EstimatorName,
    tmp_path_factory: pytest.TempPathFactory,
) -> Errors:
    """The errors of one uninterrupted calibration."""
    with Store.open(tmp_path_factory.mktemp("whole") / "study.db") as store:
        return calibrate(evaluator, candidates, store, estimator=name)


@contextmanager
def counting(evaluator: Evaluator) -> Iterator[list[int]]:
    """The pictures of each real forward of the denoiser inside: calls of its first Linear."""
    calls: list[int] = []
    handle = evaluator.loaded.denoiser.x_embedder.register_forward_pre_hook(
        lambda _module, args: calls.append(len(args[0]))
    )
    yield calls
    handle.remove()


def is_untouched(evaluator: Evaluator) -> bool:
    """Whether no hook, format, gradient or replaced method is on the pipeline."""
    denoiser: nn.Module = evaluator.loaded.denoiser
    return not (
        any(module._forward_hooks or "forward" in vars(module) for module in denoiser.modules())
        or any(linear.active is not None for linear in evaluator.switch.linears.values())
        or any(parameter.grad is not None for parameter in denoiser.parameters())
        or "step" in vars(evaluator.loaded.pipe.scheduler)
        or denoiser.is_gradient_checkpointing
    )


def test_each_job_has_a_finite_error(whole: Errors, candidates: Candidates) -> None:
    """Every group and format has an error above 0; four bits have larger ones than eight."""
    assert whole.keys() == jobs_of(candidates).keys()
    assert all(0 < error < BROKEN for error in whole.values())
    assert all(whole[g, 1] < whole[g, 2] for g in range(len(candidates.groups)))


def test_what_is_known_costs_nothing(
    evaluator: Evaluator, candidates: Candidates, store: Store, name: EstimatorName, whole: Errors
) -> None:
    """The cost that is said beforehand bounds the denoiser calls; a second calibration makes none,
    and another estimator's errors are not taken for these.
    """
    other = next(each for each in EstimatorName if each is not name)
    cost = calibration_cost(evaluator, candidates, store, estimator=name)
    progress: list[tuple[int, int]] = []
    with counting(evaluator) as pictures:
        first = calibrate(
            evaluator,
            candidates,
            store,
            estimator=name,
            progress=lambda done, total: progress.append((done, total)),
        )
        assert PROMPTS * STEPS < sum(pictures) <= cost.picture_calls
        pictures.clear()
        assert calibrate(evaluator, candidates, store, estimator=name) == first == whole
        assert not pictures
    total = progress[-1][1]
    assert progress == [(i, total) for i in range(1, total + 1)]
    known = calibration_cost(evaluator, candidates, store, estimator=name)
    assert (known.known, known.picture_calls, known.decodes) == (known.jobs, 0, 0)
    assert (cost.numbers, known.numbers) == (0, total)
    assert calibration_cost(evaluator, candidates, store, estimator=other).known == 0


def test_an_interrupted_calibration_continues(
    evaluator: Evaluator, candidates: Candidates, store: Store, name: EstimatorName, whole: Errors
) -> None:
    """What was computed before Ctrl-C is kept; the rest follows, with the errors of one run."""

    def interrupt(done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(evaluator, candidates, store, estimator=name, progress=interrupt)
    assert is_untouched(evaluator)
    assert sum(map(len, store.find_calibrations().values())) == 3
    assert calibrate(evaluator, candidates, store, estimator=name) == whole
    assert is_untouched(evaluator)


def test_an_output_that_is_nan_is_broken(
    tiny_study: Path,
    tmp_path: Path,
    candidates: Candidates,
    store: Store,
    name: EstimatorName,
) -> None:
    """NVFP4 divides by zero where an input is all zeros: the error of that group is the largest
    there is, and the calibration goes on.
    """
    evaluator = Evaluator(
        load_pipeline(load_spec(tiny_study), device="cpu"), cache_folder=tmp_path / "references"
    )
    linears = evaluator.switch.linears
    modulation, last = linears["norm_out.linear"], linears["proj_out"]
    modulation.weight.data.zero_()
    modulation.bias.data.zero_()
    modulation.bias.data[: last.in_features] = -1.0  # the input of proj_out is 0 * norm(x) + 0
    last.bias.data.fill_(1.0)
    found = calibrate(evaluator, candidates, store, estimator=name, states=1, prompts=1)
    evaluator.close()
    assert found[1, 2] == BROKEN
    assert all(error < BROKEN for place, error in found.items() if place != (1, 2))


def test_a_bf16_run_that_is_nan_is_an_error(
    evaluator: Evaluator, candidates: Candidates, store: Store, name: EstimatorName
) -> None:
    """Nothing is computed against NaN, nothing is kept, and nothing is left behind."""
    bias = evaluator.loaded.denoiser.proj_out.bias
    before = bias.clone()
    bias.data.fill_(float("nan"))
    try:
        with pytest.raises(MeasurementError, match="bf16 denoiser gave NaN or inf"):
            calibrate(evaluator, candidates, store, estimator=name)
    finally:
        bias.data.copy_(before)
    assert is_untouched(evaluator)
    assert not store.find_calibrations()


@pytest.mark.parametrize(
    ("generate", "error", "words"),
    [
        (RuntimeError("out of memory"), RuntimeError, "out of memory"),
        (None, MeasurementError, "never called its denoiser"),
    ],
    ids=["fails", "calls no denoiser"],
)
def test_a_pipeline_that_does_not_run_is_an_error(
    evaluator: Evaluator,
    candidates: Candidates,
    store: Store,
    name: EstimatorName,
    monkeypatch: pytest.MonkeyPatch,
    generate: Exception | None,
    error: type[Exception],
    words: str,
) -> None:
    """An error of the run passes on; a run without a denoiser call is named as such."""

    def fake(*_: Any, **__: Any) -> None:
        if generate is not None:
            raise generate

    monkeypatch.setattr(evaluator.media_generator, "generate", fake)
    with pytest.raises(error, match=words):
        calibrate(evaluator, candidates, store, estimator=name)
    assert is_untouched(evaluator)


def test_a_denoiser_without_a_tensor_is_refused(
    evaluator: Evaluator, candidates: Candidates, store: Store, name: EstimatorName
) -> None:
    """An output whose first item is no tensor is named."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator.loaded.denoiser, "forward", lambda *_, **__: ("no picture",))
        with pytest.raises(CalibrationError, match="no tensor"):
            calibrate(evaluator, candidates, store, estimator=name)
    vars(evaluator.loaded.denoiser).pop("forward", None)  # the patch puts back a bound method
    assert is_untouched(evaluator)


def test_the_instance_of_a_name_has_that_name(name: EstimatorName) -> None:
    """`get_estimator` gives one instance for each name, and it says what it computes."""
    estimator = get_estimator(str(name))
    assert estimator is get_estimator(name)
    assert estimator.name is name
    assert estimator.quantity
    assert estimator.picture_calls([], states=STATES) == 0
    assert estimator.decodes([], states=STATES) == 0
    quantities = {get_estimator(each).quantity for each in EstimatorName}
    assert len(quantities) == len(EstimatorName)


def test_gradients_are_off_afterwards(evaluator: Evaluator, whole: Errors) -> None:
    """No parameter asks for gradients, and torch's own setting is the one from before."""
    assert whole
    assert not any(p.requires_grad for p in evaluator.loaded.denoiser.parameters())
    assert torch.is_grad_enabled()
