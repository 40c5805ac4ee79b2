"""What each format costs beyond a plain one, in closed form; and which chips have it."""

import dataclasses

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.latency import PredictedLatency, get_device
from sensitivity.latency.constants import AMPERE, BLACKWELL, HOPPER, KernelConstants
from sensitivity.latency.refusals import refusal_of
from sensitivity.latency.targets.target_latency import predicted_latency

from support.latency import flux, flux_published_list

A100, H100 = get_device("a100"), get_device("h100")
TOKENS = {"m": 4608, "k": 3072, "n": 12288}
INT8, INT8_ROT, INT8_A16 = FormatName.INT8, FormatName.INT8_ROT, FormatName.INT8_A16
VARIANTS = [
    ("b200", FormatName.NVFP4_4O6, FormatName.NVFP4),
    ("b200", FormatName.FP8_LB, FormatName.FP8),
    ("h100", FormatName.FP8_LB, FormatName.FP8),
]


def kernels(device: str, format: FormatName, *, compiled: bool = True, **shape: int) -> dict:
    """{kernel: its microseconds} of a Linear in a run."""
    model = PredictedLatency(get_device(device))
    found = model.kernels.of(**shape, format=format, compiled=compiled)
    assert len({kernel.name for kernel in found}) == len(found)
    return {kernel.name: kernel.us for kernel in found}


def moved_us(traffic_bytes: float, part: float, device: object = A100) -> float:
    """Microseconds of bytes at a part of an A100's 2,039 GB/s."""
    return traffic_bytes / (device.bandwidth_bytes_per_s * part) * 1e6  # type: ignore[attr-defined]


def test_int8_in_closed_form() -> None:
    """A product of whole waves at the INT8 rate, a quantizer that its norm makes, and int32 that
    the next kernel reads instead of bf16.
    """
    m, k, n = 256 * 4, 8192, 256 * 54
    found = kernels("a100", INT8, m=m, k=k, n=n)
    assert found == pytest.approx(
        {
            "quantize": 0.5 * HOPPER.pass_ramp_us + moved_us(2 * m * k + m * k + 4 * m, 0.776),
            "GEMM": HOPPER.gemm_ramp_us
            + 2 * m * k * n / (624e12 * AMPERE.int8_matmul * 0.728) * 1e6,
            "scale and bias": moved_us(2 * m * n, 0.776),
        }
    )


def test_the_bytes_of_an_int8_product() -> None:
    """It reads codes and row scales, and writes int32."""
    m, k, n = 17, 3072, 18432
    gemm = PredictedLatency(A100).kernels.gemm(m, k, n, INT8)
    traffic_bytes = m * k + 4 * m + k * n + 4 * n + 4 * m * n
    waves = 2  # 144 tiles of 128 x 128 on 108 multiprocessors
    expected_us = moved_us(traffic_bytes, HOPPER.read_bandwidth) + waves * HOPPER.epilogue_us
    assert gemm.memory_us == pytest.approx(expected_us)


def test_a_rotation_is_a_pass_of_its_own() -> None:
    """It reads and writes the input in bf16; quantizing is then no part of the norm any more."""
    m, k = TOKENS["m"], TOKENS["k"]
    plain, rotated = (kernels("a100", name, **TOKENS) for name in (INT8, INT8_ROT))
    assert list(rotated) == ["rotate", *plain]
    rotate_us = HOPPER.pass_ramp_us + moved_us(4 * m * k, HOPPER.rotation_bandwidth)
    assert rotated["rotate"] == pytest.approx(rotate_us)
    added_us = sum(rotated.values()) - sum(plain.values())
    assert added_us == pytest.approx(rotate_us + 0.5 * HOPPER.pass_ramp_us)


def test_a_rotation_takes_its_arithmetic_where_that_is_longer() -> None:
    """With ten times the bandwidth, blocks of 256 are bound by 2 x M x K x 256 FLOPs of bf16; of
    64, by bytes again.
    """
    fast = dataclasses.replace(A100, bandwidth_bytes_per_s=10 * A100.bandwidth_bytes_per_s)
    model = PredictedLatency(fast)
    m, k = 4096, 3072
    rotate = model.kernels.quantize(m, k, INT8_ROT)[0]
    flops_us = 2 * m * k * 256 / (312e12 * HOPPER.sustained_matmul) * 1e6
    assert rotate.us == pytest.approx(HOPPER.pass_ramp_us + flops_us)
    k = 3072 + 64
    rotate = model.kernels.quantize(m, k, INT8_ROT)[0]
    bytes_us = moved_us(4 * m * k, 10 * HOPPER.rotation_bandwidth)
    assert rotate.us == pytest.approx(HOPPER.pass_ramp_us + bytes_us)


@pytest.mark.parametrize(
    ("name", "stored_bytes"),
    [
        (INT8_A16, 3072 * 12288 + 4 * 12288),
        (FormatName.FP8_A16, 3072 * 12288 + 4 * 12288),
        (FormatName.MXFP8_A16, 3072 * 12288 * 33 / 32),
        (FormatName.NVFP4_A16, 3072 * 12288 * 9 / 16),
    ],
)
@pytest.mark.parametrize("m", [1, 4608])
def test_a_weight_only_format_dequantizes_and_multiplies_in_bf16(
    name: FormatName, stored_bytes: float, m: int
) -> None:
    """A pass that reads the codes and writes bf16, and bf16's product, for any number of rows."""
    shape = {**TOKENS, "m": m}
    model = PredictedLatency(H100)
    passes_us = HOPPER.pass_ramp_us + moved_us(
        stored_bytes + 2 * 3072 * 12288, HOPPER.dequantize_bandwidth, H100
    )
    bf16_us = model.linear_us(**shape, format=FormatName.BF16)
    assert model.linear_us(**shape, format=name) == pytest.approx(bf16_us + passes_us)
    assert model.sibling_us(**shape, format=name) == model.linear_us(**shape, format=name)
    assert "dequantizing takes" in model.why(**shape, format=name)


def test_eager_passes() -> None:
    """Outside of compiled graphs each operator of torchao is a kernel: 20 to quantize INT8 and 5
    after the product, and 5 to dequantize a weight.
    """
    shape = {"m": 4096, "k": 3072, "n": 64}
    found = kernels("a100", INT8, **shape, compiled=False)
    ramp_us = HOPPER.pass_ramp_us
    assert found["eager passes"] == pytest.approx(
        20 * ramp_us + moved_us(39.1 * 4096 * 3072, 0.776)
    )
    assert found["scale and bias"] == pytest.approx(5 * ramp_us + moved_us(34 * 4096 * 64, 0.776))
    found = kernels("a100", INT8_A16, **shape, compiled=False)
    assert list(found) == ["eager passes", "GEMM"]
    assert found["eager passes"] == pytest.approx(5 * ramp_us + moved_us(19 * 3072 * 64, 0.776))
    assert "rotate" in kernels("a100", INT8_ROT, **shape, compiled=False)


@pytest.mark.parametrize(("device", "variant", "plain"), VARIANTS)
def test_some_variants_cost_what_their_plain_format_costs(
    device: str, variant: FormatName, plain: FormatName
) -> None:
    """Four-over-six scales are chosen offline; a lower bound of a row's maximum is one clamp. So it
    is with times that were measured on the target, which the h100 has of this shape.
    """
    target = get_device(device)
    for model in (PredictedLatency(target), predicted_latency(target)):
        for price in (model.linear_us, model.eager_us, model.sibling_us):
            assert price(**TOKENS, format=variant) == price(**TOKENS, format=plain)


def test_siblings_share_what_is_quantized_by_rows() -> None:
    """INT8's quantizing, and the rotation before it, are paid once."""
    model = PredictedLatency(A100)
    for name in (INT8, INT8_ROT):
        found = kernels("a100", name, **TOKENS)
        rest_us = found["GEMM"] + found["scale and bias"]
        assert model.sibling_us(**TOKENS, format=name) == pytest.approx(rest_us)


def test_what_a_chip_lacks_is_refused_with_its_own_formats() -> None:
    """Ampere has INT8 alone, since nothing there reads e4m3; Ada has no block scales, but reads
    their weights; the B300 has no INT8 products to speak of.
    """
    own = r"a100 has no {}; it has bf16, int8, int8-rot, int8-a16\. Choose one of these formats"
    for lacking in ("fp8", "nvfp4", "mxfp8", "fp8-lb", "fp8-a16", "nvfp4-a16"):
        with pytest.raises(FormatError, match=own.format(lacking)):
            PredictedLatency(A100).check_format(FormatName(lacking))
    ada = PredictedLatency(get_device("rtx4090"))
    assert {name.value for name in FormatName if not ada.supports(name)} == {
        "mxfp8",
        "nvfp4",
        "nvfp4-4o6",
    }
    b300 = PredictedLatency(get_device("b300"))
    assert {name for name in FormatName if not b300.supports(name)} == {INT8, INT8_ROT}


@pytest.mark.parametrize("device", ["a100", "rtx4090", "h100", "b200"])
def test_int8_needs_more_than_16_rows(device: str) -> None:
    """`torch._int_mm` takes 17 rows and more; a weight-only format multiplies in bf16."""
    shape = {"k": 3072, "n": 9216, "bias": True}
    for name in (INT8, INT8_ROT):
        reason = refusal_of(device, m=16, **shape, format=name)
        assert reason is not None
        assert "torch._int_mm: self.size(0) needs to be greater than 16 for M=16" in reason
        assert refusal_of(device, m=17, **shape, format=name) is None
    assert refusal_of(device, m=1, **shape, format=INT8_A16) is None


def test_a_variant_is_refused_where_its_product_is() -> None:
    """FP8 with a lower bound multiplies as FP8 does, and Hopper refuses the same shapes."""
    shape = {"m": 14, "k": 12288, "n": 3072, "bias": True}
    plain, bounded = (
        refusal_of("h100", **shape, format=name) for name in (FormatName.FP8, FormatName.FP8_LB)
    )
    assert plain == bounded is not None
    assert refusal_of("h100", **shape, format=FormatName.FP8_A16) is None


@pytest.mark.parametrize(
    ("fitted", "unmeasured", "m"),
    [(FormatName.FP8, INT8, 4608), (FormatName.BF16, INT8_A16, 1)],
)
def test_an_interval_is_wider_where_nothing_was_measured(
    fitted: FormatName, unmeasured: FormatName, m: int
) -> None:
    """Relative to its time, what no constant was fitted to is less certain than what one was: the
    INT8 product beside FP8's, and a weight that is dequantized beside one that is read.
    """
    spreads = []
    for name in (fitted, unmeasured):
        (low, high), _ = PredictedLatency(H100).row_intervals90(**{**TOKENS, "m": m}, format=name)
        spreads.append(high / low)
    assert spreads[1] > spreads[0] * 1.05


@pytest.mark.parametrize("device", ["a100", "h100"])
def test_the_gain_of_a_rotated_format_is_less_certain(device: str) -> None:
    """A rotation adds a kernel that is known by few rows or none, so the gain's interval grows."""
    model = PredictedLatency(get_device(device))
    widths = []
    for name in (INT8, INT8_ROT):
        _, (low, high) = model.row_intervals90(m=4608, k=12288, n=3072, format=name)
        widths.append(high - low)
    assert widths[1] > widths[0]


MEASURED_ON_AN_H200 = {
    (512, 3072, 3072): {"bf16": 16.5, "int8": 28.4, "int8-rot": 35.1, "fp8-a16": 23.7},
    (4608, 3072, 12288): {"bf16": 507.6, "int8": 587.4, "int8-rot": 636.1, "fp8-a16": 537.8},
    (1, 3072, 18432): {"bf16": 32.9, "fp8-a16": 79.1},
}
"""Microseconds of compiled Linears under steady load, without their producer: medians of nine by
`benchmarks/format_variants.py` on one H200 (torch 2.11, torchao 0.18, 29 November 2026).
"""


@pytest.mark.parametrize("shape", MEASURED_ON_AN_H200)
def test_what_was_measured_lies_in_its_interval(shape: tuple[int, int, int]) -> None:
    """Each row lies in the 90 % interval of its price, and on the side of bf16 where it was."""
    model, sizes = PredictedLatency(get_device("h200")), dict(zip("mkn", shape, strict=True))
    rows = dict(MEASURED_ON_AN_H200[shape])
    bf16_us = rows.pop("bf16")
    for name, us in rows.items():
        (low, high), _ = model.row_intervals90(**sizes, format=FormatName(name))
        assert low <= us <= high, name
        priced_us = model.linear_us(**sizes, format=FormatName(name))
        slower = priced_us > model.linear_us(**sizes, format=FormatName.BF16)
        assert slower == (us > bf16_us), name


@pytest.mark.parametrize(
    ("device", "constants"),
    [("a100", AMPERE), ("rtx4090", AMPERE), ("h100", HOPPER), ("b200", BLACKWELL)],
)
def test_int8_is_less_certain_where_it_was_not_measured(
    device: str, constants: KernelConstants
) -> None:
    """Each family has its own constants; INT8 was timed on Hopper alone, and is surest there."""
    assert get_device(device).kernels == constants
    for name, sd in constants.unfitted_sds.items():
        assert sd > HOPPER.unfitted_sds[name] or constants is HOPPER, name


def test_a_price_of_int8_weights_says_which_kernel_it_is() -> None:
    """torchao's own kernel is hundreds of times slower than the pass that is priced."""
    table = flux(1)
    fqn = table.linears[0].fqn
    notes = [
        PredictedLatency(H100).estimate(table, {fqn: name}).note
        for name in (INT8_A16, FormatName.FP8_A16)
    ]
    assert ["Int8WeightOnlyConfig" in note for note in notes] == [True, False]


@pytest.mark.parametrize(
    ("device", "name", "seconds", "interval"),
    [
        ("b200", "nvfp4", (1.9661164007635947, 1.2714583184723547), (1.40973895, 1.67761404)),
        ("b200", "mxfp8", (1.9661164007635947, 1.6114727703055216), (1.16143394, 1.27102453)),
        ("h100", "fp8", (3.6812416273274313, 2.9245123408885396), (1.18569606, 1.33945319)),
        ("rtx5090", "nvfp4", (17.819849131683654, 7.576587711037004), (1.96240610, 2.83003673)),
    ],
)
def test_prices_of_the_first_formats_stay(
    device: str, name: str, seconds: tuple[float, float], interval: tuple[float, float]
) -> None:
    """FLUX.1-dev by the published list costs what it did before there were other formats."""
    table = flux(1)
    model = PredictedLatency(get_device(device))
    found = model.estimate(table, flux_published_list(table, FormatName(name)))
    assert (found.bf16_s, found.quantized_s) == pytest.approx(seconds, rel=1e-12)
    assert found.interval90 == pytest.approx(interval, rel=1e-7)
