"""Products accumulate in fp32 and round once, on CPUs whose bf16 GEMM does so and on others."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from sensitivity.formats import get_format, products

from support.quantized_values import QUANTIZED, assert_one_rounding, interval, normal, scales_of


@pytest.mark.parametrize("name", ["nvfp4", "fp8"])
def test_the_interval_rejects_a_second_rounding(name: str) -> None:
    """The bound is tight enough to see a product rounded to bf16 before its scale is applied, as
    torchao's NVFP4 epilogue does.
    """
    fmt, bias = get_format(name), normal(96, seed=2)
    x, w = fmt.quantize_activation(normal(64, 192)), fmt.quantize_weight(normal(96, 192, seed=1))
    scales = scales_of(x, w)
    low, high = interval(x, w, bias, scales)
    rounded = (x.values.float() @ w.values.float().t()).bfloat16()
    twice = (rounded.float() * scales.float() + bias).bfloat16().double().numpy()
    assert not ((low <= twice) & (twice <= high)).all()


@pytest.mark.parametrize("name", QUANTIZED)
def test_output_is_the_same_on_a_cpu_without_exact_bf16_products(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the fused GEMM is not trusted, the fp32 product gives outputs that keep the same
    bound."""
    monkeypatch.setattr(products, "fused_linear_is_exact", lambda: False)
    fmt, bias = get_format(name), normal(96, seed=2)
    x, w = fmt.quantize_activation(normal(33, 192)), fmt.quantize_weight(normal(96, 192, seed=1))
    assert not products.fits_fused_linear(x.values, w.values, bias)
    assert_one_rounding(fmt.linear(x, w, bias), x, w, bias)


@pytest.fixture
def ieee_products() -> Iterator[None]:
    """oneDNN's fp32 precision set to something that our kernels do not choose, and put back."""
    settings = torch.backends.mkldnn.matmul
    before, settings.fp32_precision = settings.fp32_precision, "ieee"
    yield
    settings.fp32_precision = before


@pytest.mark.usefixtures("ieee_products")
def test_product_settings_do_not_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process-wide oneDNN precision is what it was, after a product and after one that
    raised."""
    products.product_fp32(normal(4, 32), normal(4, 32))
    assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"

    def fail(*_: object) -> Tensor:
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch, "mm", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        products.product_fp32(normal(4, 32), normal(4, 32))
    assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"


def test_scales_and_bias_are_applied_in_fp32() -> None:
    """1 + 2^-8 is not bf16; with scale 256 and bias -256 it becomes 1, and 0 if it was rounded
    before.
    """
    product = torch.full((2, 3), 1 + 2.0**-8)
    found = products.scale_and_round(product, (torch.tensor(256.0),), torch.full((3,), -256.0))
    assert torch.equal(found, torch.ones(2, 3).bfloat16())
