"""Runtimes are found by name, and a compile mode names one."""

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.errors import UserError
from sensitivity.latency import PredictedLatency, get_device
from sensitivity.latency.runtimes import (
    REFERENCE_US,
    RUNTIMES,
    choose_runtime,
    get_runtime,
    host_factor,
    runtime_of,
)
from sensitivity.shapes.run import run_shapes
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.loading import resolve_spec


def test_every_runtime_has_costs_and_sources() -> None:
    """Each says where its costs come from; none is negative."""
    for name, runtime in RUNTIMES.items():
        assert name == runtime.name
        assert runtime.sources
        costs = runtime.host
        assert costs.call_us > 0
        assert costs.spread > 0
        assert min(costs.region_us, costs.linear_us, costs.quantized_us, costs.kernel_us) >= 0


def test_a_runtime_is_found_by_its_name() -> None:
    """In any case; an unknown name gets the closest one."""
    assert get_runtime(" Torchao-Eager ").compiled == "nothing"
    with pytest.raises(UserError, match=r"`runtime` .* did you mean 'torchao-graphs'"):
        get_runtime("torchao-graph")


def test_a_compile_mode_names_a_runtime() -> None:
    """Both modes compile blocks; reduce-overhead has a CUDA graph for each."""
    graphs, plain = runtime_of("reduce-overhead"), runtime_of("default")
    assert (graphs.name, graphs.graphs) == ("torchao-graphs", "blocks")
    assert (plain.name, plain.graphs) == ("torchao-compiled", "none")
    assert graphs.compiles("blocks.0")
    assert not graphs.compiles("")
    assert not get_runtime("torchao-eager").compiles("blocks.0")


@pytest.fixture(scope="module")
def z_image() -> ShapeTable:
    return run_shapes(resolve_spec("z-image-turbo")).table


def test_without_compiling_fp8_gains_far_less(z_image: ShapeTable) -> None:
    """Z-Image-Turbo in FP8 on a B200: a server that compiles nothing published 1.147x. Eager
    torchao, whose quantizers are many kernels, is slower than bf16.
    """
    formats = dict.fromkeys((x.fqn for x in z_image.linears if x.block), FormatName.FP8)
    found = {
        name: PredictedLatency(get_device("b200"), runtime=get_runtime(name)).estimate(
            z_image, formats
        )
        for name in ("torchao-graphs", "server-eager", "torchao-eager")
    }
    graphs, server, eager = found.values()
    assert [estimate.runtime for estimate in found.values()] == list(found)
    assert server.speedup < 1 + 0.8 * (graphs.speedup - 1)
    assert eager.speedup < 1
    low, high = server.interval90 or (0.0, 0.0)
    assert low < 1.147 < high
    assert eager.bf16_s == pytest.approx(server.bf16_s, rel=0.05)
    assert eager.bf16_s > 1.1 * graphs.bf16_s


def test_a_slow_host_has_higher_costs() -> None:
    """An H100's shipped hosts are virtual machines; a factor multiplies every cost, and a measured
    one takes the place of the stated one.
    """
    runtime = get_runtime("torchao-graphs")
    h100 = PredictedLatency(get_device("h100")).runtime
    assert h100.host.region_us == pytest.approx(
        runtime.host.region_us * get_device("h100").host_factor
    )
    assert h100.host.spread == runtime.host.spread
    twice = {name: 2 * us for name, us in REFERENCE_US.items()}
    assert host_factor(twice) == pytest.approx(2)
    assert host_factor(twice | {"eager_kernel_us": "out of memory"}) is None


def test_a_runtime_and_a_compile_mode_may_not_differ() -> None:
    """The one names the other."""
    assert choose_runtime(None).name == "torchao-graphs"
    assert choose_runtime(None, "default").name == "torchao-compiled"
    assert choose_runtime("torchao-step-graph", "default").graphs == "step"
    with pytest.raises(
        UserError, match=r"`runtime` torchao-step-graph has the compile mode default"
    ):
        choose_runtime("torchao-step-graph", "reduce-overhead")
