"""`gradient`: the local errors of all Linears, carried to the denoiser's output by one backward
pass a state.

Method. Let e (rows, N) be what a format changes at a Linear's output (`local.py`) and J the
derivative of the denoiser's output v by that output. To first order the denoiser's output changes
by J e. With a random vector r of signs, the scalar s = <r, v> has the gradient g = J^T r there, and
<g, e> = <r, J e>, whose square has the mean |J e|^2 (Hutchinson 1990, "A stochastic estimator of
the trace of the influence matrix"). Pictures do not mix, so each picture is a sample of its own:
the error is sqrt(sum over pictures of <g, e>^2) / |v|. One forward and one backward pass give it
for every Linear and format.

A single sample of |J e|^2 has a relative standard deviation of sqrt(2); P pictures x S states leave
sqrt(2 / (P S)) in the square, half of it in the error.

Memory. Gradient checkpointing is switched on where the denoiser has it
(`enable_gradient_checkpointing` of diffusers) and off again: then only block inputs are kept.
Errors are computed in the backward pass, from inputs that checkpointing restored.

A group's error is the root of the sum of squares over its Linears, weight 1 each; over states it is
the root of the mean square. What it does not see: anything beyond first order, and errors that a
group's Linears have in common.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from sensitivity.errors import CalibrationError, SensitivityError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.models.denoisers import parts_of
from sensitivity.search.calibration._base import (
    Estimator,
    Measured,
    State,
    finite,
    first_tensor,
    more_tensors,
)
from sensitivity.search.calibration.jobs import EstimatorName, Job
from sensitivity.search.calibration.local import Sums, jobs_by_linear, local_error, watching
from sensitivity.search.calibration.states import record_states

FORWARD_BACKWARD_RECOMPUTE = (
    3  # passes; the backward one makes no weight gradients, so it costs a forward one
)


class GradientError(Estimator):
    """See the module."""

    name = EstimatorName.GRADIENT
    unit = "linear"
    measure = "gradient: local errors contracted with Hutchinson gradients, pictures apart"

    def picture_calls(self, jobs: Sequence[Job], *, states: int) -> float:
        if not jobs:
            return 0.0
        return states * (
            FORWARD_BACKWARD_RECOMPUTE + len(jobs) / len({fqn for job in jobs for fqn in job.fqns})
        )

    def run(
        self, evaluator: Evaluator, jobs: Sequence[Job], *, states: int, prompts: int
    ) -> Iterator[Measured]:
        for state in record_states(evaluator, states=states, prompts=prompts):
            own = [job for job in jobs if job.is_of(state.component)]
            if not own:
                continue
            sums = contract(
                parts_of(evaluator.loaded.denoiser)[state.component],
                evaluator.switch.linears,
                state,
                own,
            )
            whole = float(state.output.float().square().sum())
            for job in own:
                yield Measured(
                    job=job,
                    state=state.index,
                    error=finite((sums[job.fqns[0], job.format][0] / whole) ** 0.5),
                )


def contract(
    denoiser: nn.Module, linears: dict[str, nn.Linear], state: State, jobs: Sequence[Job]
) -> Sums:
    """{(FQN, format): [sum over pictures of <g, e>^2]} at one state, for jobs of one Linear each.

    Signs are drawn from the state's index.
    """
    by_name = jobs_by_linear(jobs)
    sums: Sums = {(job.fqns[0], job.format): [0.0] for job in jobs}

    def probe(fqn: str, linear: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            raise CalibrationError(
                f"{fqn} is called where the denoiser has gradients turned off; measure with"
                " --estimator output instead"
            )

        def meet(x: Tensor, gradient: Tensor) -> None:
            clean = nn.functional.linear(x, linear.weight, linear.bias)
            for name in by_name[fqn]:
                sums[fqn, name][0] += (
                    _by_picture(gradient.float() * local_error(linear, x, clean, name))
                    .square()
                    .sum()
                    .item()
                )

        return cast(
            Tensor, _Meeting.apply(x, y if y.requires_grad else y.detach().requires_grad_(), meet)
        )

    with (
        _explained(denoiser),
        checkpointing(denoiser),
        without_cudnn_attention(),
        torch.enable_grad(),
        watching(linears, by_name, probe),
    ):
        found = denoiser(*state.args, **state.kwargs)
        outputs = [first_tensor(found), *more_tensors(found)]
        if not outputs[0].requires_grad:
            raise CalibrationError(
                "no gradient reaches the denoiser's output from its Linears; measure with"
                " --estimator output instead"
            )
        torch.autograd.backward(outputs, _signs(outputs, state))
    return sums


@contextmanager
def _explained(denoiser: nn.Module) -> Iterator[None]:
    """CalibrationError for whatever a denoiser does that autograd or diffusers' checkpointing
    cannot follow, and where memory runs out on the way back.
    """
    try:
        yield
    except SensitivityError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
        raise CalibrationError(
            f"no gradient of the {type(denoiser).__name__} could be had ({type(error).__name__}:"
            f" {reason}); measure with --estimator output instead"
        ) from error


def _signs(outputs: Sequence[Tensor], state: State) -> list[Tensor]:
    """Random signs for each output; those after the first are scaled so that an error relative to
    an output's own size counts alike in all of them.
    """
    generator = torch.Generator().manual_seed(state.index)
    sizes = [float(reference.float().square().sum()) for reference in (state.output, *state.more)]
    scales = [1.0, *((sizes[0] / size) ** 0.5 if size else 0.0 for size in sizes[1:])]
    return [
        (torch.randint(0, 2, out.shape, generator=generator) * 2 - 1).to(out) * scale
        for out, scale in zip(outputs, scales, strict=True)
    ]


def _by_picture(product: Tensor) -> Tensor:
    """Sums of (..., N) over all axes but the first, where pictures lie:

    (B,). A Linear that gets (rows, K) has each row for itself.
    """
    return product.flatten(1).sum(1) if product.dim() > 1 else product.sum().view(1)


class _Meeting(torch.autograd.Function):
    """y passes; in the backward pass `meet(x, gradient of y)` is called. x is kept by autograd, so
    that checkpointing can drop and restore it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, meet: Callable[[Tensor, Tensor], None]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.meet = meet
        return y.clone()  # no view: what follows may work in place

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        (x,) = ctx.saved_tensors
        ctx.meet(x, gradients[0])
        return None, gradients[0], None


@contextmanager
def without_cudnn_attention() -> Iterator[None]:
    """cuDNN's attention may not be chosen inside: its backward pass reads memory that is not its
    own (seen on an H100 and on H200s, torch 2.11).
    """
    was = bool(torch.backends.cuda.cudnn_sdp_enabled())  # type: ignore[no-untyped-call]
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(was)


@contextmanager
def checkpointing(denoiser: nn.Module) -> Iterator[None]:
    """Gradient checkpointing inside, where the denoiser has it and it is off."""
    model: Any = denoiser
    was_on = bool(getattr(model, "is_gradient_checkpointing", False))
    turned_on = False
    if not was_on and hasattr(model, "enable_gradient_checkpointing"):
        try:
            model.enable_gradient_checkpointing()
            turned_on = True
        except (ValueError, NotImplementedError):  # diffusers: this class does not support it
            pass
    try:
        yield
    finally:
        if turned_on:
            model.disable_gradient_checkpointing()
