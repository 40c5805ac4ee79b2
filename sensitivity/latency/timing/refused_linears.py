"""At which Linear did a run stop, if a kernel refused its shape? `naming_refusals`.

The error of a compiled graph says what cuBLAS said, and not where. So the run is made once more,
eagerly and with a hook on each Linear; a kernel that refuses a shape does so eagerly too. That
costs one call, and only after a failure.

    with naming_refusals(denoiser, [call], formats):
        warm_up(call)
    # MeasurementError: transformer_blocks.0.txt_mlp.net.2 cannot run in fp8: refused by the
    # kernel: CUBLAS_STATUS_NOT_SUPPORTED for M=14 K=12288 N=3072 with a bias; ...

What it does not do: find a refusal before the run (`probing`), or one that only a compiled graph
meets.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.core.format_name import FormatName
from sensitivity.errors import MeasurementError
from sensitivity.latency.refusals import is_about_a_shape, kernel_words, refused_words


@contextmanager
def naming_refusals(
    denoiser: nn.Module,
    calls: Iterable[Callable[[], object]],
    formats: Mapping[str, FormatName],
) -> Iterator[None]:
    """Turn the error of a kernel that refuses a shape into one that names the Linear.

    Args:
        denoiser: What is run inside the context, quantized.
        calls: What is run of it; each is run eagerly until one of them stops.
        formats: {FQN: format} of its quantized Linears.

    Raises:
        MeasurementError: A quantized Linear's shape was refused. Other errors pass as they are.
    """
    try:
        yield
    except Exception as error:
        if not is_about_a_shape(error):
            raise
        stopped = linear_that_stops(denoiser, calls)
        if stopped is None or not formats.get(stopped[0], FormatName.BF16).is_quantized:
            raise
        fqn, reason = stopped
        raise MeasurementError(
            f"{fqn} cannot run in {formats[fqn]}: {reason}; expected a shape that the kernel takes:"
            " leave this Linear, and others of its shape, in bf16"
        ) from error


def linear_that_stops(
    denoiser: nn.Module, calls: Iterable[Callable[[], object]]
) -> tuple[str, str] | None:
    """(FQN, reason) of the Linear at which an eager run stops; None if none of them does.

    The denoiser is not compiled meanwhile, and is as it was afterwards.
    """
    at: list[tuple[str, nn.Linear, int]] = []

    def enter(fqn: str) -> Callable[[nn.Linear, tuple[Any, ...]], None]:
        def note(linear: nn.Linear, args: tuple[Any, ...]) -> None:
            x = args[0] if args and isinstance(args[0], Tensor) else None
            rows = 0 if x is None else x.numel() // max(1, linear.in_features)
            at[:] = [(fqn, linear, rows)]

        return note

    def leave(*_: object) -> None:
        at.clear()

    with ExitStack() as stack, torch.no_grad():
        for fqn, module in denoiser.named_modules():
            compiled, module._compiled_call_impl = module._compiled_call_impl, None
            stack.callback(setattr, module, "_compiled_call_impl", compiled)
            if isinstance(module, nn.Linear):
                stack.callback(module.register_forward_pre_hook(enter(fqn)).remove)
                stack.callback(module.register_forward_hook(leave).remove)
        try:
            for call in calls:
                call()
        except Exception as error:
            if not at or not is_about_a_shape(error):
                return None
            fqn, linear, m = at[0]
            return fqn, refused_words(
                kernel_words(error),
                m=m,
                k=linear.in_features,
                n=linear.out_features,
                bias=linear.bias is not None,
            )
    return None
