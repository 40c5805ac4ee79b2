"""A measurement leaves torch as it found it."""

import torch
import torch._dynamo.config
import torch._inductor.config

from sensitivity.latency.timing.shape_timing import measure_shapes
from sensitivity.latency.timing.torch_settings import preserved_settings

from support.latency import FP8, bench, shape


def test_settings_of_torch_are_left_as_found() -> None:
    """What a quantizer or a test changes in inductor's and dynamo's settings is undone, also after
    an error.
    """

    def meddle(*_: object) -> None:
        torch._inductor.config.coordinate_descent_tuning = True
        torch._inductor.config.triton.unique_kernel_names = (
            not torch._inductor.config.triton.unique_kernel_names
        )
        torch._dynamo.config.recompile_limit = 99
        torch.set_float32_matmul_precision("medium")
        raise RuntimeError

    def settings() -> tuple[object, ...]:
        return (
            torch._inductor.config.get_config_copy(),
            torch._dynamo.config.get_config_copy(),
            torch.get_float32_matmul_precision(),
            torch.is_grad_enabled(),
        )

    before = settings()
    times = measure_shapes(
        [shape(4, 32, 16, FP8)], device="cpu", repetitions=1, bench=bench(quantize=meddle)
    )
    assert len(times.failed) == 1
    assert settings() == before
    with preserved_settings(recompile_limit=20):
        assert torch._dynamo.config.recompile_limit == 20
        assert torch._dynamo.config.accumulated_recompile_limit >= 20
    assert settings() == before
