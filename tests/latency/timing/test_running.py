"""A denoiser runs in the way of a runtime inside the context, and as before outside."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from sensitivity.errors import UserError
from sensitivity.latency.runtimes import RUNTIMES, Runtime, get_runtime
from sensitivity.latency.timing.running import running
from sensitivity.latency.timing.torch_settings import preserved_settings

from support.small_denoisers import two_kinds

WHOLE = dataclasses.replace(get_runtime("torchao-compiled"), name="whole", compiled="denoiser")
X = torch.ones(4, 16, dtype=torch.bfloat16)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    with preserved_settings(), torch.no_grad():
        yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("runtime", "graphs"),
    [
        *(
            (runtime, 0 if runtime.compiled == "nothing" else 2)
            for runtime in RUNTIMES.values()
            if not runtime.fused_quantizers
        ),
        (WHOLE, 1),
    ],
    ids=lambda value: value.name if isinstance(value, Runtime) else "",
)
def test_every_runtime_computes_the_same(runtime: Runtime, graphs: int) -> None:
    """One graph a class of blocks, one for a whole denoiser, none where nothing is compiled; the
    values are the eager ones, and afterwards the denoiser is as it was.
    """
    denoiser, counter = two_kinds(), CompileCounter()
    expected = denoiser(X)
    with running(denoiser, runtime, backend=counter) as call:
        assert torch.equal(call(hidden_states=X), expected)
        assert torch.equal(denoiser(hidden_states=X), expected)
    assert counter.frame_count == graphs
    assert all(module._compiled_call_impl is None for module in denoiser.modules())
    assert not denoiser._forward_pre_hooks
    assert torch.equal(denoiser(X), expected)


def test_a_server_is_not_run() -> None:
    """What can only be priced is refused, with the runtimes that run."""
    with (
        pytest.raises(UserError, match=r"server-eager can be priced and not run.* torchao-graphs"),
        running(two_kinds(), get_runtime("server-eager")),
    ):
        pass


def test_several_are_open_at_once() -> None:
    """Denoisers in several ways run in turns."""
    first, second = two_kinds(), two_kinds()
    expected = first(X)
    eager, step = get_runtime("torchao-eager"), get_runtime("torchao-step-graph")
    with running(first, eager) as one, running(second, step, backend=CompileCounter()) as other:
        for _ in range(2):
            assert torch.equal(one(X), expected)
            assert torch.equal(other(X), expected)
