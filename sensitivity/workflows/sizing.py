"""Does a study's model fit on a device, before a weight is opened?

`estimate_sizes`: bytes by stage and part, from config files alone.

    sizes = check_fits(spec, run_shapes(spec), device="cuda")       # UserError says what is missing and what would help
    sizes.peak.name, sizes.peak.nbytes, sizes.room_bytes

Method. Weights are those of the skeleton, in bf16. Activations are the census's largest sum of live
tensors of a component in eager order, times the pictures that are drawn together, times `SLACK`:
the published peaks of FLUX.1-dev grow by 2.15 GB a picture where the census counts 1.61.
`CUDA_BYTES` is what else those peaks hold: CUDA itself, workspaces, fragments. On the CPU all parts
are there together. Elsewhere they come in turn (`pipelines`): first what encodes text, then the
denoisers with what is in neither camp, and what decodes beside them.

Conventions: bytes; GB are 1e9. Everything here is predicted, and meant to err on the large side.
What it does not do: gradients of a calibration, and the host's memory on a GPU machine.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from sensitivity.core.devices import free_bytes
from sensitivity.errors import UserError
from sensitivity.latency.devices import DEVICES
from sensitivity.shapes.census import ComponentCounts
from sensitivity.shapes.run import ShapeRun
from sensitivity.spec.study_spec import StudySpec

SLACK = 2.15 / 1.61
CUDA_BYTES = 2_500_000_000
ROOM = 0.9
"""Part of what is left that may be filled with what only saves time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What takes memory: the weights of a component, activations, a cache."""

    name: str
    nbytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """What is on the device together."""

    name: str
    parts: tuple[Part, ...]

    @property
    def nbytes(self) -> int:
        """Their sum."""
        return sum(part.nbytes for part in self.parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeEstimate:
    """Predicted memory of a search. `free_bytes` is None where the device does not say."""

    device: str
    batch_size: int
    stages: tuple[Stage, ...]
    free_bytes: int | None

    @property
    def peak(self) -> Stage:
        """The stage that needs most."""
        return max(self.stages, key=lambda stage: stage.nbytes)

    @property
    def fits(self) -> bool:
        """Whether it does, as far as is known."""
        return self.free_bytes is None or self.peak.nbytes <= self.free_bytes

    @property
    def room_bytes(self) -> int | None:
        """What may be filled with quantized weights; None where nobody knows."""
        return (
            None
            if self.free_bytes is None
            else max(0, int((self.free_bytes - self.peak.nbytes) * ROOM))
        )

    def to_json(self) -> dict[str, Any]:
        """As `search --dry-run --json` writes it."""
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


def estimate_sizes(
    spec: StudySpec,
    run: ShapeRun,
    *,
    device: str,
    batch_size: int | None = None,
    weight_cache_bytes: int = 0,
    free: int | None = None,
) -> SizeEstimate:
    """Bytes by stage.

    Args:
        spec: the study.
        run: its run without weights.
        device: where torch runs.
        batch_size: pictures that are drawn together; the largest batch of a search by default.
        weight_cache_bytes: quantized weights that are kept beside the bf16 ones.
        free: bytes that may be used; what `free_bytes` says by default.
    """
    batch = batch_size or drawn_together(spec)
    counts = {
        part.component: part
        for part in (run.table.run.components if run.table.run is not None else ())
    }
    denoisers = {*spec.model.denoisers, *run.other_denoisers} & counts.keys()
    text, coders = {*run.text_encoders} - denoisers, {*run.coders} - denoisers
    rest = counts.keys() - denoisers - text - coders
    once, times = SLACK / run.table.batch_size, SLACK * batch / run.table.batch_size

    def stage(
        name: str, components: Iterable[str], active: Iterable[str], factor: float, cache: int = 0
    ) -> Stage:
        here = [counts[key] for key in counts if key in components]
        return _stage(
            name,
            here,
            [counts[key] for key in active],
            factor,
            cache,
            cuda=torch.device(device).type != "cpu",
        )

    if torch.device(device).type == "cpu":
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
        batch_size=batch,
        stages=stages,
        free_bytes=free_bytes(device) if free is None else free,
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
    activations = max((part.peak_activation_bytes for part in active), default=0)
    parts = [Part(name=part.component, nbytes=part.weight_bytes) for part in here]
    parts.append(Part(name="activations", nbytes=int(activations * factor)))
    if cache:
        parts.append(Part(name="quantized weights", nbytes=cache))
    if cuda:
        parts.append(Part(name="CUDA", nbytes=CUDA_BYTES))
    return Stage(name=name, parts=tuple(parts))


def drawn_together(spec: StudySpec) -> int:
    """Pictures of a search's largest batch."""
    return min(spec.search.batch_size, max(len(spec.prompts.search), len(spec.prompts.held_out)))


def check_fits(spec: StudySpec, run: ShapeRun, *, device: str) -> SizeEstimate:
    """The estimate of a study that fits.

    Raises:
        UserError: it does not; the message says how much it needs, how much there is, and what
            would help.
    """
    sizes = estimate_sizes(spec, run, device=device)
    if not sizes.fits:
        raise UserError(_does_not_fit(spec, run, sizes))
    return sizes


def _does_not_fit(spec: StudySpec, run: ShapeRun, sizes: SizeEstimate) -> str:
    free = sizes.free_bytes or 0
    parts = ", ".join(
        f"{part.name} {_gb(part.nbytes)}"
        for part in sorted(sizes.peak.parts, key=lambda part: -part.nbytes)
        if part.nbytes
    )
    helps = []
    for batch in range(sizes.batch_size - 1, 0, -1):
        if estimate_sizes(spec, run, device=sizes.device, batch_size=batch, free=free).fits:
            helps.append(f"`batch_size = {batch}` under [search] in a study TOML fits")
            break
    else:
        helps.append("no smaller batch fits, a smaller picture may (`[settings]` in a study TOML)")
    if torch.device(sizes.device).type == "cpu":
        helps.append(
            "a machine with more memory, or --device cuda, where text encoders and decoders are on"
            " the GPU only while they are used"
        )
    else:
        larger = [name for name, gpu in DEVICES.items() if gpu.memory_bytes >= sizes.peak.nbytes]
        helps.append(
            f"a GPU with more memory ({', '.join(larger)})"
            if larger
            else "no GPU that the package knows has as much"
        )
        helps.append(
            "text encoders and decoders are off the GPU already while the denoiser runs, and"
            " offloading parts of a denoiser is not supported"
        )
    return (
        f"{spec.name} does not fit on {sizes.device}: {sizes.peak.name} needs about"
        f" {_gb(sizes.peak.nbytes)} with {sizes.batch_size} pictures together ({parts}; predicted,"
        f" nothing was loaded); {_gb(free)} are free there: {'; '.join(helps)}"
    )


def _gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:.3g} GB" if nbytes >= 10**7 else f"{nbytes / 1e6:.2g} MB"
