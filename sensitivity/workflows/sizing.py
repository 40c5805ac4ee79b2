"""Does a study's model fit on a device? Bytes by stage and part, before a weight is opened.

    run, batch = run_shapes(spec), largest_batch(spec)
    sizes = check_fits(run, batch_size=batch, device="cuda")     # UserError if it does not fit
    sizes.peak.name, sizes.peak.nbytes, sizes.room_bytes

Method. Weights are those of the skeleton, in bf16. Activations are the largest sum of live tensors
that the census finds in a component in eager order, times the pictures that are generated together,
times `SLACK`: the published peaks of FLUX.1-dev grow by 2.15 GB a picture where the census counts
1.61. `CUDA_BYTES` is what else those peaks hold: CUDA itself, workspaces, fragments.

On the CPU all components are in memory together. On a GPU they come in turn, as `models.loading`
arranges it: first those that encode text, then the denoisers, then those that decode, beside the
denoisers. Components of no kind are there while text is encoded and while the denoisers run.

Conventions: bytes; a GB is 1e9. All numbers are predicted and meant to err on the large side. Not
counted: gradients of a calibration, and the host's memory beside a GPU.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from sensitivity.core.devices import free_bytes
from sensitivity.errors import UserError
from sensitivity.latency.devices import DEVICES
from sensitivity.shapes.census import ComponentCounts
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.spec.study_spec import StudySpec

SLACK = 2.15 / 1.61
"""Measured over counted growth of the activations, a picture."""
CUDA_BYTES = 2_500_000_000
"""What is on a GPU beside weights and activations."""
ROOM = 0.9
"""Part of the free memory that a cache may fill."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One thing that takes memory: the weights of a component, activations, a cache."""

    name: str
    nbytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Parts that are on the device at the same time."""

    name: str
    parts: tuple[Part, ...]

    @property
    def nbytes(self) -> int:
        """Their sum."""
        return sum(part.nbytes for part in self.parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeEstimate:
    """Predicted memory of a search.

    Attributes:
        device: where torch runs.
        batch_size: pictures that are generated together, at most.
        stages: one after another; all parts at once on the CPU.
        free_bytes: on the device now; None if it does not say.
        machine: the name of a GPU that need not be here; "" is this machine.
    """

    device: str
    machine: str = ""
    batch_size: int
    stages: tuple[Stage, ...]
    free_bytes: int | None

    @property
    def where(self) -> str:
        """The machine, or the device of this one."""
        return self.machine or self.device

    @property
    def peak(self) -> Stage:
        """The stage that needs most."""
        return max(self.stages, key=lambda stage: stage.nbytes)

    @property
    def fits(self) -> bool:
        """Whether the largest stage is no larger than what is free. True if that is unknown."""
        return self.free_bytes is None or self.peak.nbytes <= self.free_bytes

    @property
    def room_bytes(self) -> int | None:
        """Bytes that a cache of quantized weights may take; None if what is free is unknown."""
        return (
            None
            if self.free_bytes is None
            else max(0, int((self.free_bytes - self.peak.nbytes) * ROOM))
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object of memory in a plan."""
        return {
            "device": self.device,
            "batch_size": self.batch_size,
            "source": "predicted",
            "peak_bytes": self.peak.nbytes,
            "peak_stage": self.peak.name,
            "free_bytes": self.free_bytes,
            "fits": self.fits,
            "stages": [
                {"name": s.name, "bytes": s.nbytes, "parts": {p.name: p.nbytes for p in s.parts}}
                for s in self.stages
            ],
        }


def largest_batch(spec: StudySpec) -> int:
    """The most pictures that a search of this study generates together."""
    return min(spec.search.batch_size, max(len(spec.prompts.search), len(spec.prompts.held_out)))


def estimate_sizes(
    run: ShapeRun,
    *,
    batch_size: int,
    device: str,
    weight_cache_bytes: int = 0,
    free: int | None = None,
    machine: str = "",
) -> SizeEstimate:
    """Bytes by stage.

    Args:
        run: a run of the study without weights, at any batch size.
        batch_size: pictures that are generated together.
        device: where torch runs.
        weight_cache_bytes: quantized weights that are kept beside the bf16 ones.
        free: bytes that may be used; by default what is free on the device.
        machine: the name of a GPU that need not be here.
    """
    counts = {
        part.component: part
        for part in (run.table.run.components if run.table.run is not None else ())
    }
    denoisers = {*run.classes, *run.other_denoisers} & counts.keys()
    text, coders = {*run.text_encoders} - denoisers, {*run.coders} - denoisers
    rest = counts.keys() - denoisers - text - coders
    once, times = SLACK / run.table.batch_size, SLACK * batch_size / run.table.batch_size
    on_cpu = torch.device(device).type == "cpu"

    def stage(
        name: str, components: Iterable[str], active: Iterable[str], factor: float, cache: int = 0
    ) -> Stage:
        here = [counts[key] for key in counts if key in components]
        return _stage(name, here, [counts[key] for key in active], factor, cache, cuda=not on_cpu)

    if on_cpu:
        stages: tuple[Stage, ...] = (
            stage("all together", counts, counts, times, weight_cache_bytes),
        )
    else:
        stages = (
            stage("encoding text", text | rest, text | rest, once),
            stage("denoising", denoisers | rest, denoisers | rest, times, weight_cache_bytes),
            stage("decoding", denoisers | rest | coders, coders, times, weight_cache_bytes),
        )
    return SizeEstimate(
        device=device,
        batch_size=batch_size,
        stages=stages,
        free_bytes=free_bytes(device) if free is None else free,
        machine=machine,
    )


def _stage(
    name: str,
    here: list[ComponentCounts],
    active: list[ComponentCounts],
    factor: float,
    cache: int,
    *,
    cuda: bool,
) -> Stage:
    """A stage of the components `here`, of which those in `active` run.

    Components run one after another, so the largest activations count, times `factor`.
    """
    activations = max((part.peak_activation_bytes for part in active), default=0)
    parts = [Part(name=part.component, nbytes=part.weight_bytes) for part in here]
    parts.append(Part(name="activations", nbytes=int(activations * factor)))
    if cache:
        parts.append(Part(name="quantized weights", nbytes=cache))
    if cuda:
        parts.append(Part(name="CUDA", nbytes=CUDA_BYTES))
    return Stage(name=name, parts=tuple(parts))


def check_fits(run: ShapeRun, *, batch_size: int, device: str) -> SizeEstimate:
    """The estimate of a run that fits. See `estimate_sizes` for the arguments.

    Raises:
        UserError: it does not fit; the message says how much it needs, how much there is, and what
            would help.
    """
    sizes = estimate_sizes(run, batch_size=batch_size, device=device)
    if not sizes.fits:
        raise UserError(_does_not_fit(run, sizes))
    return sizes


def _does_not_fit(run: ShapeRun, sizes: SizeEstimate) -> str:
    """What is needed, what is free, and what would help, in words."""
    parts = ", ".join(
        f"{part.name} {_gb(part.nbytes)}"
        for part in sorted(sizes.peak.parts, key=lambda part: -part.nbytes)
        if part.nbytes
    )
    return (
        f"{run.table.model} does not fit on {sizes.where}: {sizes.peak.name} needs about"
        f" {_gb(sizes.peak.nbytes)} with {sizes.batch_size} pictures together ({parts}; predicted,"
        f" nothing was loaded); {_gb(sizes.free_bytes or 0)} are free there:"
        f" {'; '.join(advice(run, sizes))}"
    )


def advice(run: ShapeRun, sizes: SizeEstimate) -> list[str]:
    """What would help where a model does not fit, each in words."""
    return [_smaller_batch(run, sizes), *_other_devices(sizes)]


def _smaller_batch(run: ShapeRun, sizes: SizeEstimate) -> str:
    """The largest batch that fits, in words."""
    for batch in range(sizes.batch_size - 1, 0, -1):
        tried = estimate_sizes(
            run, batch_size=batch, device=sizes.device, free=sizes.free_bytes or 0
        )
        if tried.fits:
            return f"`batch_size = {batch}` under [search] in a study TOML fits"
    return "no smaller batch fits, a smaller picture may (`[settings]` in a study TOML)"


def _other_devices(sizes: SizeEstimate) -> list[str]:
    """Where the model may fit, in words."""
    if torch.device(sizes.device).type == "cpu":
        return [
            "a machine with more memory, or `device` cuda, where text encoders and decoders are on"
            " the GPU only while they are used"
        ]
    larger = [name for name, gpu in DEVICES.items() if gpu.memory_bytes >= sizes.peak.nbytes]
    return [
        f"a GPU with more memory ({', '.join(larger)})"
        if larger
        else "no GPU that the package knows has as much",
        "text encoders and decoders are off the GPU already while the denoiser runs, and offloading"
        " parts of a denoiser is not supported",
    ]


def _gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:.3g} GB" if nbytes >= 10**7 else f"{nbytes / 1e6:.2g} MB"
