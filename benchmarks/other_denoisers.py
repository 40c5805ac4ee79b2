"""What are the denoisers of `other_models.py`? One `Kind` each: how it is built, run and sampled.

    kind = KINDS["video"]
    denoiser = kind.untrained()
    answer = kind.predict(denoiser, noisy, times, text, mask)     # the shape of `noisy`

`pixart`: `PixArtTransformer2DModel`, 8 blocks of self-attention, cross-attention and MLP, one
modulation for all (adaLN-single). `unet`: `UNet2DConditionModel`, convolutions with attention at
three resolutions. `video`: `LatteTransformer3DModel`, 6 blocks over the tokens of a frame, each
followed by one over the frames of a token; it makes clips of 4 frames in which the first object
moves. The first two predict noise, the third v (Salimans and Ho 2022, "Progressive distillation for
fast sampling of diffusion models", appendix D). All are guided by two forwards in one batch, and
are sampled by DPM-Solver++ in 10 steps.

Conventions. Latents are (B, 4, 32, 32), of clips (B, 4, FRAMES, 32, 32). Text is what tiny-flux's
T5 makes of a caption, (B, tokens, 256).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusers import (
    DPMSolverMultistepScheduler,
    LattePipeline,
    LatteTransformer3DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn

FRAMES = 4
SETTINGS = {"height": 128, "width": 128, "num_inference_steps": 10, "guidance_scale": 3.0}
LINEAR = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
SCALED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
Predict = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of denoiser.

    Attributes:
        untrained: makes it with fresh weights.
        predict: (denoiser, noisy latents, times (B,), text, mask (B, tokens)) -> the answer, of the
            latents' shape.
        pipeline: (denoiser, parts that all kinds share) -> the pipeline.
        betas: the schedule of noise that the model's family has.
        component: the denoiser's name in the pipeline.
        settings: arguments of the pipeline's call beside `SETTINGS`.
        frames: frames of a clip; 0 for pictures.
        tokens: to how many tokens the pipeline pads a caption.
        masked: whether T5 is given the mask of the padding.
        predicts_v: whether it predicts v, and not the noise.
        batch: pictures or clips of a training step.
        scenes: pictures or clips that are drawn for training.
    """

    untrained: Callable[[], nn.Module]
    predict: Predict
    pipeline: Callable[[nn.Module, dict[str, Any]], Any]
    betas: Mapping[str, Any] = field(default_factory=lambda: LINEAR)
    component: str = "transformer"
    settings: Mapping[str, Any] = field(default_factory=dict)
    frames: int = 0
    tokens: int = 32
    masked: bool = True
    predicts_v: bool = False
    batch: int = 256
    scenes: int = 200_000

    def scheduler(self) -> DPMSolverMultistepScheduler:
        """What samples it."""
        return DPMSolverMultistepScheduler(
            algorithm_type="dpmsolver++",
            solver_order=2,
            prediction_type="v_prediction" if self.predicts_v else "epsilon",
            **self.betas,
        )


def _pixart() -> nn.Module:
    return PixArtTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=64,
        in_channels=4,
        out_channels=4,
        num_layers=8,
        cross_attention_dim=192,
        caption_channels=256,
        sample_size=32,
        patch_size=2,
        attention_bias=True,
        norm_type="ada_norm_single",
        use_additional_conditions=False,
    )


def _run_pixart(
    denoiser: nn.Module, noisy: Tensor, times: Tensor, text: Tensor, mask: Tensor
) -> Tensor:
    answer: Tensor = denoiser(
        noisy,
        encoder_hidden_states=text,
        encoder_attention_mask=mask,
        timestep=times,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        return_dict=False,
    )[0]
    return answer


def _unet() -> nn.Module:
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 96, 128),
        layers_per_block=1,
        norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=256,
        attention_head_dim=4,
        use_linear_projection=True,
    )


def _run_unet(
    denoiser: nn.Module,
    noisy: Tensor,
    times: Tensor,
    text: Tensor,
    mask: Tensor,  # noqa: ARG001 - Stable Diffusion's text has no mask
) -> Tensor:
    answer: Tensor = denoiser(noisy, times, encoder_hidden_states=text, return_dict=False)[0]
    return answer


def _video() -> nn.Module:
    return LatteTransformer3DModel(
        num_attention_heads=3,
        attention_head_dim=64,
        in_channels=4,
        out_channels=8,  # the pipeline drops the second half: a learned variance in Latte itself
        num_layers=6,
        cross_attention_dim=192,
        caption_channels=256,
        sample_size=32,
        patch_size=2,
        attention_bias=True,
        activation_fn="gelu-approximate",
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        video_length=FRAMES,
    )


def _run_video(
    denoiser: nn.Module,
    noisy: Tensor,
    times: Tensor,
    text: Tensor,
    mask: Tensor,  # noqa: ARG001 - Latte's text has no mask
) -> Tensor:
    answer: Tensor = denoiser(noisy, timestep=times, encoder_hidden_states=text, return_dict=False)[
        0
    ]
    return answer[:, :4]


def _stable_diffusion(denoiser: nn.Module, parts: dict[str, Any]) -> Any:
    return StableDiffusionPipeline(
        unet=denoiser,
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
        **parts,
    )


KINDS = {
    "pixart": Kind(
        untrained=_pixart,
        predict=_run_pixart,
        pipeline=lambda denoiser, parts: PixArtSigmaPipeline(transformer=denoiser, **parts),
        settings={
            "max_sequence_length": 32,
            "clean_caption": False,
            "use_resolution_binning": False,
        },
    ),
    "unet": Kind(
        untrained=_unet,
        predict=_run_unet,
        pipeline=_stable_diffusion,
        betas=SCALED,
        component="unet",
        masked=False,
    ),
    "video": Kind(
        untrained=_video,
        predict=_run_video,
        pipeline=lambda denoiser, parts: LattePipeline(transformer=denoiser, **parts),
        settings={
            "video_length": FRAMES,
            "clean_caption": False,
            "mask_feature": False,  # it cuts the text of a lone prompt, and not that of a batch
            "decode_chunk_size": 64,
        },
        frames=FRAMES,
        tokens=120,
        predicts_v=True,
        batch=80,
        scenes=60_000,
    ),
}
