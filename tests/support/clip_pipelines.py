"""Two small pipelines of clips with random weights, as diffusers saves them, and a study of each.

`save_ltx2` has video and sound. `save_wan` has video, and one denoiser or two that take turns.

They are built from diffusers' and transformers' own classes with a few features in each layer. A
clip takes some hundredths of a second. It means nothing, but it changes when a Linear is quantized.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GemmaTokenizer,
    T5TokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from support.paths import TRUNK

STUDY = """\
name = "{name}"

[model]
path = {folder}
components = {components}
weights = "random"

[settings]
{settings}

[fidelity]
net = "tiny"
weights = {trunk}
{fidelity}

[search]
batch_size = 2
depth_bands = 1

[pricing]
stands_for = 64

[prompts]
search = ["a red ring", "a blue star", "rain on a tin roof"]
held_out = ["a green square", "a dog barks"]
"""
LTX2_SETTINGS = """\
height = 64
width = 64
num_frames = 9
frame_rate = 8.0
num_inference_steps = 2
guidance_scale = 1.0
audio_guidance_scale = 1.0
stg_scale = 0.0
audio_stg_scale = 0.0
modality_scale = 1.0
audio_modality_scale = 1.0
guidance_rescale = 0.0
audio_guidance_rescale = 0.0
max_sequence_length = 16"""
WAN_SETTINGS = (
    "height = 64\nwidth = 64\nnum_frames = 5\nnum_inference_steps = 2\nguidance_scale ="
    " 1.0\nmax_sequence_length = 16"
)
WORDS = [
    "a",
    "the",
    "red",
    "blue",
    "green",
    "ring",
    "star",
    "square",
    "dog",
    "barks",
    "rain",
    "on",
    "tin",
    "roof",
]


def save_ltx2(folder: Path, *, fidelity: str = "") -> Path:
    """Write a random LTX2Pipeline to `folder`, and a study beside it.

    Args:
        folder: of the pipeline.
        fidelity: more lines of that section of the study.

    Returns:
        The study's path.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = LTX2Pipeline(**_ltx2_parts())
    return _save(pipe, folder, LTX2_SETTINGS, fidelity)


def save_wan(folder: Path, *, fidelity: str = "", denoisers: int = 1) -> Path:
    """Write a random WanPipeline, as `save_ltx2` does.

    With two denoisers, as in Wan 2.2, each makes two of four steps.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = WanPipeline(
            tokenizer=T5TokenizerFast(
                vocab=[
                    ("<pad>", 0.0),
                    ("</s>", 0.0),
                    ("<unk>", 0.0),
                    ("▁", -8.0),
                    *((f"▁{w}", -4.0) for w in WORDS),
                ],
                extra_ids=0,
            ),
            text_encoder=UMT5EncoderModel(
                UMT5Config(d_model=32, d_ff=64, d_kv=8, num_heads=4, num_layers=1, vocab_size=32)
            ),
            transformer=_wan_transformer(),
            vae=AutoencoderKLWan(
                base_dim=4,
                z_dim=16,
                dim_mult=[1, 1, 1, 1],
                num_res_blocks=1,
                temperal_downsample=[False, True, True],
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
            **(
                {"transformer_2": _wan_transformer(), "boundary_ratio": 0.9}
                if denoisers == 2
                else {}
            ),
        )
    if denoisers == 1:
        return _save(pipe, folder, WAN_SETTINGS, fidelity)
    settings = WAN_SETTINGS.replace("steps = 2", "steps = 4").replace(
        "guidance_scale = 1.0", "guidance_scale = 4.0\nguidance_scale_2 = 3.0"
    )
    return _save(pipe, folder, settings, fidelity, ("transformer", "transformer_2"))


def _wan_transformer() -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=32,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=64,
        ffn_dim=128,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )


def _save(
    pipe: Any,
    folder: Path,
    settings: str,
    fidelity: str,
    components: tuple[str, ...] = ("transformer",),
) -> Path:
    pipe.to(dtype=torch.bfloat16).save_pretrained(folder)
    study = folder.parent / f"{folder.name}.toml"
    text = STUDY.format(
        name=folder.name,
        folder=json.dumps(str(folder)),
        components=json.dumps(components),
        trunk=json.dumps(str(TRUNK)),
        settings=settings,
        fidelity=fidelity,
    )
    study.write_text(text, encoding="utf-8")
    return study


def _ltx2_parts() -> dict[str, Any]:
    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": 64,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    audio_vae = AutoencoderKLLTX2Audio(
        base_channels=32,
        output_channels=2,
        ch_mult=(1,),
        num_res_blocks=1,
        attn_resolutions=None,
        in_channels=2,
        resolution=32,
        latent_channels=8,
        norm_type="pixel",
        causality_axis="height",
        dropout=0.0,
        mid_block_add_attention=False,
        sample_rate=16000,
        mel_hop_length=160,
        is_causal=True,
        mel_bins=16,
    )
    connector = {
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "num_layers": 1,
        "num_learnable_registers": None,
    }
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "vae": AutoencoderKLLTX2Video(
            in_channels=3,
            out_channels=3,
            latent_channels=32,
            block_out_channels=(8,),
            decoder_block_out_channels=(8,),
            layers_per_block=(1,),
            decoder_layers_per_block=(1, 1),
            spatio_temporal_scaling=(True,),
            decoder_spatio_temporal_scaling=(True,),
            decoder_inject_noise=(False, False),
            downsample_type=("spatial",),
            upsample_residual=(False,),
            upsample_factor=(1,),
            timestep_conditioning=False,
            patch_size=4,
            patch_size_t=1,
            encoder_causal=True,
            decoder_causal=False,
        ),
        "audio_vae": audio_vae,
        "text_encoder": Gemma3ForConditionalGeneration(
            Gemma3Config(
                text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=60
            )
        ),
        "tokenizer": GemmaTokenizer(
            vocab={
                w: i
                for i, w in enumerate(
                    ["<pad>", "<eos>", "<bos>", "<unk>", "▁", *(f"▁{w}" for w in WORDS)]
                )
            },
            merges=[],
        ),
        "connectors": LTX2TextConnectors(
            caption_channels=32,
            text_proj_in_factor=3,
            **{
                f"{stream}_connector_{key}": value
                for stream in ("video", "audio")
                for key, value in connector.items()
            },
            connector_rope_base_seq_len=32,
            rope_theta=10000.0,
            rope_double_precision=False,
            causal_temporal_positioning=False,
            rope_type="split",
        ),
        "transformer": LTX2VideoTransformer3DModel(
            in_channels=32,
            out_channels=32,
            patch_size=1,
            patch_size_t=1,
            num_attention_heads=2,
            attention_head_dim=32,
            cross_attention_dim=64,
            audio_in_channels=32,
            audio_out_channels=32,
            audio_num_attention_heads=2,
            audio_attention_head_dim=16,
            audio_cross_attention_dim=32,
            num_layers=2,
            qk_norm="rms_norm_across_heads",
            caption_channels=32,
            rope_double_precision=False,
            rope_type="split",
        ),
        "vocoder": LTX2Vocoder(
            in_channels=32,
            hidden_channels=32,
            out_channels=2,
            upsample_kernel_sizes=[10, 8],
            upsample_factors=[10, 8],
            resnet_kernel_sizes=[3],
            resnet_dilations=[[1, 3, 5]],
            leaky_relu_negative_slope=0.1,
            output_sampling_rate=8000,
        ),
    }
