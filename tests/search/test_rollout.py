"""A rollout's error is that of a run by plain diffusers, and the default falls back where no step
can be seen.
"""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sensitivity.core.format_name import FormatName
from sensitivity.errors import CalibrationError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.formats.switch import Switch
from sensitivity.latency import ShapeScale, stand_for
from sensitivity.latency.devices import get_device
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.latency.pricer import latency_model
from sensitivity.models.generating import MediaGenerator
from sensitivity.models.loading import load_pipeline
from sensitivity.search.calibration import choosing, rollout
from sensitivity.search.calibration.choosing import MOST_TRIALS, RunSize, choose_estimator
from sensitivity.search.calibration.jobs import EstimatorName, Job
from sensitivity.search.calibration.stored import calibrate, calibration_cost
from sensitivity.search.candidates import Candidates
from sensitivity.search.grouping import make_candidates
from sensitivity.search.store import Store
from sensitivity.spec.loading import load_spec

NVFP4 = FormatName.NVFP4


@pytest.fixture
def candidates(evaluator: Evaluator) -> Candidates:
    """Three groups of the tiny pipeline in NVFP4."""
    table = stand_for(evaluator.profile(), ShapeScale(factor=16))
    made = make_candidates(
        table, evaluator.spec, formats=(NVFP4,), latency=PredictedLatency(get_device("b200"))
    )
    return dataclasses.replace(made, groups=made.groups[::12][:3])


@pytest.fixture
def rollout_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default outside tests."""
    monkeypatch.setattr(choosing, "DEFAULT", EstimatorName.ROLLOUT)


@pytest.mark.parametrize("steps", [1, 2])
def test_errors_are_those_of_runs_by_plain_diffusers(
    evaluator: Evaluator, candidates: Candidates, store: Store, tiny_study: Path, steps: int
) -> None:
    """Each error is the geometric mean over two prompts of |latents - bf16's| / |bf16's| after the
    steps, in diffusers' own callback; half of the steps and two prompts are the default.
    """
    how: dict[str, Any] = {} if steps == 1 else {"states": 2, "prompts": 2}
    found = calibrate(evaluator, candidates, store, estimator="rollout", **how)
    other = load_pipeline(load_spec(tiny_study), device="cpu")
    texts = list(other.spec.prompts.search)[:2]

    def run() -> Tensor:
        seen: list[Tensor] = []
        with torch.no_grad():
            other.pipe(
                prompt=texts,
                generator=[torch.Generator().manual_seed(seed) for seed in range(2)],
                callback_on_step_end=lambda _p, _i, _t, kw: seen.append(kw["latents"]) or kw,
                **{**other.spec.settings, "output_type": "latent"},
            )
        return seen[steps - 1].double().flatten(1)

    clean = run()
    with Switch(other.denoiser) as switch:
        for g, group in enumerate(candidates.groups):
            switch.set(dict.fromkeys(group.members[1], NVFP4))
            ratios = (run() - clean).norm(dim=1) / clean.norm(dim=1)
            assert found[g, 1] == pytest.approx(float(ratios.prod().sqrt()), rel=1e-4)
    assert found.keys() == {(0, 1), (1, 1), (2, 1)}
    assert min(found.values()) > 0


def test_a_rollout_hears_the_sound(
    make_clip_evaluator: Callable[..., Evaluator], store: Store
) -> None:
    """The last Linear of the sound changes no latents of the frames in one step, and has an error
    as the last one of the frames has.
    """
    evaluator = make_clip_evaluator(pricing={"stands_for": 1})
    made = make_candidates(
        evaluator.profile(),
        evaluator.spec,
        formats=(NVFP4,),
        latency=latency_model(evaluator.spec, None),
        granularity="layer",
    )
    last = tuple(g for g in made.groups if g.fqns in (("audio_proj_out",), ("proj_out",)))
    found = dataclasses.replace(made, groups=last)
    errors = calibrate(evaluator, found, store, estimator="rollout", prompts=1)
    assert len(errors) == 2
    assert all(0.01 < error < 0.3 for error in errors.values())


@pytest.mark.usefixtures("rollout_by_default")
def test_the_default_falls_back_where_steps_cannot_be_seen(
    evaluator: Evaluator,
    candidates: Candidates,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A pipeline that is known to hide its steps is calibrated by the fallback from the start, one
    that turns out to after a warning; who asks for a rollout by name is refused.
    """

    def unseen(generator: MediaGenerator, *prompts: Any, **_options: Any) -> int:
        generator.generate(*prompts, batch_size=2)
        return 0

    assert calibration_cost(evaluator, candidates, store).estimator == "rollout"
    gradient = calibrate(evaluator, candidates, store, estimator="gradient")
    with monkeypatch.context() as patch:
        patch.setattr(rollout, "run_steps", unseen)
        with pytest.raises(CalibrationError, match=r"without a step that can be seen; .* gradient"):
            calibrate(evaluator, candidates, store, estimator="rollout")
        with caplog.at_level(logging.WARNING):
            assert calibrate(evaluator, candidates, store) == gradient
    assert "by gradient, not rollout: the FluxPipeline ended without a step" in caplog.text
    monkeypatch.setattr(rollout, "refusal", lambda _pipe: "no steps")
    cost = calibration_cost(evaluator, candidates, store)
    assert (cost.estimator, cost.states, cost.prompts, cost.known) == ("gradient", 2, 3, 3)


@pytest.mark.usefixtures("rollout_by_default")
def test_the_default_is_what_many_groups_can_afford() -> None:
    """At 2 prompts of 16 and 14 steps of 28 a job costs 1/16 trial: 200 jobs cost 12.5 trials, and
    for more the gradient is taken.
    """
    run = RunSize(steps=28, denoisers=1, prompts=16)
    jobs = [Job(fqns=(f"blocks.{i}",), format=NVFP4) for i in range(int(MOST_TRIALS * 16) + 1)]
    assert choose_estimator(jobs[:-1], run=run).name == "rollout"
    assert choose_estimator(jobs, run=run).name == "gradient"
    assert choose_estimator(jobs[:1], run=run, pipe=object()).name == "gradient"
    two = dataclasses.replace(run, denoisers=2)  # each has half of the steps
    assert choose_estimator(jobs, run=two).name == "rollout"
