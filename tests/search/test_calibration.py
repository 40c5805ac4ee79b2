"""Layer sensitivities by leave-one-in are what a direct computation gives, are kept as they are
made, and leave nothing behind.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sensitivity.core.format_name import FormatName
from sensitivity.errors import MeasurementError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.formats.switch import Switch
from sensitivity.formats.switchable_linear import SwitchableLinear
from sensitivity.latency import ShapeScale, stand_for
from sensitivity.latency.devices import get_device
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.models.loading import load_pipeline
from sensitivity.search.calibration import output
from sensitivity.search.calibration.stored import calibrate as calibrate_by
from sensitivity.search.candidates import Candidates
from sensitivity.search.grouping import make_candidates
from sensitivity.search.store import Store
from sensitivity.spec.loading import load_spec

calibrate = partial(calibrate_by, estimator="output")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "study.db") as opened:
        yield opened


@pytest.fixture
def candidates(evaluator: Evaluator) -> Candidates:
    """Four groups of the tiny pipeline, in two formats."""
    table = stand_for(evaluator.profile(), ShapeScale(factor=16))
    made = make_candidates(
        table,
        evaluator.spec,
        formats=(FormatName.MXFP8, FormatName.NVFP4),
        latency=PredictedLatency(get_device("b200")),
    )
    return dataclasses.replace(made, groups=made.groups[::7][:4])


@contextmanager
def counting(denoiser: nn.Module) -> Iterator[list[Any]]:
    """The (args, kwargs, output) of each call of the denoiser inside."""
    calls: list[Any] = []
    handle = denoiser.register_forward_hook(
        lambda _m, args, kwargs, out: calls.append((args, dict(kwargs), out[0].clone())),
        with_kwargs=True,
    )
    yield calls
    handle.remove()


def test_errors_are_those_of_a_direct_computation(
    evaluator: Evaluator, candidates: Candidates, store: Store, tiny_study: Path
) -> None:
    """Each error is the relative RMSE of the output with only that group quantized, on the two
    recorded steps of a bf16 run.
    """
    found = calibrate(evaluator, candidates, store)
    other = load_pipeline(
        load_spec(tiny_study), device="cpu"
    )  # its own weights, plain diffusers calls
    texts = list(other.spec.prompts.search)
    with counting(other.denoiser) as calls, torch.no_grad():
        settings = {**other.spec.settings, "output_type": "latent"}
        other.pipe(
            prompt=texts,
            generator=[torch.Generator().manual_seed(seed) for seed in range(len(texts))],
            **settings,
        )
    assert len(calls) == 2
    expected = {}
    with Switch(other.denoiser) as switch, torch.no_grad():
        for g, group in enumerate(candidates.groups):
            for option in (1, 2):
                switch.set(dict.fromkeys(group.members[option], candidates.formats[option]))
                errors = []
                for args, kwargs, clean in calls:
                    out: Tensor = other.denoiser(*args, **kwargs)[0]
                    errors.append(
                        float((out.double() - clean.double()).norm() / clean.double().norm())
                    )
                expected[g, option] = sum(errors) / len(errors)
    assert found.keys() == expected.keys()
    assert len(found) == 8
    for job, error in expected.items():
        assert found[job] == pytest.approx(error, rel=1e-3)
        assert error > 0
    assert all(found[g, 1] < found[g, 2] for g in range(4))  # eight bits hurt less than four


def test_a_known_calibration_asks_the_denoiser_nothing(
    evaluator: Evaluator, candidates: Candidates, store: Store
) -> None:
    """The first time each job costs one call a state, beside the recording; the second time
    everything comes from the store.
    """
    progress: list[tuple[int, int]] = []
    with counting(evaluator.loaded.denoiser) as calls:
        first = calibrate(
            evaluator,
            candidates,
            store,
            progress=lambda done, total: progress.append((done, total)),
        )
        assert len(calls) == 2 + 8 * 2  # two steps recorded; eight jobs on two states
        assert progress == [(i, 8) for i in range(1, 9)]
        assert (
            calibrate(
                evaluator,
                candidates,
                store,
                progress=lambda done, total: progress.append((done, total)),
            )
            == first
        )
        assert len(calls) == 18
    assert len(progress) == 8


def test_an_interrupted_calibration_goes_on(
    evaluator: Evaluator, candidates: Candidates, store: Store
) -> None:
    """What was measured before an interruption is kept; the rest is measured, and the result is the
    same.
    """

    def stop(done: int, _total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(evaluator, candidates, store, progress=stop)
    assert all(linear.active is None for linear in evaluator.switch.linears.values())  # type: ignore[attr-defined]
    with counting(evaluator.loaded.denoiser) as calls:
        resumed = calibrate(evaluator, candidates, store)
        assert len(calls) == 2 + 3 * 2
    with Store.open(store.path.with_name("another.db")) as empty:
        assert calibrate(evaluator, candidates, empty) == resumed


def test_another_number_of_states_is_another_calibration(
    evaluator: Evaluator, candidates: Candidates, store: Store
) -> None:
    """Errors on fewer states or prompts are not taken for those on more."""
    with counting(evaluator.loaded.denoiser) as calls:
        two = calibrate(evaluator, candidates, store)
        before = len(calls)
        one = calibrate(evaluator, candidates, store, states=1)
        assert len(calls) == before + 2 + 8
        assert (
            calibrate(evaluator, candidates, store, states=5) == two
        )  # there are only two steps to record
        assert calibrate(evaluator, candidates, store, prompts=5, states=1) == calibrate(
            evaluator, candidates, store, prompts=3, states=1
        )
        assert len(calls) == before + 10
    assert one != two


def test_nothing_is_left_behind(evaluator: Evaluator, candidates: Candidates, store: Store) -> None:
    """Afterwards the Linears are bf16, the hooks are gone and the pictures are those of before."""
    before = evaluator.generate_pictures({}, "search")
    calibrate(evaluator, candidates, store)
    assert not evaluator.loaded.denoiser._forward_hooks
    assert all(
        type(linear) is SwitchableLinear and linear.active is None
        for linear in evaluator.switch.linears.values()
    )
    assert torch.equal(
        evaluator.media_generator.generate_pictures(*evaluator.prompts("search"), batch_size=3),
        before,
    )


def test_a_bf16_run_that_is_nan_is_an_error(
    evaluator: Evaluator, candidates: Candidates, store: Store
) -> None:
    """Nothing can be measured against NaN; nothing is stored, and no hook stays."""
    evaluator.loaded.denoiser.proj_out.bias.fill_(float("nan"))
    with pytest.raises(MeasurementError, match="bf16 denoiser gave NaN or inf"):
        calibrate(evaluator, candidates, store)
    assert not evaluator.loaded.denoiser._forward_hooks


def test_a_pipeline_that_fails_leaves_no_hook(
    evaluator: Evaluator, candidates: Candidates, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error while states are recorded passes on, without a trace on the denoiser."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(evaluator.media_generator, "generate", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        calibrate(evaluator, candidates, store)
    assert not evaluator.loaded.denoiser._forward_hooks


def test_a_pipeline_without_denoiser_calls_is_an_error(
    evaluator: Evaluator, candidates: Candidates, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the denoiser was never called there is nothing to record, and the message says so."""
    monkeypatch.setattr(evaluator.media_generator, "generate", lambda *_, **__: None)
    with pytest.raises(MeasurementError, match="never called its denoiser"):
        calibrate(evaluator, candidates, store)


def test_a_denoiser_without_tensor_is_an_error(
    evaluator: Evaluator, candidates: Candidates, store: Store
) -> None:
    """An output whose first item is no tensor is named instead of failing inside."""
    handle = evaluator.loaded.denoiser.register_forward_hook(lambda *_: ("no picture",))
    with pytest.raises(MeasurementError, match="no tensor"):
        calibrate(evaluator, candidates, store)
    handle.remove()


def test_a_group_that_gives_nan_is_the_worst_not_the_end(
    evaluator: Evaluator, candidates: Candidates, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An output that is NaN in one format, as zeros give in nvfp4, has a finite error above all
    others, kept like them.
    """
    real = output.first_tensor
    bad = candidates.groups[1].members[2][0]

    def broken(found: Any) -> Tensor:
        tensor = real(found)
        active = evaluator.switch.linears[bad].active
        return (
            tensor * float("nan")
            if active is not None and active[0].name is FormatName.NVFP4
            else tensor
        )

    monkeypatch.setattr(output, "first_tensor", broken)
    found = calibrate(evaluator, candidates, store)
    assert found == calibrate(evaluator, candidates, store)
    assert found[1, 2] < float("inf")
    assert all(error < found[1, 2] / 2 for job, error in found.items() if job != (1, 2))
