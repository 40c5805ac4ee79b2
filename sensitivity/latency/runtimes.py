"""In which ways can a quantized denoiser be run, and what does each cost the host? `Runtime`.

Method. A GPU works through what Python launches. If Python takes longer to launch a part of a run
than the GPU takes to compute it, the part is limited by the host, and faster kernels save nothing.
What a launch costs depends on the runtime: what is compiled, whether CUDA graphs replay it, and
whether the weights are tensor subclasses that are unwrapped at every call. A skip-list's speedup
therefore belongs to a list and a runtime, and every latency names its own.

    get_runtime("torchao-graphs").host.region_us
    runtime_of("default").name                      # torchao-compiled

What it does not do: run anything (`timing.running`), or price a run (`host`).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Literal

from sensitivity.core.format_name import CompileMode
from sensitivity.core.words import did_you_mean
from sensitivity.errors import UserError

Compiled = Literal["blocks", "denoiser", "nothing"]
"""What torch.compile compiles: each repeated block, the denoiser as a whole, or nothing."""
Graphs = Literal["none", "blocks", "step"]
"""What one CUDA graph replays: nothing, a compiled region, or the whole denoiser call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostCosts:
    """What launching costs the host, in microseconds of its time.

    Attributes:
        call_us: A denoiser call, whatever is in it.
        region_us: Calling one compiled region.
        linear_us: Each Linear in a region, with the kernels around it.
        quantized_us: What each quantized Linear adds to its region.
        kernel_us: One kernel outside of compiled regions, launched from Python.
        eager_quantized_us: What quantizing adds to a Linear outside of compiled regions.
        spread: Relative standard deviation of all of them together, from host to host.
    """

    call_us: float
    region_us: float
    linear_us: float
    quantized_us: float
    kernel_us: float
    eager_quantized_us: float
    spread: float

    def scaled(self, factor: float) -> "HostCosts":
        """The costs of a host that takes `factor` times as long; the spread stays."""
        values = {name: value * factor for name, value in asdict(self).items()}
        return HostCosts(**values | {"spread": self.spread})


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """One way of running a denoiser.

    Attributes:
        name: What it is called.
        compile_mode: The mode of `torch.compile`; for a runtime that compiles nothing, "default".
        compiled: What is compiled.
        graphs: What CUDA graphs replay.
        plain_weights: Whether quantized weights are plain tensors (codes, scales) to the compiler,
            and no tensor subclasses that every call unwraps.
        fused_quantizers: Whether a quantizer is one kernel although nothing is compiled, as in
            servers with kernels of their own. torchao does not run so; it can only be priced.
        host: What it costs the host.
        sources: Where the costs come from.
    """

    name: str
    compile_mode: CompileMode
    compiled: Compiled
    graphs: Graphs
    plain_weights: bool = False
    fused_quantizers: bool = False
    host: HostCosts
    sources: tuple[str, ...]

    def has_compiled_kernels(self, block: str) -> bool:
        """Whether a Linear in this block has the kernels of a compiled one: GEMM and quantizer."""
        return self.fused_quantizers or self.compiles(block)

    @property
    def shapes_mode(self) -> CompileMode:
        """How single shapes are timed for it: in CUDA graphs always, since what launching costs is
        the host's part of a run (`host`).
        """
        return "reduce-overhead"

    def on_host(self, factor: float) -> "Runtime":
        """The same on a host that takes `factor` times as long."""
        return self if factor == 1 else replace(self, host=self.host.scaled(factor))

    def compiles(self, block: str) -> bool:
        """Whether a Linear in this block is compiled; "" is in none."""
        return self.compiled == "denoiser" or (self.compiled == "blocks" and bool(block))


_H200 = """measured: SDXL, SD 3.5 Large and FLUX.1-dev at 1024 x 1024, batch 1, random weights, \
FP8, on an H200 with a virtual Intel Xeon, torch 2.11, torchao 0.18 (benchmarks/runtimes.py, 28 \
November 2026)"""
_TURNS = """measured in turns, SDXL on that H200 with a graph for each block: 42.4 ms a step in \
bf16, 78.7 with all Linears in FP8, 51.6 with the rule of thumb's (benchmarks/foresight.py, 29 \
November 2026)"""
_H100 = """measured: SDXL end to end on an H100, default mode and reduce-overhead: 55 and 63.5 ms \
a step in bf16, 90 and 119 in FP8, torch 2.11, torchao 0.18 (28 November 2026)"""
_FAST = """stated for a fast host: the two machines' costs / 2.5, so that FLUX.1-dev in NVFP4 on a \
B200 with graphs, 1.41 s as published, is limited by the GPU"""
_SPREAD = 0.4
"""The two machines differ by up to 1.5, and one of them by up to 1.6 from hour to hour."""

_COMPILED = HostCosts(
    call_us=200,
    region_us=25,
    linear_us=28,
    quantized_us=14,
    kernel_us=10,
    eager_quantized_us=160,
    spread=_SPREAD,
)
_GRAPHS = replace(_COMPILED, region_us=160, linear_us=2.5, quantized_us=11)
_PLAIN = replace(_GRAPHS, quantized_us=2)
_STEP = replace(_COMPILED, call_us=900)
_SERVER = replace(_COMPILED, kernel_us=5, eager_quantized_us=10)

STEP_GRAPH = "torchao-step-graph"
RUNTIMES: Mapping[str, Runtime] = MappingProxyType(
    {
        runtime.name: runtime
        for runtime in (
            Runtime(
                name="torchao-graphs",
                compile_mode="reduce-overhead",
                compiled="blocks",
                graphs="blocks",
                host=_GRAPHS,
                sources=(_H200, _TURNS, _H100, _FAST),
            ),
            Runtime(
                name="torchao-compiled",
                compile_mode="default",
                compiled="blocks",
                graphs="none",
                host=_COMPILED,
                sources=(_H200, _H100, _FAST),
            ),
            Runtime(
                name=STEP_GRAPH,
                compile_mode="default",
                compiled="blocks",
                graphs="step",
                host=_STEP,
                sources=(_H200, _FAST),
            ),
            Runtime(
                name="torchao-graphs-plain",
                compile_mode="reduce-overhead",
                compiled="blocks",
                graphs="blocks",
                plain_weights=True,
                host=_PLAIN,
                sources=(_H200, _FAST),
            ),
            Runtime(
                name="torchao-eager",
                compile_mode="default",
                compiled="nothing",
                graphs="none",
                host=_COMPILED,
                sources=(_H200, _FAST),
            ),
            Runtime(
                name="server-eager",
                compile_mode="default",
                compiled="nothing",
                graphs="none",
                fused_quantizers=True,
                host=_SERVER,
                sources=(
                    _FAST,
                    """stated: a server launches a kernel in half of the time, and quantizing is \
one more kernel and one more Python call a Linear""",
                ),
            ),
        )
    }
)
"""The runtimes that can be priced, by name. `server-eager` is priced only."""


DEFAULT = "torchao-graphs"
"""The runtime that is priced where none is named."""


def get_runtime(name: str) -> Runtime:
    """Find a runtime by its name, in any case.

    Raises:
        UserError: No such runtime; the message names the closest one and all of them.
    """
    found = RUNTIMES.get(name.strip().lower())
    if found is None:
        hint = did_you_mean(name, RUNTIMES, otherwise="choose one of them")
        raise UserError(
            f"no `runtime` is called {name!r}; expected one of {', '.join(RUNTIMES)}: {hint}"
        )
    return found


def runtime_of(compile_mode: CompileMode) -> Runtime:
    """The runtime that compiles the repeated blocks in a mode of `torch.compile`."""
    name = DEFAULT if compile_mode == "reduce-overhead" else "torchao-compiled"
    return RUNTIMES[name]


def choose_runtime(name: str | None, compile_mode: CompileMode | None = None) -> Runtime:
    """The runtime of a name, of a compile mode, or the default one.

    Raises:
        UserError: No such runtime, or it compiles in another mode than the one that is named.
    """
    if name is None:
        return runtime_of(compile_mode or "reduce-overhead")
    runtime = get_runtime(name)
    if compile_mode not in (None, runtime.compile_mode):
        raise UserError(
            f"`runtime` {runtime.name} has the compile mode {runtime.compile_mode}, and"
            f" `compile_mode` is {compile_mode}; expected one of the two: leave `compile_mode` out"
        )
    return runtime


def runnable(runtime: Runtime) -> Runtime:
    """The runtime, if torchao runs so. Raises UserError if it can only be priced."""
    if runtime.fused_quantizers:
        others = [name for name, known in RUNTIMES.items() if not known.fused_quantizers]
        raise UserError(
            f"`runtime` {runtime.name} can be priced and not run: its quantizers are a server's;"
            f" expected one of {', '.join(others)} to measure: choose one of them"
        )
    return runtime


REFERENCE_US: Mapping[str, float] = MappingProxyType(
    {"eager_kernel_us": 3.4, "region_bf16_us": 31.4}
)
"""What two launches (`machine_limits.launch_costs`) take on the host that the costs are stated for:
8.5 and 78.5 us on the virtual machine with an H200 that they are fitted to, / 2.5.
"""
MOST_FACTOR = 8.0
"""A host that seems slower or faster than this was busy, or is another kind of machine."""


def host_factor(costs: Mapping[str, object]) -> float | None:
    """How many times longer a host takes to launch, by its own launch costs: the geometric mean of
    its ratios to `REFERENCE_US`; None where one of the two is missing.
    """
    times = [costs.get(name) for name in REFERENCE_US]
    ratios = [
        us / reference
        for us, reference in zip(times, REFERENCE_US.values(), strict=True)
        if isinstance(us, int | float) and us > 0
    ]
    if len(ratios) < len(REFERENCE_US):
        return None
    return min(max(math.prod(ratios) ** (1 / len(ratios)), 1 / MOST_FACTOR), MOST_FACTOR)
