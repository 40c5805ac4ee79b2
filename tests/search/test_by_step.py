"""Shares of the damage by part of a run: by hand from errors, and rollouts by plain diffusers."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sensitivity.core.format_name import FormatName
from sensitivity.core.step_policy import PLAIN, EdgeMode, StepPolicy
from sensitivity.errors import CalibrationError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.formats.switch import Switch
from sensitivity.latency.pricer import at_priced_scale, latency_model
from sensitivity.latency.step_mix import steps_of
from sensitivity.models.loading import load_pipeline
from sensitivity.search.calibration import by_step
from sensitivity.search.calibration.by_step import (
    POWER,
    Run,
    calibrate_steps,
    runs_of,
    step_cost,
    steps_of_runs,
    table_of,
)
from sensitivity.search.calibration.jobs import BROKEN, Job
from sensitivity.search.candidates import Candidates, Group
from sensitivity.search.grouping import make_candidates
from sensitivity.search.store import Store
from sensitivity.spec.loading import load_spec

BF16, MXFP8, NVFP4 = FormatName.BF16, FormatName.MXFP8, FormatName.NVFP4
FIRST, BOTH = StepPolicy(first_steps=1), StepPolicy(first_steps=2, last_steps=1)
TOY = Candidates(
    formats=(BF16, MXFP8, NVFP4),
    groups=tuple(
        Group(name=fqn, fqns=(fqn,), members=((), (fqn,), (fqn,)), gains_s=(0.0, 1.0, 2.0))
        for fqn in ("a", "b")
    ),
    fixed={},
    refused={},
    fqns=("a", "b"),
    rule_of_thumb=(0, 0, 0),
    bf16_s=9.0,
    policies=(PLAIN, FIRST, BOTH),
    steps=6,
)


def job(name: FormatName) -> Job:
    return Job(fqns=("a", "b"), format=name)


def test_each_part_is_run_once_with_everything_quantized() -> None:
    """Parts are cut where the policies cut; only the last format is run, and A16 edges ask for the
    weights alone, of each format; the plain policy asks for nothing.
    """
    parts = [Run(job(NVFP4), *part) for part in ((0, 1), (1, 2), (2, 5), (5, 6))]
    assert runs_of(TOY) == parts
    assert steps_of_runs(TOY) == 6 + 6 + 5 + 4 + 1
    in_a16 = tuple(dataclasses.replace(own, mode=EdgeMode.A16) for own in (FIRST, BOTH))
    found = runs_of(dataclasses.replace(TOY, policies=(PLAIN, *in_a16)))
    whole = [Run(job(own), 0, 6) for own in (MXFP8, MXFP8.weight_only, NVFP4, NVFP4.weight_only)]
    assert found == parts + whole
    assert runs_of(dataclasses.replace(TOY, policies=(PLAIN,))) == []


def test_errors_that_add_as_powers_give_what_policies_leave() -> None:
    """In a model whose damage is error ** POWER and adds up over steps, the table has the truth."""
    by_hand = dict(zip(runs_of(TOY), (0.4, 0.3, 0.1, 0.2), strict=True))
    table = table_of(TOY, by_hand)
    total = sum(error**POWER for error in by_hand.values())
    for item in ((0, 1), (0, 2), (1, 2)):
        assert table.weight(item, PLAIN) == 1.0
        assert table.weight(item, FIRST) == pytest.approx(1 - 0.4**POWER / total)
        assert table.weight(item, BOTH) == pytest.approx(0.1**POWER / total)


def test_what_weights_alone_do_is_left_of_a16_edges() -> None:
    """The ratio of both errors, to the power, is the part of an edge step's damage that stays."""
    policies = (PLAIN, StepPolicy(first_steps=3, mode=EdgeMode.A16))
    candidates = dataclasses.replace(TOY, policies=policies)
    errors = dict.fromkeys(runs_of(candidates), 0.2)
    errors |= {Run(job(own.weight_only), 0, 6): 0.1 for own in (MXFP8, NVFP4)}
    table = table_of(candidates, errors)
    assert table.weight((0, 2), policies[1]) == pytest.approx(0.5 + 0.5 * 0.5**POWER)


@pytest.mark.parametrize("errors", [(0.0, 0.0, 0.0, 0.0), (0.1, BROKEN, 0.1, 0.1)])
def test_parts_that_cannot_be_compared(errors: tuple[float, ...]) -> None:
    """No error anywhere, or NaN in a part, is said."""
    with pytest.raises(CalibrationError, match="cannot be compared"):
        table_of(TOY, dict(zip(runs_of(TOY), errors, strict=True)))


def test_rollouts_are_those_of_plain_diffusers(
    evaluator: Evaluator, store: Store, tiny_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shares follow from |latents - bf16's| / |bf16's| at the end of runs that diffusers' own
    callback quantizes in one part. All is kept: the second time nothing is run.
    """
    monkeypatch.setattr(by_step, "PROMPTS", 2)
    table = at_priced_scale(evaluator.profile(), evaluator.spec)
    steps = steps_of(table)
    policies = (PLAIN, StepPolicy(first_steps=1), StepPolicy(last_steps=1))
    candidates = make_candidates(
        table,
        evaluator.spec,
        formats=(NVFP4,),
        latency=latency_model(evaluator.spec, None),
        policies=policies,
        steps=steps,
    )
    assert step_cost(evaluator, candidates, store) == 2 * steps_of_runs(candidates)
    found = calibrate_steps(evaluator, candidates, store)
    assert found is not None
    other = load_pipeline(load_spec(tiny_study), device="cpu")
    texts = list(other.spec.prompts.search)[:2]
    formats = {fqn: NVFP4 for group in candidates.groups for fqn in group.members[1]}

    def run(start: int, stop: int) -> Tensor:
        def at(step: int) -> None:
            switch.set(formats if start <= step < stop else {})

        def after(_pipe: object, step: int, _time: object, kept: dict[str, Tensor]) -> object:
            at(step + 1)
            return kept

        at(0)
        with torch.no_grad():
            return (
                other.pipe(
                    prompt=texts,
                    generator=[torch.Generator().manual_seed(seed) for seed in range(2)],
                    callback_on_step_end=after,
                    **{**other.spec.settings, "output_type": "latent"},
                )
                .images.double()
                .flatten(1)
            )

    with Switch(other.denoiser) as switch:
        clean = run(0, 0)
        ratios = [(run(*part) - clean).norm(dim=1) / clean.norm(dim=1) for part in found.parts]
    powers = [float(ratio.prod().sqrt()) ** POWER for ratio in ratios]
    expected = [power / sum(powers) for power in powers]
    assert next(iter(found.shares.values())) == pytest.approx(expected, rel=1e-3)
    assert step_cost(evaluator, candidates, store) == 0
    monkeypatch.setattr(by_step, "Bf16Path", None)
    assert calibrate_steps(evaluator, candidates, store) == found
