"""`gradient`: local errors carried to the denoiser's output by one backward pass for each state.

Method. Let e (rows, N) be what a format changes at a Linear's output (`local.py`), v the denoiser's
output and J the derivative of v by the Linear's output. To first order v changes by J e. For a
random vector r of signs, the scalar s = <r, v> has the gradient g = J^T r at the Linear, and
<g, e> = <r, J e>, whose square has the mean |J e|^2 (Hutchinson 1990, "A stochastic estimator of
the trace of the influence matrix"). Pictures do not mix, so each picture is a sample of its own:
the error is sqrt(sum over pictures of <g, e>^2) / |v|. One forward and one backward pass give it
for every Linear and format.

Accuracy. A single sample of |J e|^2 has a relative standard deviation of sqrt(2). P pictures x S
states leave sqrt(2 / (P S)) in the square, and half of that in the error.

Memory. Where the denoiser has gradient checkpointing (`enable_gradient_checkpointing` of
diffusers), it is on during the pass: only the inputs of blocks are kept. Errors are computed in the
backward pass, from inputs that checkpointing restored.

The error of a group is the root of the sum of squares over its Linears, weight 1 each; over states
it is the root of the mean square. It does not see anything beyond first order, nor errors that the
Linears of a group have in common.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.words import first_line
from sensitivity.errors import CalibrationError, SensitivityError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.models.denoisers import parts_of
from sensitivity.search.calibration._base import Estimator, JobError
from sensitivity.search.calibration.jobs import EstimatorName, Job, finite
from sensitivity.search.calibration.local import (
    Sums,
    formats_by_linear,
    formats_per_linear,
    local_error,
    watching,
)
from sensitivity.search.calibration.states import (
    State,
    first_tensor,
    more_tensors,
    record_states,
)

FORWARD_BACKWARD_RECOMPUTE = 3
"""Passes for each state. The backward pass makes no weight gradients, so it costs as much as a
forward pass; checkpointing runs the forward pass again.
"""
INSTEAD = "calibrate with `estimator` output instead"


class GradientEstimator(Estimator):
    """See the module."""

    name = EstimatorName.GRADIENT
    unit = "linear"
    quantity = "gradient: local errors contracted with Hutchinson gradients, pictures apart"

    def picture_calls(self, jobs: Sequence[Job], *, states: int) -> float:
        if not jobs:
            return 0.0
        return states * (FORWARD_BACKWARD_RECOMPUTE + formats_per_linear(jobs))

    def run(
        self, evaluator: Evaluator, jobs: Sequence[Job], *, states: int, prompts: int
    ) -> Iterator[JobError]:
        denoisers = parts_of(evaluator.loaded.denoiser)
        for state in record_states(evaluator, states=states, prompts=prompts):
            own = [job for job in jobs if job.is_of(state.component)]
            if not own:
                continue
            sums = contract(
                denoisers[state.component],
                evaluator.switch.linears,
                state,
                own,
                arithmetic=evaluator.arithmetic,
            )
            whole = float(state.output.float().square().sum())
            for job in own:
                error = finite((sums[job.fqns[0], job.format][0] / whole) ** 0.5)
                yield JobError(job=job, state=state.index, error=error)


def contract(
    denoiser: nn.Module,
    linears: dict[str, nn.Linear],
    state: State,
    jobs: Sequence[Job],
    *,
    arithmetic: Arithmetic = Arithmetic.EAGER,
) -> Sums:
    """{(FQN, format): [sum over pictures of <g, e>^2]} at one state, for jobs of one Linear each.

    The signs are seeded by the state's index.

    Raises:
        CalibrationError: autograd cannot follow the denoiser, or memory runs out.
    """
    formats = formats_by_linear(jobs)
    sums: Sums = {(job.fqns[0], job.format): [0.0] for job in jobs}

    def probe(fqn: str, linear: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            raise CalibrationError(
                f"{fqn} is called where the denoiser has gradients turned off; {INSTEAD}"
            )

        def add(x: Tensor, gradient: Tensor) -> None:
            clean = nn.functional.linear(x, linear.weight, linear.bias)
            for name in formats[fqn]:
                error = local_error(linear, x, clean, name, arithmetic)
                products = gradient.float() * error
                sums[fqn, name][0] += _by_picture(products).square().sum().item()

        leaf = y if y.requires_grad else y.detach().requires_grad_()
        return cast(Tensor, _WithGradient.apply(x, leaf, add))

    with (
        _explained(denoiser),
        checkpointing(denoiser),
        without_cudnn_attention(),
        torch.enable_grad(),
        watching(linears, list(formats), probe),
    ):
        found = denoiser(*state.args, **state.kwargs)
        outputs = [first_tensor(found), *more_tensors(found)]
        if not outputs[0].requires_grad:
            raise CalibrationError(
                f"no gradient reaches the denoiser's output from its Linears; {INSTEAD}"
            )
        torch.autograd.backward(outputs, _signs(outputs, state))
    return sums


@contextmanager
def _explained(denoiser: nn.Module) -> Iterator[None]:
    """Inside, errors of autograd and of checkpointing, out of memory included, become
    CalibrationErrors.
    """
    try:
        yield
    except SensitivityError:
        raise
    except Exception as error:
        raise CalibrationError(
            f"no gradient of the {type(denoiser).__name__} could be computed"
            f" ({type(error).__name__}: {first_line(error, most=300)}); {INSTEAD}"
        ) from error


def _signs(outputs: Sequence[Tensor], state: State) -> list[Tensor]:
    """Random signs for each output. Those after the first are scaled so that an error relative to
    an output's own size counts alike in all of them.
    """
    generator = torch.Generator().manual_seed(state.index)
    sizes = [float(reference.float().square().sum()) for reference in (state.output, *state.more)]
    scales = [1.0, *((sizes[0] / size) ** 0.5 if size else 0.0 for size in sizes[1:])]
    return [
        (torch.randint(0, 2, out.shape, generator=generator) * 2 - 1).to(out) * scale
        for out, scale in zip(outputs, scales, strict=True)
    ]


def _by_picture(products: Tensor) -> Tensor:
    """(B,) sums of (B, ..., N) over all axes but the first, which is that of pictures.

    Of a Linear that gets (rows, K) each row counts as a picture.
    """
    return products.flatten(1).sum(1) if products.dim() > 1 else products.sum().view(1)


class _WithGradient(torch.autograd.Function):
    """Gives y; the backward pass calls `add(x, gradient of y)`.

    Autograd keeps x, so that checkpointing can drop and restore it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, add: Callable[[Tensor, Tensor], None]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.add = add
        return y.clone()  # not a view: the next layer may work in place

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        (x,) = ctx.saved_tensors
        ctx.add(x, gradients[0])
        return None, gradients[0], None


@contextmanager
def without_cudnn_attention() -> Iterator[None]:
    """Inside, torch does not choose cuDNN's attention: its backward pass reads memory that is not
    its own (seen on an H100 and on H200s, torch 2.11).
    """
    was = bool(torch.backends.cuda.cudnn_sdp_enabled())  # type: ignore[no-untyped-call]
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(was)


@contextmanager
def checkpointing(denoiser: nn.Module) -> Iterator[None]:
    """Inside, gradient checkpointing is on if the denoiser has it; afterwards it is as before."""
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
