"""How do pictures or clips and their bf16 references become a score?

A search decides by LPIPS and by the distance of the sound (`score.Score.damage`), so every score
holds both, and the error of the latents where it is known. On held-out prompts a score also holds
the secondary metrics.

What a study says about sound (`audio_weight` and `max_audio_distance` in `[fidelity]`) changes no
picture. So it is no part of a score's key, and `judged` puts today's values into a score that was
kept.

    score = score_media(comparison, media, references, noise_floors={}, secondary=False)
    judged(score, spec.fidelity).damage
"""

from collections.abc import Mapping
from dataclasses import replace

from sensitivity.errors import PipelineError, SpecError
from sensitivity.fidelity.comparison import Comparison
from sensitivity.fidelity.score import MetricValues, Score, finite_values, score_of
from sensitivity.models.media import Media
from sensitivity.spec.study_spec import FidelitySection, StudySpec


def damages_of(
    comparison: Comparison, media: Media, references: Media, *, audio_weight: float
) -> tuple[float, ...]:
    """Damages of the first prompts of a split.

    Raises:
        MeasurementError: A picture is not finite, or blank where its reference is not.
    """
    distances = comparison.lpips(media, references)[0]
    audio = comparison.audio(media, references)
    return finite_values(distances if audio is None else distances + audio_weight * audio)


def score_media(
    comparison: Comparison,
    media: Media,
    references: Media,
    *,
    noise_floors: Mapping[str, float],
    secondary: bool,
) -> Score:
    """The score of all prompts of a split.

    Args:
        comparison: How the study compares.
        media: Pictures or clips with a skip-list.
        references: Those of bf16.
        noise_floors: {"lpips", "audio", ...: mean distance of bf16 from itself}.
        secondary: Whether the secondary metrics are computed.

    Raises:
        MeasurementError: A picture is not finite, or blank where its reference is not.
    """
    distances, frames = comparison.lpips(media, references)
    score = score_of(distances, net=comparison.distance.name, noise_floor=noise_floors.get("lpips"))
    found = comparison.secondary(media, references) if secondary else {}
    audio = comparison.audio(media, references)
    if audio is not None:
        found["audio"] = audio
    latent = comparison.latent(media, references)
    if latent is not None:
        found["latent"] = latent
    values = {
        name: MetricValues(per_prompt=finite_values(value), noise_floor=noise_floors.get(name))
        for name, value in found.items()
    }
    rows = () if frames is None else tuple(tuple(row) for row in frames.tolist())
    return replace(
        score,
        per_frame=rows,
        motion=values.get("motion"),
        detail_db=values.get("detail_db"),
        audio=values.get("audio"),
        latent=values.get("latent"),
    )


def judged(score: Score, section: FidelitySection) -> Score:
    """The score with what a study says about sound today."""
    if score.audio is None:
        return score
    return replace(
        score, audio_weight=section.audio_weight, max_audio_distance=section.max_audio_distance
    )


def noise_floors_of(comparison: Comparison, alone: Media, together: Media) -> dict[str, float]:
    """{metric: mean distance of bf16 from bf16}, LPIPS first.

    `alone` was generated one by one, `together` in batches.
    """
    audio = comparison.audio(alone, together)
    found = comparison.secondary(alone, together)
    latent = comparison.latent(alone, together)
    if audio is not None:
        found["audio"] = audio
    if latent is not None:
        found["latent"] = latent
    return {"lpips": float(comparison.lpips(alone, together)[0].mean())} | {
        name: float(value.mean()) for name, value in found.items()
    }


def check_references(media: Media, spec: StudySpec, pipeline: str) -> None:
    """Check that something can be compared with bf16's media. `pipeline` is the pipeline's class.

    Raises:
        PipelineError: Some are not finite, or all are blank.
        SpecError: The study bounds the distance of a sound, and there is none.
    """
    broken = (~media.is_finite()).tolist()
    what = "clips" if media.is_video else "pictures"
    found = ""
    if any(broken):
        found = f"{sum(broken)} of {len(media)} {what} with NaN or inf"
    elif media.is_blank().all():
        found = f"nothing but blank {what}"
    if found:
        raise PipelineError(
            f"{spec.name}: the {pipeline} in bf16, with nothing quantized, generates {found} at the"
            f" settings {dict(spec.settings)}; expected {what} that are finite and not all blank."
            " Correct the `settings` of the study, or look at what plain diffusers generates in"
            " bf16."
        )
    if media.sound is None and spec.fidelity.max_audio_distance is not None:
        raise SpecError(
            f"{spec.name}: `fidelity.max_audio_distance` is"
            f" {spec.fidelity.max_audio_distance:g}, and the {pipeline} makes no sound; expected a"
            " bound only for a pipeline with sound. Take the line out of the study TOML."
        )
