"""What does the host cost in each way of running a denoiser, and which way takes the cost away?

    python benchmarks/runtimes.py --json runtimes.json --minutes 8            # one GPU
    python benchmarks/runtimes.py --json dry.json --small --device cpu        # as a test

One denoiser call with random weights at the size of the study, batch 1, with no Linear quantized
("none") and with all that the format takes ("all"), in every way of running: what is compiled
(blocks, larger parts, the whole denoiser, nothing), what CUDA graphs replay, and whether weights
are tensor subclasses or plain tensors. Of each:

    call        milliseconds of a call, calls back to back, as the steps of a run are
    host        milliseconds until Python has launched a call, from an idle GPU
    region      microseconds until Python has launched one region, for each kind of region
    kernels     how many kernels a call launches, and the sum of their times on the GPU
    profile     where Python's time of one region goes

The way that replays the whole call as one CUDA graph has a host time near 0: its milliseconds are
what the GPU takes. Cases run in an order that puts the most informative first; each has a time
limit, and a case that fails has its reason. --json is rewritten after every case. The last line of
stdout is everything as one JSON object.
"""

import argparse
import cProfile
import io
import json
import pstats
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from runtime_models import Model
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sensitivity.core.devices import free_memory, release_memory
from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName
from sensitivity.core.json_files import write_whole
from sensitivity.core.words import first_line
from sensitivity.latency.runtimes import RUNTIMES, Runtime
from sensitivity.latency.timing.machine_limits import launch_costs
from sensitivity.latency.timing.run_timing import time_calls
from sensitivity.latency.timing.running import running
from sensitivity.latency.timing.torch_settings import preserved_settings
from sensitivity.models.compiled_regions import begin_step, regions_of


@dataclass(frozen=True, kw_only=True)
class Way:
    """A runtime; `blocks` are classes to compile instead of the repeated blocks."""

    runtime: Runtime
    blocks: tuple[str, ...] = ()


def all_ways() -> dict[str, Way]:
    """All ways by name: the runtimes that ship, and others."""
    compiled, graphs = RUNTIMES["torchao-compiled"], RUNTIMES["torchao-graphs"]
    larger = ("Transformer2DModel",)
    plain: dict[str, Any] = {"plain_weights": True}
    whole: dict[str, Any] = {"compiled": "denoiser"}
    return {name: Way(runtime=known) for name, known in RUNTIMES.items()} | {
        "blocks, plain": Way(runtime=replace(compiled, **plain)),
        "larger blocks": Way(runtime=compiled, blocks=larger),
        "larger blocks, plain": Way(runtime=replace(compiled, **plain), blocks=larger),
        "larger blocks, graphs": Way(runtime=graphs, blocks=larger),
        "denoiser": Way(runtime=replace(compiled, **whole)),
        "denoiser, plain": Way(runtime=replace(compiled, **whole, **plain)),
        "denoiser, graphs": Way(runtime=replace(graphs, **whole)),
        "denoiser, step graph": Way(runtime=replace(compiled, **whole, graphs="step")),
    }


SHIPPED = """all: torchao-compiled
none: torchao-compiled
all: torchao-graphs
none: torchao-graphs
all: torchao-step-graph
none: torchao-step-graph
all: torchao-graphs-plain
all: torchao-eager
none: torchao-eager"""
WHOLE = """all: denoiser
none: denoiser
all: denoiser, graphs
none: denoiser, graphs
all: denoiser, step graph
all: blocks, plain"""
LARGER = """all: larger blocks
none: larger blocks
all: larger blocks, plain
all: larger blocks, graphs"""
PLAN = [
    ("sdxl", SHIPPED),
    ("sd3.5-large", SHIPPED),
    ("flux1-dev", SHIPPED),
    ("sdxl", WHOLE + "\n" + LARGER),
    ("sd3.5-large", WHOLE),
    ("flux1-dev", WHOLE),
]
"""Models with cases "list: way", in the order in which they run."""


@dataclass
class Regions:
    """The regions of a denoiser that were called, with the arguments of one of each kind."""

    count: int = 0
    kinds: dict[str, tuple[nn.Module, Any, Any, int]] = field(default_factory=dict)

    @classmethod
    def seen_in(cls, denoiser: nn.Module, call: Callable[[], object]) -> "Regions":
        """Watch one eager call."""
        found = cls()

        def watch(region: nn.Module, args: Any, kwargs: Any) -> None:
            tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            kind = f"{type(region).__name__} {tuple(tensors[0].shape)}"
            found.count += 1
            *_, calls = found.kinds.get(kind, (0,))
            first = found.kinds.get(kind, (region, args, kwargs))
            found.kinds[kind] = (first[0], first[1], first[2], calls + 1)

        handles = [
            region.register_forward_pre_hook(watch, with_kwargs=True)
            for fqn, region in regions_of(denoiser)[1].items()
            if fqn
        ]
        call()
        for handle in handles:
            handle.remove()
        return found


def launch_us(work: Callable[[], object], device: torch.device, repetitions: int) -> float:
    """Median microseconds until Python has launched the work, from an idle GPU."""
    took = []
    for _ in range(repetitions):
        wait(device)
        start = time.perf_counter()
        work()
        took.append((time.perf_counter() - start) * 1e6)
    wait(device)
    return statistics.median(took)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def profile_of(work: Callable[[], object], calls: int, device: torch.device) -> list[str]:
    """The functions in which Python spends its own time, microseconds a call."""
    profile = cProfile.Profile()
    for _ in range(calls):
        wait(device)
        profile.enable()
        work()
        profile.disable()
    stats = pstats.Stats(profile, stream=io.StringIO())
    rows = sorted(stats.stats.items(), key=lambda item: -item[1][2])[:18]  # type: ignore[attr-defined]
    return [
        f"{own / calls * 1e6:.1f} us {count / calls:.1f}x {'/'.join(file.split('/')[-2:])}:{name}"
        for (file, _, name), (_, count, own, _, _) in rows
    ]


def count_kernels(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    """How many kernels a call launches, and the sum of their milliseconds on the GPU."""
    if device.type != "cuda":
        return {}
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        work()
        wait(device)
    events = [e for e in profile.events() if str(e.device_type).endswith("CUDA")]
    return {"kernels": len(events), "kernels_ms": sum(e.device_time for e in events) / 1e3}


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError inside after so many seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"took longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measure(model: Model, which: str, way: Way, arguments: argparse.Namespace) -> dict[str, Any]:
    """One case: a denoiser in one way."""
    denoiser = model.denoiser(which)
    own = getattr(denoiser, "_repeated_blocks", None)
    if way.blocks:
        denoiser._repeated_blocks = list(way.blocks)  # type: ignore[assignment]
    torch._dynamo.reset()
    try:
        regions = Regions.seen_in(denoiser, lambda: denoiser(*model.args, **model.kwargs))
        with running(denoiser, way.runtime, backend=arguments.backend) as run:
            return measure_open(model, which, way, regions, run, small=arguments.small)
    finally:
        denoiser._repeated_blocks = own  # type: ignore[assignment]


def measure_open(
    model: Model,
    which: str,
    way: Way,
    regions: Regions,
    run: Callable[..., object],
    *,
    small: bool,
) -> dict[str, Any]:
    """The measurements of a case; `run` makes a call."""
    device, repetitions = model.device, 2 if small else 10

    def call() -> object:
        return run(*model.args, **model.kwargs)

    start = time.perf_counter()
    output = pytree.tree_leaves(call())[0].float()
    wait(device)
    found: dict[str, Any] = {"first_s": time.perf_counter() - start, "regions": regions.count}
    found["difference"] = model.difference(which, output)
    for _ in range(3):
        call()
    halved = pytree.tree_leaves(run(*model.args, **model.halved()))[0].float()
    found["difference_halved"] = model.difference(f"{which}, halved", halved)
    seconds = time_calls(call, repetitions, device)
    found |= {"call_s": list(seconds), "call_ms": statistics.median(seconds) * 1e3}
    found["host_ms"] = launch_us(call, device, repetitions) / 1e3
    if way.runtime.graphs != "step" and way.runtime.compiled != "denoiser":
        found |= look_at_regions(regions, device, small, way)
    if not small and way.runtime.graphs == "none":
        found |= count_kernels(call, device)
    return found


def look_at_regions(
    regions: Regions, device: torch.device, small: bool, way: Way
) -> dict[str, Any]:
    """Launch times of one region of each kind; the profile of the most frequent kind."""
    times, works = {}, {}
    for kind, (region, args, kwargs, calls) in regions.kinds.items():

        def work(region: Any = region, args: Any = args, kwargs: Any = kwargs) -> object:
            if way.runtime.graphs == "blocks":
                begin_step()
            return region(*args, **kwargs)

        for _ in range(3):
            work()
        times[kind] = {"launch_us": launch_us(work, device, 3 if small else 40), "calls": calls}
        works[kind] = work
    if not times:
        return {}
    most = max(times, key=lambda kind: times[kind]["calls"])
    profile = profile_of(works[most], 2 if small else 20, device)
    return {"region_us": times, "profile": {"of": most, "rows": profile}}


def run_plan(arguments: argparse.Namespace, document: dict[str, Any]) -> None:
    """Every case of the plan while there is time, written as it comes."""
    started = time.monotonic()
    plan = PLAN
    if arguments.small:
        plan = [("small-unet", f"{SHIPPED}\n{WHOLE}\n{LARGER}")]
    model: Model | None = None
    for name, cases in plan:
        if arguments.model and name not in arguments.model:
            continue
        for which, _, way in (line.partition(": ") for line in cases.splitlines()):
            left = arguments.minutes * 60 - (time.monotonic() - started)
            if left < 5:
                continue
            case: dict[str, Any] = {"model": name, "list": which, "way": way}
            begun = time.monotonic()
            try:
                with time_limit(min(left, arguments.case_seconds)):
                    if model is None or model.name != name:
                        model = None
                        release_memory(torch.device(arguments.device))
                        model = Model(name, arguments.device, FormatName(arguments.format))
                    case |= measure(model, which, all_ways()[way], arguments)
            except Exception as error:
                case["reason"] = f"{type(error).__name__}: {first_line(error, most=600)}"
            case["case_s"] = time.monotonic() - begun
            free_memory(torch.device(arguments.device))
            document["cases"].append(case)
            write_whole(arguments.json, (json.dumps(document, indent=1) + "\n").encode())
            print(row_of(case), file=sys.stderr, flush=True)


def cpu_name() -> str:
    """The CPU's name where the kernel tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    found = next((line for line in lines if line.startswith("model name")), "")
    return found.partition(":")[2].strip()


def row_of(case: dict[str, Any]) -> str:
    """One row of the table."""
    row = f"{case['model']:12} {case['list']:5} {case['way']:38}"
    if "reason" in case:
        return f"{row} {case['reason'][:120]}"
    regions = [f"{times['launch_us']:.0f}" for times in case.get("region_us", {}).values()]
    kernels = f"{case.get('kernels', ''):>6} {case.get('kernels_ms', float('nan')):>8.1f}"
    return (
        f"{row}{case['call_ms']:>9.2f}{case['host_ms']:>9.2f} {kernels}{case['first_s']:>8.1f}"
        f"  {'/'.join(regions)}"
    )


def main() -> None:
    """Measure, print the table, then one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="rewritten after every case")
    parser.add_argument("--minutes", type=float, default=8.0, help="no case begins later")
    parser.add_argument("--case-seconds", type=float, default=150.0, help="the most one case takes")
    parser.add_argument("--model", action="append", help="only this one; may be repeated")
    parser.add_argument("--format", choices=["fp8", "mxfp8", "nvfp4"], default="fp8")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    arguments.backend = "inductor" if arguments.device.startswith("cuda") else "eager"
    device = torch.device(arguments.device)
    document = {
        "benchmark": "runtimes",
        "machine": describe_environment(arguments.device) | {"cpu": cpu_name()},
        "host": launch_costs(device, (), quantize=lambda *_: None, backend=arguments.backend),
        "settings": {"format": arguments.format, "batch_size": 1, "weights": "random"},
        "cases": [],
    }
    with preserved_settings(recompile_limit=16), torch.no_grad():
        run_plan(arguments, document)
    print(f"{'model':12} {'list':5} {'way':38}{'call ms':>9}{'host ms':>9} kernels   sum ms first s"
          "  us a region")  # fmt: skip
    for case in document["cases"]:
        print(row_of(case))
    print(json.dumps(document))


if __name__ == "__main__":
    main()
