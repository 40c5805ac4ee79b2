"""The cheaper estimators are what direct computations give: local errors by hand, gradients on
linear toys, previews by diffusers' own formulas.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from sensitivity.core.format_name import FormatName
from sensitivity.errors import MeasurementError, UserError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.formats.emulation import emulated_linear
from sensitivity.formats.registry import get_format
from sensitivity.formats.switch import Switch
from sensitivity.latency import ShapeScale, stand_for
from sensitivity.latency.devices import get_device
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.models.loading import LoadedPipeline, load_pipeline
from sensitivity.search.calibration import gradient
from sensitivity.search.calibration.jobs import Job
from sensitivity.search.calibration.local import formats_by_linear, local_error
from sensitivity.search.calibration.preview import Replay
from sensitivity.search.calibration.states import State, pick_calls, record_states
from sensitivity.search.calibration.stored import calibrate
from sensitivity.search.candidates import Candidates
from sensitivity.search.grouping import make_candidates
from sensitivity.search.store import Store
from sensitivity.spec.loading import load_spec

MXFP8, NVFP4 = FormatName.MXFP8, FormatName.NVFP4
Made = Callable[..., Candidates]


@pytest.fixture
def candidates(evaluator: Evaluator) -> Candidates:
    """Four groups of the tiny pipeline, one of them q, k and v of a block, in two formats."""
    table = stand_for(evaluator.profile(), ShapeScale(factor=16))
    made = make_candidates(
        table, evaluator.spec, formats=(MXFP8, NVFP4), latency=PredictedLatency(get_device("b200"))
    )
    fused = next(group for group in made.groups if len(group.fqns) == 3)
    return dataclasses.replace(made, groups=(fused, *made.groups[::12][:3]))


@pytest.fixture
def other(tiny_study: Path) -> LoadedPipeline:
    """The same pipeline loaded again: plain diffusers, nothing of ours on it."""
    return load_pipeline(load_spec(tiny_study), device="cpu")


def run_plainly(other: LoadedPipeline, **settings: Any) -> Any:
    """One diffusers call on the three search prompts with their seeds."""
    texts = list(other.spec.prompts.search)
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(texts))]
    with torch.no_grad():
        return other.pipe(prompt=texts, generator=generators, **{**other.spec.settings, **settings})


class TwoLinearsThenRound(nn.Module):
    """y = B(A(x)): a linear map 64 -> 64 -> 32 of each picture, in bf16; A's output error e reaches
    the output as B e, without a remainder.
    """

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 32)
        self.to(torch.bfloat16).requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.b(self.a(x)),)


def state_of(model: nn.Module, x: Tensor, index: int = 0) -> State:
    with torch.no_grad():
        return State(index=index, call=0, args=(x,), kwargs={}, output=model(x)[0])


def jobs(*fqns: str, formats: tuple[FormatName, ...] = (MXFP8, NVFP4)) -> list[Job]:
    return [Job(fqns=(fqn,), format=name) for fqn in fqns for name in formats]


def test_local_errors_are_those_of_each_linear_by_hand(
    evaluator: Evaluator, candidates: Candidates, store: Store, other: LoadedPipeline
) -> None:
    """A Linear's error is the norm of its output's change over that of its output; groups add
    squares over Linears, states average them.
    """
    found = calibrate(evaluator, candidates, store, estimator="local")
    linears = {
        fqn: child for fqn, child in other.denoiser.named_modules() if isinstance(child, nn.Linear)
    }
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for fqn, linear in linears.items():
        linear.register_forward_hook(
            lambda _m, args, out, fqn=fqn: seen.setdefault(fqn, []).append(
                (args[0].clone(), out.clone())
            )
        )
    run_plainly(other, output_type="latent")
    for g, group in enumerate(candidates.groups):
        for option, name in ((1, MXFP8), (2, NVFP4)):
            squares = 0.0
            for fqn in group.fqns:
                linear, fmt = linears[fqn], get_format(name)
                assert len(seen[fqn]) == 2
                for x, y in seen[fqn]:
                    quantized = emulated_linear(
                        x, fmt.quantize_weight(linear.weight), linear.bias, fmt
                    )
                    squares += (
                        float((quantized.double() - y.double()).norm() / y.double().norm()) ** 2 / 2
                    )
            assert found[g, option] == pytest.approx(squares**0.5, rel=2e-3)
    assert len(found) == 8


def test_local_and_gradient_cost_one_pass_a_state(
    evaluator: Evaluator, candidates: Candidates, store: Store
) -> None:
    """Both call the denoiser twice to record and once for each of two states, for all groups and
    formats; known ones call nothing.
    """
    calls: list[int] = []
    evaluator.loaded.denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    for estimator in ("local", "gradient"):
        calls.clear()
        first = calibrate(evaluator, candidates, store, estimator=estimator)
        assert len(calls) == 4
        assert all(error > 0 for error in first.values())
        assert calibrate(evaluator, candidates, store, estimator=estimator) == first
        assert len(calls) == 4


def test_a_gradient_meets_the_error_at_the_output_of_a_linear_map() -> None:
    """For y = B A x the contraction with a vector of signs r is <r, B e> exactly, picture by
    picture, and e itself at the last Linear.
    """
    torch.manual_seed(0)
    model, x = TwoLinearsThenRound(), torch.randn(5, 64).bfloat16()
    state = state_of(model, x, index=3)
    with Switch(model) as switch:
        sums = gradient.contract(model, switch.linears, state, jobs("a", "b"))
    signs = torch.randint(0, 2, (5, 32), generator=torch.Generator().manual_seed(3)).float() * 2 - 1
    for name in (MXFP8, NVFP4):
        at_a = local_error(model.a, x, model.a(x), name) @ model.b.weight.float().T  # (5, 32)
        at_b = local_error(model.b, model.a(x), model.b(model.a(x)), name)
        assert sums["a", name] == [
            pytest.approx(float((signs * at_a).sum(1).square().sum()), rel=0.05)
        ]
        assert sums["b", name] == [
            pytest.approx(float((signs * at_b).sum(1).square().sum()), rel=0.05)
        ]


def test_gradients_estimate_leave_one_in_on_a_linear_map() -> None:
    """Over many pictures the root of the contractions' mean square is the output's change when the
    Linear really is quantized.
    """
    torch.manual_seed(1)
    model, x = TwoLinearsThenRound(), torch.randn(4000, 64).bfloat16()
    state = state_of(model, x)
    with Switch(model) as switch:
        sums = gradient.contract(model, switch.linears, state, jobs("a", "b"))
        for fqn in ("a", "b"):
            for name in (MXFP8, NVFP4):
                switch.set({fqn: name})
                change = (model(x)[0].double() - state.output.double()).norm()
                assert sums[fqn, name][0] ** 0.5 == pytest.approx(
                    float(change), rel=0.08
                )  # sqrt(2 / 4000) / 2 = 1.1 %, and bf16 rounding


def test_pictures_do_not_share_a_gradient_sample() -> None:
    """Contractions are squared picture by picture: two equal pictures give twice one picture's sum
    where their signs are equal.
    """
    torch.manual_seed(2)
    model, x = TwoLinearsThenRound(), torch.randn(1, 7, 64).bfloat16()
    with Switch(model) as switch:
        one = gradient.contract(model, switch.linears, state_of(model, x), jobs("a"))
        whole = torch.cat([x, x])
        signs = torch.randint(0, 2, (1, 7, 32), generator=torch.Generator().manual_seed(0))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "randint", lambda *_args, **_kwargs: torch.cat([signs, signs]))
            two = gradient.contract(
                model, switch.linears, state_of(model, whole), jobs("a", formats=(MXFP8,))
            )
    assert two["a", MXFP8][0] == pytest.approx(2 * one["a", MXFP8][0], rel=0.02)


def test_checkpointing_changes_no_gradient_and_is_turned_off(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A denoiser that can checkpoint does so inside only, and gives the same sums as without."""
    denoiser: Any = evaluator.loaded.denoiser
    state = record_states(evaluator, states=1, prompts=2)[0]
    fqns = (
        "norm_out.linear",
        "transformer_blocks.1.attn.to_q",
        "single_transformer_blocks.0.proj_out",
        "proj_out",
    )
    seen: list[bool] = []
    handle = denoiser.register_forward_pre_hook(
        lambda *_: seen.append(denoiser.is_gradient_checkpointing)
    )
    kept = gradient.contract(denoiser, evaluator.switch.linears, state, jobs(*fqns))
    assert not denoiser.is_gradient_checkpointing
    monkeypatch.setattr(denoiser, "enable_gradient_checkpointing", lambda: None)
    plain = gradient.contract(denoiser, evaluator.switch.linears, state, jobs(*fqns))
    handle.remove()
    assert seen == [True, False]
    assert kept == plain
    assert all(value[0] > 0 for value in plain.values())
    assert not any(linear._forward_hooks for linear in evaluator.switch.linears.values())
    assert all(
        parameter.grad is None and not parameter.requires_grad
        for parameter in denoiser.parameters()
    )


def test_a_denoiser_without_gradients_is_refused() -> None:
    """Where a forward turns gradients off, no Linear is called harmless: the message names one and
    the estimator that works.
    """

    class NoGradients(TwoLinearsThenRound):
        @torch.no_grad()
        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (self.b(self.a(x)),)

    class Detached(TwoLinearsThenRound):
        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (self.b(self.a(x)).detach(),)

    x = torch.randn(2, 64).bfloat16()
    for model, words in ((NoGradients(), "a is called where"), (Detached(), "no gradient reaches")):
        with (
            Switch(model) as switch,
            pytest.raises(MeasurementError, match=words + ".* with `estimator` output"),
        ):
            gradient.contract(model, switch.linears, state_of(model, x), jobs("a", "b"))
        assert not model.a._forward_hooks


def test_a_preview_is_the_clean_picture_by_diffusers_own_formulas(
    evaluator: Evaluator, candidates: Candidates, store: Store, other: LoadedPipeline
) -> None:
    """x0 = x - sigma v with v from the quantized denoiser, unpacked and decoded as FluxPipeline
    does, compared by LPIPS, averaged over two steps.
    """
    found = calibrate(evaluator, candidates, store, estimator="preview")
    calls: list[dict[str, Any]] = []
    handle = other.denoiser.register_forward_hook(
        lambda _m, _a, kwargs, _o: calls.append(kwargs), with_kwargs=True
    )
    run_plainly(other, output_type="latent")
    handle.remove()
    sigmas, group = other.pipe.scheduler.sigmas, candidates.groups[0]
    expected = 0.0
    with Switch(other.denoiser) as switch, torch.no_grad():
        for kwargs, sigma in zip(calls, sigmas, strict=False):
            pictures = []
            for formats in ({}, dict.fromkeys(group.members[2], NVFP4)):
                switch.set(formats)
                x0 = (
                    kwargs["hidden_states"].float() - sigma * other.denoiser(**kwargs)[0].float()
                ).bfloat16()
                latents = other.pipe._unpack_latents(x0, 64, 64, other.pipe.vae_scale_factor)
                latents = (
                    latents / other.pipe.vae.config.scaling_factor
                    + other.pipe.vae.config.shift_factor
                )
                decoded = other.pipe.vae.decode(latents, return_dict=False)[0]
                pictures.append(
                    other.pipe.image_processor.postprocess(decoded, output_type="pt").float() * 2
                    - 1
                )
            expected += float(evaluator.distance(pictures[1], pictures[0]).mean()) / 2
    assert len(calls) == 2
    assert expected > 0
    assert found[0, 2] == pytest.approx(expected, rel=1e-4)


def test_the_last_preview_is_the_picture(evaluator: Evaluator) -> None:
    """At the last step the predicted clean picture is the one that the run generates; at the first
    it is not. Nothing of the replay stays.
    """
    denoiser, scheduler = evaluator.loaded.denoiser, evaluator.loaded.pipe.scheduler
    drawn = evaluator.media_generator.generate_pictures(*evaluator.prompts("search"), batch_size=3)
    replay = Replay(evaluator, 3)
    assert replay.steps == 2
    assert (
        float((replay.preview(1).pictures - drawn).abs().mean()) < 0.005
    )  # the scheduler rounds sigma v to bf16
    assert float((replay.preview(0).pictures - drawn).abs().mean()) > 0.02
    assert "forward" not in vars(denoiser)
    assert "step" not in vars(scheduler)
    assert torch.equal(
        evaluator.media_generator.generate_pictures(*evaluator.prompts("search"), batch_size=3),
        drawn,
    )


def test_a_preview_of_another_scheduler_is_refused(
    evaluator: Evaluator, candidates: Candidates, store: Store
) -> None:
    """Where x0 = x - sigma v does not hold, the message names the scheduler, the one that is
    needed, and the other estimators.
    """
    evaluator.loaded.pipe.scheduler = DDIMScheduler()
    with pytest.raises(
        UserError,
        match=(
            r"the FluxPipeline has the scheduler DDIMScheduler; `estimator` preview expects"
            r" FlowMatchEulerDiscreteScheduler: choose one of output, gradient"
        ),
    ):
        calibrate(evaluator, candidates, store, estimator="preview")


def test_an_unknown_estimator_is_refused(
    evaluator: Evaluator, candidates: Candidates, store: Store
) -> None:
    """The message names the estimators."""
    names = "rollout, output, preview, gradient, local"
    with pytest.raises(UserError, match=f"'best'; expected one of {names}"):
        calibrate(evaluator, candidates, store, estimator="best")


def test_states_are_spread_over_the_first_half() -> None:
    """Of 8 calls two are the 1st and 3rd, four the first four; where there are fewer calls than
    states some come twice.
    """
    assert pick_calls(8, 2) == [0, 2]
    assert pick_calls(8, 4) == [0, 1, 2, 3]
    assert pick_calls(50, 3) == [0, 8, 16]
    assert pick_calls(2, 4) == [0, 0, 1, 1]
    assert formats_by_linear(jobs("a", "b")) == {"a": (MXFP8, NVFP4), "b": (MXFP8, NVFP4)}
