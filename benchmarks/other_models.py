"""Two more trained models for `search_quality.py`, with another structure than tiny-flux: its
scenes, autoencoder and text encoder, other denoisers.

    python benchmarks/other_models.py pixart --out runs/pixart --time-limit-s 480      # one GPU
    python benchmarks/other_models.py unet --out runs/unet --time-limit-s 480
    python benchmarks/other_models.py pixart --out /tmp/try --smoke    # seconds on a CPU, as a test

`pixart`: `PixArtTransformer2DModel`, 8 blocks of self-attention, cross-attention and MLP, one
modulation for all (adaLN-single). `unet`: `UNet2DConditionModel`, convolutions with attention at
three resolutions. Both predict noise, guide by two forwards in the batch, and are
sampled by DPM-Solver++ in 10 steps. FLUX predicts velocities, is guided by an input, and is sampled
by Euler steps.
Only the denoiser is trained. The folder holds the pipeline in bf16, a study and `training.json`
with what tiny-flux's reader finds in its pictures.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file
from torch import Tensor, nn

from sensitivity.models.generating import MediaGenerator
from sensitivity.models.loading import load_pipeline
from sensitivity.spec.loading import load_spec, resolve_spec

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "studies" / "tiny-flux" / "training"))
from gates import held_out_scenes  # noqa: E402 - found by the line above
from networks import TEXT_TOKENS, Reader, attribute_targets, split_heads  # noqa: E402
from scenes import captions, draw  # noqa: E402
from stages import Average, _steps, tokenize, training_scenes  # noqa: E402

SEED, BATCH, DROPPED = 20261122, 256, 0.1
SETTINGS = {"height": 128, "width": 128, "num_inference_steps": 10, "guidance_scale": 3.0}
MORE = {
    "pixart": {
        "max_sequence_length": TEXT_TOKENS,
        "clean_caption": False,
        "use_resolution_binning": False,
    },
    "unet": {},
}


STUDY = """\
name = "tiny-{kind}"
title = "a small {kind} trained on the scenes of tiny-flux"

[model]
path = "pipeline"
component = "{component}"
weights = "trained-tiny"

[settings]
{settings}

[fidelity]
net = "tiny"
weights = "{trunk}"

[search]
batch_size = 12
depth_bands = 3

[pricing]
target = "b200"
batch_size = 1
stands_for = 16

[rule_of_thumb]
min_dim = 1024
skip = [
    {{ pattern = "*emb*", reason = "embeddings" }},
    {{ pattern = "*norm*", reason = "norms and modulation" }},
    {{ pattern = "proj_out", reason = "the final projection" }},
]

"""


def untrained(kind: str) -> nn.Module:
    """The denoiser with fresh weights."""
    if kind == "pixart":
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


def pipeline_of(kind: str, donor: Any, denoiser: nn.Module) -> Any:
    """The denoiser among tiny-flux's autoencoder, T5 and tokenizer."""
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_order=2, **noise_of(kind)
    )
    shared = {
        "vae": donor.vae,
        "text_encoder": donor.text_encoder_2,
        "tokenizer": donor.tokenizer_2,
        "scheduler": scheduler,
    }
    if kind == "pixart":
        return PixArtSigmaPipeline(transformer=denoiser, **shared)
    return StableDiffusionPipeline(
        unet=denoiser,
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
        **shared,
    )


def noise_of(kind: str) -> dict[str, Any]:
    """The schedule of betas that the model's family has."""
    linear = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
    return (
        linear
        if kind == "pixart"
        else {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    )


@torch.no_grad()
def latents_of(vae: Any, count: int, device: str) -> tuple[Tensor, Tensor, Any]:
    """Latents of training scenes as the denoiser sees them (count, 4, 32, 32), token ids (count,
    32), on the device.
    """
    generator, latents, ids = torch.Generator(device).manual_seed(SEED), [], []
    tokenizer = resolve_tokenizer()
    for start in range(0, count, 2048):
        scenes = training_scenes(min(2048, count - start), generator)
        with torch.autocast(device, torch.bfloat16):
            latents.append(
                (
                    vae.encode(draw(scenes, generator)).latent_dist.mode().float()
                    * vae.config.scaling_factor
                ).bfloat16()
            )
        ids.append(tokenize(tokenizer, captions(scenes)))
    return torch.cat(latents), torch.cat(ids).to(device), tokenize(tokenizer, [""]).to(device)


def resolve_tokenizer() -> Any:
    """tiny-flux's T5 tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        ROOT / "studies" / "tiny-flux" / "pipeline" / "tokenizer_2"
    )


def predicted_noise(
    kind: str, denoiser: nn.Module, noisy: Tensor, times: Tensor, text: Tensor, mask: Tensor
) -> Tensor:
    """The denoiser's answer, (B, 4, 32, 32)."""
    if kind == "unet":
        return denoiser(noisy, times, encoder_hidden_states=text, return_dict=False)[0]
    return denoiser(
        noisy,
        encoder_hidden_states=text,
        encoder_attention_mask=mask,
        timestep=times,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        return_dict=False,
    )[0]


def train(
    kind: str, donor: Any, *, device: str, steps: int, batch: int, scenes: int, time_limit_s: float
) -> tuple[nn.Module, dict[str, Any]]:
    """Noise prediction with one caption in ten left empty; ends with averaged weights when the
    steps are done or time is up.
    """
    begun = time.monotonic()
    torch.manual_seed(SEED)
    denoiser, generator = (
        untrained(kind).to(device).train(),
        torch.Generator(device).manual_seed(SEED + 1),
    )
    t5 = donor.text_encoder_2.to(device)
    clean, ids, empty = latents_of(donor.vae.to(device), scenes, device)
    alphas = DDPMScheduler(**noise_of(kind)).alphas_cumprod.to(device)
    run = torch.compile(denoiser) if device == "cuda" else denoiser
    optimizer = torch.optim.AdamW(
        denoiser.parameters(), lr=1e-3, weight_decay=0.01, betas=(0.9, 0.99), fused=device == "cuda"
    )
    average, taken, last = Average(denoiser, decay=0.999), 0, torch.zeros((), device=device)
    for _, update in _steps(kind, steps, optimizer, warmup=min(500, steps // 4 + 1)):
        pick = torch.randint(len(clean), (batch,), generator=generator, device=device)
        u = torch.rand(2, batch, generator=generator, device=device)
        tokens = torch.where((u[0] < DROPPED)[:, None], empty, ids[pick])
        mask = (tokens != 0).to(torch.int64) if kind == "pixart" else None
        times = (u[1] * len(alphas)).long()
        level, noise = (
            alphas[times][:, None, None, None],
            torch.randn(clean[pick].shape, generator=generator, device=device),
        )
        noisy = level.sqrt() * clean[pick].float() + (1 - level).sqrt() * noise
        with torch.autocast(device, torch.bfloat16):
            with torch.no_grad():
                text = t5(tokens, attention_mask=mask)[0]
            guess = predicted_noise(kind, run, noisy, times, text, mask)
        last = F.mse_loss(guess.float(), noise)
        update(last)
        average.update()
        taken += 1
        if time.monotonic() - begun > time_limit_s:
            break
    average.copy_to(denoiser)
    numbers = {
        "steps": taken,
        "schedule": steps,
        "batch": batch,
        "scenes": scenes,
        "last_loss": last.item(),
        "seconds": time.monotonic() - begun,
    }
    return denoiser.eval(), numbers


def write_study(kind: str, out: Path) -> Path:
    """The study beside the pipeline: tiny-flux's prompts and perceptual net."""
    settings = "\n".join(
        f"{key} = {json.dumps(value)}" for key, value in (SETTINGS | MORE[kind]).items()
    )
    prompts = (
        (ROOT / "studies" / "tiny-flux.toml").read_text(encoding="utf-8").partition("[prompts]")[2]
    )
    study = out / "study.toml"
    study.write_text(
        STUDY.format(
            kind=kind,
            component="unet" if kind == "unet" else "transformer",
            settings=settings,
            trunk=os.path.relpath(
                ROOT / "studies" / "tiny-flux" / "perceptual" / "trunk.safetensors", out.resolve()
            ),
        )
        + "[prompts]"
        + prompts,
        encoding="utf-8",
    )
    return study


@torch.no_grad()
def measure(study: Path, device: str, count: int) -> dict[str, float]:
    """What the reader finds: shares of named objects whose attributes are those of the prompt."""
    reader = Reader()
    reader.load_state_dict(
        load_file(ROOT / "studies" / "tiny-flux" / "reader" / "reader.safetensors")
    )
    scenes = held_out_scenes(count)
    media_generator = MediaGenerator(load_pipeline(load_spec(study), device=device))
    pictures = media_generator.generate_pictures(
        captions(scenes), list(range(count)), batch_size=min(count, 64)
    )
    heads, targets = split_heads(reader.float().eval()(pictures.float())), attribute_targets(scenes)
    named = targets["shape"] != heads["shape"].shape[-1] - 1
    right = {name: heads[name].argmax(-1) == target for name, target in targets.items()}
    return {
        f"{name}_accuracy": (r[named] if r.shape == named.shape else r).float().mean().item()
        for name, r in right.items()
    }


def main() -> None:
    """Train, write the folder, look at its pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("pixart", "unet"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=9000, help="of the learning-rate schedule")
    parser.add_argument(
        "--time-limit-s", type=float, default=1e9, help="of training; the averages so far are kept"
    )
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.enable_cudnn_sdp(
        False
    )  # its backward crashes on small shapes (H100, torch 2.11)
    torch.set_float32_matmul_precision("high")
    donor = load_pipeline(resolve_spec("tiny-flux"), device="cpu").pipe
    for part in (donor.vae, donor.text_encoder_2):
        part.float().requires_grad_(False)
    sizes = (
        {"steps": 3, "batch": 4, "scenes": 32}
        if args.smoke
        else {"steps": args.steps, "batch": BATCH, "scenes": 200_000}
    )
    denoiser, numbers = train(
        args.kind, donor, device=device, time_limit_s=args.time_limit_s, **sizes
    )
    pipe = pipeline_of(args.kind, donor, denoiser).to("cpu", torch.bfloat16)
    args.out.mkdir(parents=True, exist_ok=True)
    pipe.save_pretrained(args.out / "pipeline")
    report = {
        "training": numbers,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
    }
    report["gates"] = measure(write_study(args.kind, args.out), device, 8 if args.smoke else 192)
    (args.out / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
