"""The host's part of a run: what is launched is counted, and the slower of GPU and host decides."""

import dataclasses
import math

import pytest

from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName
from sensitivity.core.step_policy import EdgeMode, StepPolicy
from sensitivity.latency import LatencyEstimate, LatencyModel, PredictedLatency, get_device
from sensitivity.latency.host import OUTSIDE, host_work, what_helps
from sensitivity.latency.runtimes import HostCosts, Runtime, get_runtime
from sensitivity.shapes.census import ComponentCounts, RunCounts
from sensitivity.shapes.table import ShapeTable

from support.latency import BF16, FP8, linear, table_of

COSTS = HostCosts(
    call_us=1000,
    region_us=100,
    linear_us=10,
    quantized_us=50,
    kernel_us=5,
    eager_quantized_us=200,
    spread=0.1,
)
"""4 calls of 2 regions with 2 Linears each, and one Linear among 3 kernels outside."""
TABLE = dataclasses.replace(
    table_of(
        *(linear(f"blocks.{i}.{name}", 16, 16, {8: 4}) for i in range(2) for name in "ab"),
        linear("proj_out", 16, 16, {8: 4}),
    ),
    run=RunCounts(
        components=(
            ComponentCounts(
                component="transformer",
                calls=4,
                kernels=4 * 23,
                region_kernels=4 * 20,
                regions=("blocks.0", "blocks.1"),
            ),
            ComponentCounts(component="vae", calls=1, kernels=50),
        )
    ),
)
ALL = dict.fromkeys(TABLE.fqns, FP8)


def runtime(name: str, costs: HostCosts = COSTS) -> Runtime:
    return dataclasses.replace(get_runtime(name), host=costs)


def on_h100(name: str) -> Runtime:
    return PredictedLatency(get_device("h100"), runtime=get_runtime(name)).runtime


class Toy(LatencyModel):
    """A bf16 Linear takes `us`, a quantized one half of it; 0.5 s are other components'."""

    target, source, compile_mode, covers = "toy", "predicted", "default", "everything"
    interval: tuple[float, float] | None = None

    def __init__(self, us: float, how: Runtime) -> None:
        self.us, self._how = us, how

    @property
    def runtime(self) -> Runtime:
        return self._how

    def linear_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:  # noqa: ARG002
        return self.us if format is BF16 else self.us / 2

    def rest_s(self, table: ShapeTable) -> float:  # noqa: ARG002
        return 0.5

    def others_s(self, table: ShapeTable) -> float:  # noqa: ARG002
        return 0.5

    def interval90(self, savings: object) -> tuple[float, float] | None:  # noqa: ARG002
        return self.interval


def priced(us: float, name: str = "torchao-compiled", **anchor: float) -> LatencyEstimate:
    return Toy(us, runtime(name)).estimate(TABLE, ALL, **anchor)


@pytest.mark.parametrize(
    ("name", "bf16_us", "added_us"),
    [
        # a call: 1000 + 2 regions x (100 + 2 x 10) + 3 kernels x 5; quantized 4 x 50 + 200
        ("torchao-compiled", 4 * 1255, 4 * 400),
        ("torchao-step-graph", 4 * 1000, 0),
        # a call: 1000 + 23 kernels x 5; quantized 5 x 200
        ("torchao-eager", 4 * 1115, 4 * 1000),
    ],
)
def test_what_is_launched_is_counted(name: str, bf16_us: float, added_us: float) -> None:
    """Regions, Linears in them, kernels outside, and quantized weights, as the runtime has them."""
    work = host_work(TABLE, runtime(name))
    assert work is not None
    assert work.seconds({}) == pytest.approx(bf16_us / 1e6)
    assert work.seconds(ALL) == pytest.approx((bf16_us + added_us) / 1e6)
    assert sum(work.added_s(row) for row in TABLE.linears) == pytest.approx(added_us / 1e6)


def test_the_slower_of_the_two_decides_in_each_kind_of_step() -> None:
    """Of 4 steps 2 run quantized and are limited by the host; at the others the GPU is the limit,
    and its spare time does not help.
    """
    us, others_s = 280.0, 0.5
    table = dataclasses.replace(TABLE, settings={"num_inference_steps": 4})
    model = Toy(us, runtime("torchao-compiled"))
    halves = Assignment(ALL, StepPolicy(first_steps=2))
    estimate = model.estimate(table, halves)
    quantized_host_s, edge_gpu_s = 4 * 1655e-6, 20 * us / 1e6
    assert edge_gpu_s > 4 * 1255e-6
    assert estimate.quantized_s == pytest.approx(others_s + (quantized_host_s + edge_gpu_s) / 2)
    assert estimate.host is not None
    assert estimate.host.quantized_s == pytest.approx(4 * (1655 + 1255) / 2 * 1e-6)
    assert estimate.host.lost_s == pytest.approx((quantized_host_s - 10 * us / 1e6) / 2)
    in_a16 = Assignment(ALL, StepPolicy(first_steps=2, mode=EdgeMode.A16))
    found = model.estimate(table, in_a16)
    assert found.host is not None
    assert found.host.quantized_s == pytest.approx(quantized_host_s)  # as much is launched


def test_regions_are_told_by_their_stack() -> None:
    """Two regions of one list, and what is outside of both."""
    work = host_work(TABLE, runtime("torchao-compiled"))
    assert work is not None
    assert [(region.stack, len(region.linears)) for region in work.regions] == [
        ("blocks", 2),
        ("blocks", 2),
        (OUTSIDE, 1),
    ]


def test_without_counts_the_host_is_unknown() -> None:
    """A table that was recorded before regions were counted is priced by the GPU alone."""
    bare = dataclasses.replace(TABLE, run=None)
    assert host_work(bare, runtime("torchao-compiled")) is None
    estimate = Toy(1.0, runtime("torchao-compiled")).estimate(bare, ALL)
    assert estimate.host is None
    assert "host" not in estimate.to_json()


def test_a_slow_host_decides() -> None:
    """20 calls of 10 us on the GPU are hidden behind 5 ms of launches, and quantizing loses."""
    found = priced(10.0)
    assert found.runtime == "torchao-compiled"
    assert found.host is not None
    assert found.bf16_s == pytest.approx(0.5 + 4 * 1255e-6)
    assert found.quantized_s == pytest.approx(0.5 + 4 * 1655e-6)
    assert found.host.lost_s == pytest.approx(4 * 1655e-6 - 20 * 5e-6)
    assert found.speedup < 1
    assert str(found.host).startswith("limited by the host quantized: 2 ms a denoiser call")
    assert "torchao-step-graph" in what_helps(found)
    data = found.to_json()
    assert data["runtime"] == "torchao-compiled"
    assert data["host"]["regions"] == 8


def test_a_fast_host_changes_nothing() -> None:
    """Where the GPU takes longer, the seconds are the GPU's and nothing helps."""
    found = priced(10_000.0)
    assert found.host is not None
    assert (found.bf16_s, found.quantized_s) == pytest.approx((0.5 + 0.2, 0.5 + 0.1))
    assert (found.host.lost_s, str(found.host), what_helps(found)) == (0.0, "", "")


def test_what_is_run_already_does_not_help() -> None:
    """A step graph that waits for the host is not told to become one, nor that it waits 0 ms."""
    found = priced(10.0, "torchao-step-graph")
    assert found.host is not None
    assert str(found.host).startswith("limited by the host quantized: 0.98 ms a denoiser call (1")
    assert "torchao-step-graph" not in what_helps(found)
    assert "a larger batch" in what_helps(found)


def test_an_anchor_shorter_than_the_other_components_holds() -> None:
    """What is no denoiser's is a part of the rest, and the anchor corrects it with the rest."""
    found = priced(10_000.0, bf16_seconds=0.4)
    assert found.host is not None
    assert found.bf16_s == pytest.approx(0.4)
    assert found.host.gpu_bf16_s == pytest.approx(0.2)


def test_a_step_graph_takes_the_cost_away() -> None:
    """The same GPU's seconds count in full."""
    assert priced(1000.0, "torchao-step-graph").speedup == pytest.approx(0.52 / 0.51)


def test_a_measured_run_says_what_the_host_takes() -> None:
    """An anchor that the GPU does not explain scales the host; one that it does leaves it out."""
    slow = priced(10.0, bf16_seconds=0.6)
    assert slow.host is not None
    assert slow.bf16_s == pytest.approx(0.6)
    assert slow.quantized_s == pytest.approx(0.5 + 0.1 * 1655 / 1255)
    fast = priced(10.0, bf16_seconds=0.5002)
    assert fast.host is not None
    assert fast.bf16_s == pytest.approx(0.5002)
    assert fast.host.bf16_s <= 0.0002 + 1e-9


def test_the_interval_knows_the_host() -> None:
    """Far from the host's limit it is the GPU's own; at the limit it is wider below."""
    far, near = Toy(100_000.0, runtime("torchao-compiled")), Toy(500.0, runtime("torchao-compiled"))
    far.interval = near.interval = (1.01, 1.03)
    assert far.estimate(TABLE, ALL).interval90 == (1.01, 1.03)
    low, high = near.estimate(TABLE, ALL).interval90 or (math.nan, math.nan)
    assert low < 1.01
    assert low < high


def test_sdxl_waits_for_the_host_and_large_blocks_do_not() -> None:
    """The costs of an H100's hosts on 70 small blocks: in FP8 launching takes more than the 30 ms
    that a step takes the GPU; 38 blocks that take it 100 ms hide it.
    """
    for blocks, inside, outside, gpu_ms, waits in (
        (70, 10, 303, 30.0, True),
        (38, 14, 32, 100.0, False),
    ):
        counts = ComponentCounts(
            component="d",
            calls=1,
            kernels=blocks * 22 + outside,
            region_kernels=blocks * 22,
            regions=tuple(f"blocks.{i}" for i in range(blocks)),
        )
        names = [f"blocks.{i}.l{j}" for i in range(blocks) for j in range(inside)]
        table = dataclasses.replace(
            table_of(*(linear(name, 16, 16, {8: 1}) for name in names)),
            run=RunCounts(components=(counts,)),
        )
        formats = dict.fromkeys(names, FP8)
        for name in ("torchao-graphs", "torchao-compiled"):
            work = host_work(table, on_h100(name))
            assert work is not None
            assert (work.seconds(formats) * 1e3 > gpu_ms) is waits
        step = host_work(table, on_h100("torchao-step-graph"))
        assert step is not None
        assert step.seconds(formats) * 1e3 < 5
