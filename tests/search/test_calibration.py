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
from sensitivity.errors import CalibrationError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.formats.execution import Execution
from sensitivity.formats.switch import Switch
from sensitivity.formats.switchable_linear import SwitchableLinear
from sensitivity.latency import ShapeScale, stand_for
from sensitivity.latency.devices import get_device
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.models.loading import load_pipeline
from sensitivity.search.calibration.stored import calibrate as calibrate_by
from sensitivity.search.calibration.stored import calibration_cost
from sensitivity.search.candidates import Candidates
from sensitivity.search.grouping import make_candidates
from sensitivity.search.store import Store
from sensitivity.spec.loading import load_spec

from support.blackwell import a_blackwell

calibrate = partial(calibrate_by, estimator="output")


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


def test_native_errors_are_kept_apart_from_emulated_ones(
    evaluator: Evaluator,
    candidates: Candidates,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Jobs that run by the kernels of the device are not those that were emulated; local errors,
    which are always emulated, are known whatever draws the pictures.
    """

    def known(estimator: str, *, emulate: bool) -> int:
        evaluator.execution = Execution(device="cpu", emulate=emulate)
        return calibration_cost(
            evaluator, candidates, store, estimator=estimator, states=1, prompts=1
        ).known

    for estimator in ("output", "local"):
        calibrate_by(evaluator, candidates, store, estimator=estimator, states=1, prompts=1)
    with a_blackwell(monkeypatch):
        assert (known("output", emulate=False), known("output", emulate=True)) == (0, 8)
        assert (known("local", emulate=False), known("local", emulate=True)) == (8, 8)


@pytest.mark.parametrize("estimator", ["output", "gradient"])
def test_a_denoiser_of_zeros_cannot_be_calibrated(
    evaluator: Evaluator,
    candidates: Candidates,
    store: Store,
    estimator: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An untrained denoiser, whose last layer is zeros, is named: no error is relative to that."""
    forward = evaluator.loaded.denoiser.forward
    zeros = lambda *args, **kwargs: tuple(0 * x for x in forward(*args, **kwargs))  # noqa: E731
    monkeypatch.setattr(evaluator.loaded.denoiser, "forward", zeros)
    with pytest.raises(CalibrationError, match=r"gives only zeros \(call 0\).* expected a trained"):
        calibrate_by(evaluator, candidates, store, estimator=estimator)


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
