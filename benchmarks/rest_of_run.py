"""What does a pipeline call take besides its denoiser?

    python benchmarks/rest_of_run.py --out rest.json --study flux1-dev --study sd3.5-large

It builds the pipeline of each study with random weights at full size, and puts a module in the
denoiser's place that returns zeros. Then it times whole calls at several numbers of steps: what
they have in common is the rest of the run, and what a step adds is the scheduler and the pipeline's
own Python. It also times each component by itself: how long the host takes to launch it, and how
long the GPU takes once everything is launched.

The last line is the JSON object that `--out` keeps. Seconds are medians.
"""

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.core.environment import describe_environment
from sensitivity.models.random_weights import random_component, random_pipeline
from sensitivity.shapes.run import run_shapes
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.study_spec import StudySpec

SLEEP_CYCLES = 400_000_000
"""Keeps the GPU busy while the host launches, so that the GPU's own time can be seen."""


class Zeros(nn.Module):
    """Stands for a denoiser: zeros of the latents' shape."""

    def __init__(self, real: Any, device: str) -> None:
        super().__init__()
        self.config = real.config
        self.anchor = nn.Parameter(torch.zeros(1, device=device, dtype=torch.bfloat16))
        for name in ("add_embedding", "time_text_embed", "in_channels", "out_channels"):
            if hasattr(real, name):
                setattr(self, name, getattr(real, name))

    @property
    def dtype(self) -> torch.dtype:
        return self.anchor.dtype

    @property
    def device(self) -> torch.device:
        return self.anchor.device

    def cache_context(self, _: str) -> Any:
        return contextlib.nullcontext()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        latents = kwargs.get("hidden_states", args[0] if args else None)
        if isinstance(latents, list):
            return ([torch.zeros_like(each) for each in latents],)
        return (torch.zeros_like(latents),)


def pipeline(spec: StudySpec, device: str) -> Any:
    """The pipeline with random weights, and nothing in the denoiser's place."""
    pipe = random_pipeline(spec)
    for name, part in list(pipe.components.items()):
        if not isinstance(part, nn.Module):
            continue
        made = (
            Zeros(part, device)
            if name in spec.model.denoisers
            else random_component(spec, component=name, device=device)
        )
        setattr(pipe, name, made)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def wall_s(work: Callable[[], object], device: str, repetitions: int) -> list[float]:
    """Seconds by the host's clock, from an idle device to an idle device."""
    seconds = []
    for _ in range(repetitions):
        synchronize(device)
        begun = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return seconds


class Parts:
    """Times what the pipeline calls of each component, while it is open."""

    def __init__(self, pipe: Any, names: list[str], device: str) -> None:
        self.pipe, self.names, self.device = pipe, names, device
        self.host_s: dict[str, list[float]] = {}
        self.device_s: dict[str, list[float]] = {}
        self.wall_s: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Wrap `forward`, and `decode` of a VAE."""
        saved = []
        for name in self.names:
            part = getattr(self.pipe, name)
            method = "decode" if hasattr(part, "decode") else "forward"
            saved.append((part, method, getattr(part, method)))
            setattr(part, method, self._timed(name, getattr(part, method)))
        try:
            yield
        finally:
            for part, method, real in saved:
                setattr(part, method, real)

    def _timed(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            synchronize(self.device)
            begun = time.perf_counter()
            result = real(*args, **kwargs)
            host = time.perf_counter() - begun
            synchronize(self.device)
            self.wall_s.setdefault(name, []).append(time.perf_counter() - begun)
            self.host_s.setdefault(name, []).append(host)
            if self.device != "cpu":
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                torch.cuda._sleep(SLEEP_CYCLES)
                start.record()
                real(*args, **kwargs)
                end.record()
                end.synchronize()
                self.device_s.setdefault(name, []).append(start.elapsed_time(end) / 1e3)
            return result

        return call


def measure(study: str, device: str, steps: list[int], repetitions: int) -> dict[str, Any]:
    """One study."""
    spec = resolve_spec(study)
    counts = run_shapes(spec).table.run
    begun = time.perf_counter()
    pipe = pipeline(spec, device)
    built_s = time.perf_counter() - begun
    prompt = spec.prompts.search[0]

    def call(number: int, output: str) -> Callable[[], object]:
        settings = dict(spec.settings) | {"num_inference_steps": number, "output_type": output}
        return lambda: pipe(prompt=prompt, generator=torch.Generator().manual_seed(0), **settings)

    found: dict[str, Any] = {"study": study, "built_s": round(built_s, 1), "whole": {}}
    with torch.no_grad():
        call(2, "pt")()
        call(2, "pil")()
        for output in ("pt", "pil"):
            for number in steps:
                seconds = wall_s(call(number, output), device, repetitions)
                found["whole"][f"{number} steps, {output}"] = seconds
                print(f"{study}: {number} steps, {output}: {statistics.median(seconds):.4f} s",
                      flush=True)  # fmt: skip
        names = [
            name
            for name, part in pipe.components.items()
            if isinstance(part, nn.Module) and name not in spec.model.denoisers
        ]
        parts = Parts(pipe, names, device)
        with parts.open():
            for _ in range(repetitions):
                call(2, "pt")()
        scheduler = scheduler_s(pipe, device)
    found["scheduler_step_s"] = scheduler
    found["parts"] = {
        name: {
            "calls": len(parts.wall_s.get(name, ())) // repetitions,
            "kernels": next((c.kernels for c in (counts.components if counts else ())
                             if c.component == name), None),
            "host_s": parts.host_s.get(name, []),
            "device_s": parts.device_s.get(name, []),
            "wall_s": parts.wall_s.get(name, []),
        }
        for name in names
    }  # fmt: skip
    for name, row in found["parts"].items():
        shown = {key: round(statistics.median(value) * 1e3, 2) if value else None
                 for key, value in row.items() if isinstance(value, list)}  # fmt: skip
        print(f"{study}: {name}: {row['calls']} calls, {row['kernels']} kernels, ms {shown}",
              flush=True)  # fmt: skip
    return found


CONVOLUTIONS = (
    # (batch, channels, side): 3 x 3, as in the decoder of a 1024 x 1024 picture, and in SDXL's UNet
    (1, 512, 128),
    (1, 512, 256),
    (1, 256, 512),
    (1, 128, 1024),
    (2, 320, 128),
    (2, 640, 64),
    (2, 1280, 32),
)


def convolutions(device: str) -> list[dict[str, Any]]:
    """Microseconds of single convolutions and group norms, in both layouts."""
    rows = []
    for batch, channels, side in CONVOLUTIONS:
        convolution = nn.Conv2d(channels, channels, 3, padding=1, device=device).bfloat16()
        norm = nn.GroupNorm(32, channels, device=device).bfloat16()
        x = torch.randn(batch, channels, side, side, device=device, dtype=torch.bfloat16)
        for layout in (torch.contiguous_format, torch.channels_last):
            inputs, conv = x.to(memory_format=layout), convolution.to(memory_format=layout)
            for name, part in (("convolution", conv), ("group norm", norm)):
                rows.append(
                    {
                        "what": name,
                        "shape": [batch, channels, side],
                        "layout": str(layout).removeprefix("torch."),
                        "us": device_us(lambda part=part, inputs=inputs: part(inputs), device),
                    }
                )
                print(rows[-1], flush=True)
    return rows


def device_us(work: Callable[[], object], device: str, calls: int = 20) -> float | None:
    """Microseconds of the GPU for one call, once everything is launched."""
    if device == "cpu":
        work()
        return None
    with torch.no_grad():
        for _ in range(3):
            work()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(20_000_000)
        start.record()
        for _ in range(calls):
            work()
        end.record()
        end.synchronize()
    return start.elapsed_time(end) * 1e3 / calls


def scheduler_s(pipe: Any, device: str) -> float | None:
    """Seconds of the host for one scheduler step of latents, as the pipeline left it."""
    scheduler = pipe.scheduler
    latents = torch.zeros(1, 4096, 64, device=device)
    try:
        scheduler.set_timesteps(28, device=device, **({"mu": 1.0} if getattr(
            scheduler.config, "use_dynamic_shifting", False) else {}))  # fmt: skip
        times: list[float] = []
        for moment in scheduler.timesteps[:20]:
            begun = time.perf_counter()
            scheduler.step(torch.zeros_like(latents), moment, latents, return_dict=False)
            times.append(time.perf_counter() - begun)
        synchronize(device)
        return statistics.median(times)
    except Exception as error:
        print(f"no scheduler step: {error}", flush=True)
        return None


def weightless(value: Any) -> Any:
    """For JSON."""
    return float(value) if isinstance(value, Tensor) else str(value)


def main() -> None:
    """Measure each study, and keep what is found as it comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--study", action="append", default=[])
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4, 28])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("rest.json"))
    asked = parser.parse_args()
    found: dict[str, Any] = {"environment": describe_environment(asked.device), "studies": []}
    if asked.device != "cpu":
        found["convolutions"] = convolutions(asked.device)
    for study in asked.study or ["flux1-dev"]:
        try:
            row = measure(study, asked.device, asked.steps, asked.repetitions)
        except Exception as error:
            row = {"study": study, "failed": f"{type(error).__name__}: {error}"[:400]}
            print(row, flush=True)
        found["studies"].append(row)
        asked.out.write_text(json.dumps(found, indent=1, default=weightless))
        if asked.device != "cpu":
            torch.cuda.empty_cache()
    print(json.dumps({"studies": len(found["studies"])}))


if __name__ == "__main__":
    main()
