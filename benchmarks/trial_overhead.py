"""What does a trial cost beyond the sampling of its prompts, and where does the rest go?

Beside it the loop that a user would write.

A search of `--budget` trials runs as `sensitivity search` runs it, with its steps timed. Then the
same skip-lists again by a hand-written loop over the same switched denoiser: nothing but pipeline
calls. Overhead is what the search took beyond that, a trial. `--naive` adds what people do today,
for `--naive-trials` skip-lists: load the pipeline from a folder of safetensors (written once, so
the system may have them in memory), `quantize_`, compile, generate, LPIPS, each time from the start
(FP8 on a GPU that has it, MXFP8 by torchao's emulation elsewhere). Inductor's cache is empty when
it begins and is kept between its trials.

    python benchmarks/trial_overhead.py --model tiny-flux --budget 12 --naive
    python benchmarks/trial_overhead.py --model flux1-dev --weights random --steps 4 --budget 5 \\
        --prompts 2 --out overhead.json
"""

import argparse
import gc
import itertools
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from torchao.prototype.mx_formats import MXDynamicActivationMXWeightConfig
from torchao.quantization import quantize_
from torchao.quantization.quantize_.common import KernelPreference

from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName, parse_formats
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.lpips import study_distance
from sensitivity.formats.native import quantize_native
from sensitivity.formats.registry import get_format
from sensitivity.models.compiled_regions import compile_denoiser, compiled_graphs
from sensitivity.models.loading import load_pipeline, text_call
from sensitivity.search.loop import run_search
from sensitivity.search.settings import SearchSettings
from sensitivity.search.store import Store
from sensitivity.search.trials import SearchEvents
from sensitivity.shapes.deriving import derive_study
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.overrides import with_net, with_random_weights
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.prepare import prepare
from sensitivity.workflows.requests import SearchRequest

EMULATED_MXFP8 = MXDynamicActivationMXWeightConfig(kernel_preference=KernelPreference.EMULATED)


class Stopwatch:
    """Seconds by name, the GPU's work included, of functions that are watched."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, defaultdict[str, float](float)

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Time every call of a bound method."""
        plain = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            return self.part(name, lambda: plain(*args, **kwargs))

        setattr(owner, method, timed)

    def part(self, name: str, work: Callable[[], Any]) -> Any:
        """The result of `work`, its seconds added to this name's."""
        result, seconds = self.time(work)
        self.seconds[name] += seconds
        return result

    def time(self, work: Callable[[], Any]) -> tuple[Any, float]:
        """The result and its seconds."""
        self.wait()
        begun = time.perf_counter()
        result = work()
        self.wait()
        return result, time.perf_counter() - begun

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def study(args: argparse.Namespace) -> StudySpec:
    """The study with what the command line cuts."""
    spec = derive_study(resolve_spec(args.model))
    settings = spec.settings | ({"num_inference_steps": args.steps} if args.steps else {})
    prompts = spec.prompts
    if args.prompts:
        prompts = prompts.model_copy(
            update={"search": prompts.search[: args.prompts], "held_out": prompts.held_out[:1]}
        )
    spec = spec.model_copy(
        update={
            "settings": settings,
            "prompts": prompts,
            "search": spec.search.model_copy(update={"order": ()}),
        }
    )
    if args.weights == "random":
        spec = with_net(with_random_weights(spec), "tiny")
    return spec


def searched(
    spec: StudySpec, args: argparse.Namespace, watch: Stopwatch, folder: Path
) -> tuple[Evaluator, dict[str, Any], list[Any]]:
    """Run the search; (evaluator, what it took, formats of its trials)."""
    formats = parse_formats(args.formats)
    prepared, prepare_s = watch.time(
        lambda: prepare(
            spec,
            SearchRequest(
                formats=formats,
                budget=args.budget,
                device=args.device,
                cache_folder=folder / "cache",
            ),
        )
    )
    evaluator, candidates = prepared.evaluator, prepared.candidates
    for split in ("search",):
        _, references_s = watch.time(
            lambda split=split: (evaluator.references(split), evaluator.noise_floors)
        )
    marks, graphs, choices = list[float](), list[int](), list[Any]()

    def began(_index: int, _label: str) -> None:
        watch.wait()
        marks.append(time.perf_counter())
        graphs.append(compiled_graphs())

    def scored(trial: Any) -> None:
        choices.append(candidates.decode(trial.choice))

    watch.watch(evaluator.media_generator, "generate", "sampling and decoding")
    watch.watch(evaluator.switch, "set", "switching")
    settings = SearchSettings(
        formats=formats, target=prepared.latency.target, budget=args.budget, calibrated=False
    )
    with Store.open(folder / "study.db") as store:
        run_search(evaluator, candidates, store, settings, SearchEvents(began=began, scored=scored))
    watch.wait()
    marks.append(time.perf_counter())
    trials = [after - before for before, after in itertools.pairwise(marks)]
    took = {
        "prepare_s": prepare_s,
        "references_s": references_s,
        "trial_s": trials,
        "graphs_compiled_in_trials": compiled_graphs() - graphs[0],
        "parts_s": dict(watch.seconds),
    }
    return evaluator, took, choices


def bare(
    spec: StudySpec, evaluator: Evaluator, choices: list[Any], watch: Stopwatch
) -> list[float]:
    """Seconds of nothing but pipeline calls, for each skip-list."""
    pipe, (texts, seeds) = evaluator.loaded.pipe, evaluator.prompts("search")
    size, seconds = evaluator.batch_size("search"), []
    call = {
        key: value
        for key, value in text_call(spec, pipe, "").items()
        if key not in ("prompt", "generator")
    }

    def sample() -> None:
        for start in range(0, len(texts), size):
            chunk = slice(start, start + size)
            some = list(texts[chunk])
            negative = (
                {"negative_prompt": call["negative_prompt"] * len(some)}
                if "negative_prompt" in call
                else {}
            )
            pipe(
                **call
                | negative
                | {
                    "prompt": some,
                    "generator": [torch.Generator().manual_seed(seed) for seed in seeds[chunk]],
                }
            )

    for formats in choices:
        evaluator.switch.set(formats)
        with torch.no_grad(), evaluator.blocks.running():
            seconds.append(watch.time(sample)[1])
    evaluator.switch.set({})
    return seconds


def naive(
    spec: StudySpec, choices: list[Any], count: int, device: str, watch: Stopwatch, folder: Path
) -> tuple[list[float], dict[str, float]]:
    """Seconds of whole trials as people write them, and of their parts, means."""
    where, parts = torch.device(device), Stopwatch(torch.device(device))
    fmt = next(
        (
            name
            for name in (FormatName.FP8, FormatName.MXFP8)
            if get_format(name).native_refusal(where) is None
        ),
        None,
    )
    distance, seconds = study_distance(spec, device=device), []
    references: dict[str, torch.Tensor] = {}
    whole = load_pipeline(spec, device=device, resident=True).pipe
    whole.save_pretrained(folder)
    others = {
        name: part
        for name, part in whole.components.items()
        if part is not None and not isinstance(part, torch.nn.Module)
    }
    del whole  # its tokenizers stay: stand-ins of a model without weights are not written
    gc.collect()

    def trial(formats: dict[str, FormatName] | None) -> None:
        torch._dynamo.reset()
        gc.collect()
        pipe = parts.part(
            "loading",
            lambda: diffusers.DiffusionPipeline.from_pretrained(
                folder, dtype=torch.bfloat16, **others
            ).to(device),
        )
        pipe.set_progress_bar_config(disable=True)
        denoiser = getattr(pipe, spec.model.component)
        if formats is not None and fmt is not None:
            chosen = {fqn: fmt for fqn, name in formats.items() if name is not FormatName.BF16}
            parts.part("quantizing", lambda: quantize_native(denoiser, chosen))
        elif formats is not None:
            skip = {name for name, given in formats.items() if given is FormatName.BF16}
            parts.part(
                "quantizing",
                lambda: quantize_(
                    denoiser,
                    EMULATED_MXFP8,
                    filter_fn=lambda m, fqn: type(m) is torch.nn.Linear and fqn not in skip,
                ),
            )
        compile_denoiser(denoiser, compile_mode="default")
        for i, text in enumerate(spec.prompts.search):
            call = text_call(spec, pipe, text) | {"generator": torch.Generator().manual_seed(i)}
            with torch.no_grad():
                output = parts.part(
                    "compiling and sampling" if i == 0 else "sampling",
                    lambda call=call: pipe(**call),
                )
            picture = output.images.float().cpu() * 2 - 1
            if text in references:
                distance(picture, references[text])
            references.setdefault(text, picture)

    trial(None)
    parts.seconds.clear()
    for formats in choices[1 : 1 + count]:
        seconds.append(watch.time(lambda formats=formats: trial(formats))[1])
        print(f"naive trial: {seconds[-1]:.2f} s", flush=True)
    return seconds, {name: total / len(seconds) for name, total in parts.seconds.items()}


def main() -> None:
    """Measure and print; the last line is JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny-flux")
    parser.add_argument("--weights", choices=("study", "random"), default="study")
    parser.add_argument("--formats", nargs="+", default=["nvfp4"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--budget", type=int, default=12)
    parser.add_argument("--steps", type=int, help="denoising steps instead of the study's")
    parser.add_argument("--prompts", type=int, help="search prompts instead of all of the study's")
    parser.add_argument("--naive", action="store_true")
    parser.add_argument("--naive-trials", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    spec, watch = study(args), Stopwatch(torch.device(args.device))
    with tempfile.TemporaryDirectory() as folder:
        evaluator, took, choices = searched(spec, args, watch, Path(folder))
    by_hand = bare(spec, evaluator, choices, watch)
    trials = took["trial_s"][: len(by_hand)]
    overhead = [
        a / b - 1 for a, b in zip(trials[1:], by_hand[1:], strict=False)
    ]  # the first warms up
    parts = {name: seconds / len(trials) for name, seconds in took["parts_s"].items()}
    parts["all else"] = statistics.mean(trials) - sum(parts.values())
    print(
        f"trial {statistics.median(trials[1:]):.3f} s, bare sampling"
        f" {statistics.median(by_hand[1:]):.3f} s, overhead {statistics.median(overhead):+.1%}"
        " (median)",
        flush=True,
    )
    print(
        "a trial's seconds, mean: "
        + ", ".join(f"{name} {seconds:.3f}" for name, seconds in parts.items())
    )
    print(
        f"loading {took['prepare_s']:.1f} s, references {took['references_s']:.1f} s, graphs"
        f" compiled during trials: {took['graphs_compiled_in_trials']}"
    )
    memory = {} if args.device == "cpu" else {"peak_gb": torch.cuda.max_memory_allocated() / 1e9}
    evaluator.close()
    document = {
        "benchmark": "trial_overhead",
        "machine": describe_environment(args.device),
        "settings": vars(args) | {"call": dict(spec.settings)},
        **took,
        "bare_s": by_hand,
        "overhead": overhead,
        "naive_s": [],
        **memory,
    }
    write(document, args.out)
    if args.naive:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/inductor"
            people, document["naive_parts_s"] = naive(
                spec, choices, args.naive_trials, args.device, watch, Path(folder)
            )
        document["naive_s"] = people
        print(
            "its seconds, mean: "
            + ", ".join(
                f"{name} {seconds:.3f}" for name, seconds in document["naive_parts_s"].items()
            )
        )
        print(
            f"as people write it: {statistics.median(people):.2f} s a trial,"
            f" {statistics.median(people) / statistics.median(trials[1:]):.1f} x"
        )
        write(document, args.out)
    print(json.dumps(document, default=str))


def write(document: dict[str, Any], path: Path | None) -> None:
    """Keep what was measured, before the next part runs."""
    if path:
        path.write_text(json.dumps(document, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
