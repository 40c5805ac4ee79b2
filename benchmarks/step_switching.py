"""What does a change of precision in the middle of a run cost, under torch.compile and CUDA graphs?

FLUX.1-dev's denoiser at full size with random weights, its Linears in blocks in FP8 (all but those
of norms), on the GPU at hand. A run is 6 steps of a loop like the pipeline's. Three kinds of runs
take turns: every step quantized, every step at higher precision, and mixed, by a policy (first 1
and last 2 steps), which is run each round and the others each third. Each mode of edge steps (bf16
weights beside; W x A16 from the quantized ones) is timed in each runtime: blocks compiled; blocks
compiled, a CUDA graph each; and in bf16 one CUDA graph for the whole call, where the host has
next to nothing to do.

Every step is timed, on the GPU and on the host. `step_times.py` says how what a switch costs is
told from how the GPU's clocks drift. Beside it: the host's work in each step of a run whose steps
wait for one another, and the same before any switch (a write to a module's weights ends a shortcut
that guards take in torch up to 2.11, so each later step may take the host longer); the clock of the
SMs at each boundary; the host's time for a switch alone; and the graphs that torch compiled and
recorded after warm-up (expected: none).

Pictures: the mixed run's last latents. In bf16, run eagerly they are compared with those of two
modules that share their weights, one quantized and one not, called in turns without any switching;
compiled runs with the eager one, and with one another bit for bit.

Every finished cell is printed and written to --out. The last line of stdout is one JSON object.

    python benchmarks/step_switching.py --out step_switching.json
    python benchmarks/step_switching.py --smoke
"""

import argparse
import gc
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from step_times import Run, Timed, medians, over_pure, switches_of
from torch import Tensor, nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName
from sensitivity.core.step_policy import EdgeMode, StepPolicy
from sensitivity.errors import SensitivityError
from sensitivity.formats.edge_weights import forget_weights, keep_weights, kept_bytes
from sensitivity.formats.native import describe_versions, quantize_native
from sensitivity.latency.runtimes import get_runtime
from sensitivity.latency.timing.running import running
from sensitivity.latency.timing.step_graph import StepGraph
from sensitivity.latency.timing.tensors import materialize, stored_bytes
from sensitivity.latency.timing.torch_settings import preserved_settings
from sensitivity.models.compiled_regions import compiled_graphs
from sensitivity.models.random_weights import random_component
from sensitivity.models.shared_copies import shared_copy
from sensitivity.recipes.step_switching import StepSwitching
from sensitivity.shapes.run import run_shapes
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.study_spec import StudySpec

SMALL = {"num_layers": 2, "num_single_layers": 2, "num_attention_heads": 2}
RUNTIMES = ("torchao-compiled", "torchao-step-graph", "torchao-graphs")
KINDS = ("quantized", "edge", "mixed")
PURE_EVERY = 3
"""Rounds of which one has runs in one precision."""
LEAST_ROUNDS = 4
"""Also after the time limit, so that there are two rounds of each kind."""
WARM_UP_STEPS = 3
"""Compiled, recorded, replayed."""


def allocated(device: torch.device) -> int:
    """Bytes that torch has allocated on the GPU; 0 on a CPU."""
    gc.collect()
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def recorded_graphs(device: torch.device) -> int:
    """CUDA graphs in torch's graph trees."""
    if device.type != "cuda":
        return 0
    from torch._inductor import cudagraph_trees

    index = torch.cuda.current_device() if device.index is None else device.index
    manager = cudagraph_trees.get_manager(index, create_if_none_exists=False)
    waiting = [node for nodes in manager.roots.values() for node in nodes] if manager else []
    count = 0
    while waiting:
        node = waiting.pop()
        count += 1
        waiting += [child for children in node.children.values() for child in children]
    return count


@contextmanager
def run_in(
    runtime: str, denoiser: nn.Module, switching: StepSwitching, backend: str
) -> Iterator[None]:
    """The denoiser runs in a runtime inside. A graph of the whole call is captured for each
    precision.
    """
    if runtime != "torchao-step-graph":
        with running(denoiser, get_runtime(runtime), backend=backend):
            yield
        return
    with running(denoiser, get_runtime("torchao-compiled"), backend=backend):
        device = next(denoiser.parameters()).device
        call = denoiser._call_impl
        graphs = {at_edge: StepGraph(call, device) for at_edge in (False, True)}
        denoiser._compiled_call_impl = lambda *args, **kwargs: graphs[switching.at_edge](
            *args, **kwargs
        )
        yield


def before(kind: str, switching: StepSwitching, steps: int) -> Callable[[int], None]:
    """What a kind of run does before a step."""
    if kind == "mixed":
        return lambda step: switching.before_step(step, steps)
    switching.at_edge = kind == "edge"
    return lambda _step: None


def timed_rounds(
    run: Run, switching: StepSwitching, arguments: argparse.Namespace, expected: dict[str, Tensor]
) -> tuple[dict[str, list[Timed]], bool]:
    """The runs of each kind, and whether pictures of a kind were equal to the bit."""
    runs: dict[str, list[Timed]] = {kind: [] for kind in KINDS}
    rng, same = random.Random(0), True
    for number in range(arguments.repetitions):
        if number >= LEAST_ROUNDS and time.monotonic() > arguments.ends_at:
            break
        kinds = KINDS if number % PURE_EVERY == 0 else ("mixed",)
        for kind in rng.sample(kinds, len(kinds)):
            found = run.timed(before(kind, switching, run.steps))
            same = same and torch.equal(found.latents, expected.setdefault(kind, found.latents))
            runs[kind].append(found)
    return runs, same


def never_switched(run: Run, switching: StepSwitching) -> list[float] | None:
    """Milliseconds of the host's work in quantized steps of which no graph has seen a switch, after
    their warm-up; None where the graphs were there before.
    """
    compiled = compiled_graphs()
    in_format = before("quantized", switching, run.steps)
    run.latents(in_format, steps=WARM_UP_STEPS)
    if compiled_graphs() == compiled:
        return None
    return run.timed(in_format, waits=True).host_ms


def measure(
    run: Run, switching: StepSwitching, runtime: str, arguments: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The row of a runtime, and the latents of each kind of run, after a warm-up."""
    policy, steps = switching.policy, run.steps
    precisions = ["quantized" if policy.quantizes(i, steps=steps) else "edge" for i in range(steps)]
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)
    begun = time.monotonic()
    with run_in(runtime, run.denoiser, switching, arguments.backend):
        never = never_switched(run, switching)
        run.latents(before("edge", switching, steps), steps=WARM_UP_STEPS)
        pictures = {"mixed": run.latents(before("mixed", switching, steps)).clone()}
        run.synchronize()
        warm_s, compiled = time.monotonic() - begun, compiled_graphs()
        recorded = recorded_graphs(run.device)
        runs, same = timed_rounds(run, switching, arguments, pictures)
        after = compiled_graphs() - compiled, recorded_graphs(run.device) - recorded
        waiting = run.timed(before("mixed", switching, steps), waits=True)
        mhz = run.clocks(before("mixed", switching, steps))
        host_us = host_cost_us(switching)
        switching.after_call()
    times = {kind: [each.step_ms for each in found] for kind, found in runs.items()}
    own = [[each[i] for each in times[precision]] for i, precision in enumerate(precisions)]
    excess = over_pure(times["mixed"], own)
    return {
        "runtime": runtime,
        "mode": policy.mode.value,
        "precisions": precisions,
        "runs": {kind: len(found) for kind, found in runs.items()},
        "step_ms": {kind: medians(found) for kind, found in times.items()},
        "mixed_over_pure_percent": medians(excess),
        "switches": switches_of(precisions, excess),
        "host_step_ms": medians([each.host_ms for each in runs["mixed"]]),
        "host_step_alone_ms": waiting.host_ms,
        "host_step_alone_never_switched_ms": never,
        "sm_mhz": mhz,
        "switch_host_us": host_us,
        "compiled_after_warm_up": after[0],
        "recorded_after_warm_up": after[1],
        "repetitions_equal_bit_for_bit": same,
        "peak_gb": torch.cuda.max_memory_allocated(run.device) / 1e9
        if run.device.type == "cuda"
        else 0,
        "warm_up_s": warm_s,
        "all_step_ms": times,
    }, pictures


def host_cost_us(switching: StepSwitching, times: int = 50) -> float:
    """Microseconds of the host's time that a switch takes, in and out."""
    begun = time.perf_counter()
    for _ in range(times):
        switching.at_edge = True
        switching.at_edge = False
    return 1e6 * (time.perf_counter() - begun) / (2 * times)


def distance(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def study(smoke: bool, blocks: list[int] | None, folder: Path) -> StudySpec:
    """FLUX.1-dev; small, or with fewer blocks, where that is asked for."""
    spec = resolve_spec("flux1-dev")
    changes = SMALL if smoke else {}
    if blocks:
        changes = changes | {"num_layers": blocks[0], "num_single_layers": blocks[1]}
    if not changes:
        return spec
    assert spec.model.config is not None
    shutil.copytree(spec.model.config, folder, dirs_exist_ok=True)
    path = folder / "transformer" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | changes), encoding="utf-8")
    size = {"height": 128, "width": 128} if smoke else {}
    return spec.model_copy(
        update={
            "model": spec.model.model_copy(update={"config": folder}),
            "settings": {**spec.settings, **size},
        }
    )


def quantize(denoiser: nn.Module, linears: dict[str, nn.Linear], smoke: bool) -> None:
    """FP8 as it is served; on a CPU, which has no FP8, torchao's int8."""
    if smoke:
        config = Int8DynamicActivationInt8WeightConfig()
        quantize_(denoiser, config, filter_fn=lambda _module, fqn: fqn in linears)
    else:
        quantize_native(denoiser, dict.fromkeys(linears, FormatName.FP8))


def chosen_linears(denoiser: nn.Module) -> dict[str, nn.Linear]:
    """The Linears of blocks, without those of norms, whose M is the batch."""
    return {
        fqn: child
        for fqn, child in denoiser.named_modules()
        if isinstance(child, nn.Linear) and "blocks." in fqn and "norm" not in fqn
    }


def eager_picture(
    run: Run, switching: StepSwitching, plain: nn.Module | None
) -> tuple[Tensor, bool | None]:
    """The latents of an eager mixed run, and whether they equal those of two modules, `plain` at
    edge steps, called without switching.
    """
    found = run.latents(before("mixed", switching, run.steps))
    switching.after_call()
    if plain is None:
        return found, None
    expected = run.latents(
        lambda _step: None,
        denoiser_of=lambda step: (
            run.denoiser if switching.policy.quantizes(step, steps=run.steps) else plain
        ),
    )
    return found, torch.equal(found, expected)


def measure_mode(
    run: Run,
    linears: dict[str, nn.Linear],
    policy: StepPolicy,
    plain: nn.Module | None,
    arguments: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    """The rows of one mode of edge steps."""
    switching = StepSwitching(linears, policy)
    memory = allocated(run.device), stored_bytes(run.denoiser)
    eager, equal = eager_picture(run, switching, plain)
    for runtime in arguments.runtime:
        if runtime == "torchao-step-graph" and policy.mode is EdgeMode.A16:
            continue  # what its replays show is the GPU's, in bf16 as in a16
        try:
            row, pictures = measure(run, switching, runtime, arguments)
        except (RuntimeError, SensitivityError) as error:
            yield {"runtime": runtime, "mode": policy.mode.value, "error": repr(error)[:500]}
            switching.after_call()
            continue
        yield row | {
            "allocated_gb": memory[0] / 1e9,
            "weights_gb": memory[1] / 1e9,
            "beside_gb": kept_bytes(linears.values()) / 1e9,
            "eager_equals_two_modules": equal,
            "mixed_from_eager": distance(pictures["mixed"], eager),
            "mixed_from_quantized": distance(pictures["mixed"], pictures["quantized"]),
        }


def arguments_of() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--blocks", type=int, nargs=2, help="double and single blocks")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--first", type=int, default=1, help="edge steps at the beginning")
    parser.add_argument("--last", type=int, default=2, help="edge steps at the end")
    parser.add_argument("--mode", nargs="+", choices=list(EdgeMode), default=list(EdgeMode))
    parser.add_argument("--runtime", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--repetitions", type=int, default=8)
    parser.add_argument(
        "--time-limit-s", type=float, default=145, help="after it each cell has its least rounds"
    )
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--smoke", action="store_true", help="a small FLUX in int8, on a CPU")
    arguments = parser.parse_args()
    if arguments.smoke:
        torch.set_num_threads(1)
        arguments.device, arguments.repetitions = "cpu", 1
        arguments.steps = 5
    arguments.ends_at = time.monotonic() + arguments.time_limit_s
    return arguments


def main() -> None:
    """Measure and print; the last line is JSON."""
    arguments, begun = arguments_of(), time.monotonic()
    device = torch.device(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        spec = study(arguments.smoke, arguments.blocks, Path(folder) / "flux")
        calls = run_shapes(spec).calls
        denoiser = random_component(spec, device=arguments.device).eval()
    call = max(calls, key=lambda each: each.calls)
    run = Run(denoiser, materialize(call.kwargs, device), arguments.steps)
    linears = chosen_linears(denoiser)
    document: dict[str, Any] = {
        "benchmark": "step_switching",
        "machine": describe_environment(arguments.device) | describe_versions(),
        "settings": {key: str(value) for key, value in vars(arguments).items() if key != "ends_at"},
        "linears": len(linears),
        "bf16_gb": stored_bytes(denoiser) / 1e9,
        "rows": [],
    }
    with torch.no_grad(), preserved_settings(recompile_limit=16):
        plain: nn.Module | None = shared_copy(denoiser)
        keep_weights(linears.values())
        quantize(denoiser, linears, arguments.smoke)
        document["quantized_gb"] = stored_bytes(denoiser) / 1e9
        for mode in sorted(arguments.mode, reverse=True):  # bf16 first: its weights go afterwards
            if mode == EdgeMode.A16:
                plain = None
                forget_weights(linears.values())
            policy = StepPolicy(
                first_steps=arguments.first, last_steps=arguments.last, mode=EdgeMode(mode)
            )
            for row in measure_mode(run, linears, policy, plain, arguments):
                document["rows"].append(row)
                print(json.dumps({k: v for k, v in row.items() if k != "all_step_ms"}), flush=True)
                if arguments.out:
                    arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    document["took_s"] = time.monotonic() - begun
    if arguments.out:
        arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
