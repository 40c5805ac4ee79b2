"""Three more trained models for `search_quality.py` and `score_tables.py`, with another structure
than tiny-flux: its scenes, autoencoder and text encoder, other denoisers (`other_denoisers.py`).

    python benchmarks/other_models.py pixart --out runs/pixart --time-limit-s 480      # one GPU
    python benchmarks/other_models.py unet --out runs/unet --time-limit-s 480
    python benchmarks/other_models.py video --out runs/video --time-limit-s 230
    python benchmarks/other_models.py video --out /tmp/try --smoke     # seconds on a CPU, as a test

FLUX predicts velocities, is guided by an input, and is sampled by Euler steps; none of these is.
Only the denoiser is trained. The folder holds the pipeline in bf16, a study and `training.json`
with what tiny-flux's reader finds in its pictures, and in the second frame of its clips.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from diffusers import DDPMScheduler
from other_denoisers import FRAMES, KINDS, SETTINGS, Kind
from safetensors.torch import load_file
from torch import Tensor, nn

from sensitivity.models.generating import MediaGenerator
from sensitivity.models.loading import load_pipeline
from sensitivity.spec.loading import load_spec, resolve_spec

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "studies" / "tiny-flux" / "training"))
from gates import held_out_scenes  # noqa: E402 - found by the line above
from networks import Reader, attribute_targets, split_heads  # noqa: E402
from scenes import Scenes, captions, draw  # noqa: E402
from stages import Average, _steps, training_scenes  # noqa: E402

SEED, DROPPED = 20261122, 0.1


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
weights = "trunk.safetensors"

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


def pipeline_of(kind: Kind, donor: Any, denoiser: nn.Module) -> Any:
    """The denoiser among tiny-flux's autoencoder, T5 and tokenizer."""
    parts = {
        "vae": donor.vae,
        "text_encoder": donor.text_encoder_2,
        "tokenizer": donor.tokenizer_2,
        "scheduler": kind.scheduler(),
    }
    return kind.pipeline(denoiser, parts)


def clip_of(scenes: Scenes, generator: torch.Generator) -> Tensor:
    """(B, FRAMES, 3, 128, 128) clips in which the first object moves, by up to 4 pixels a frame."""
    speed = 8 * torch.rand(len(scenes), 1, 1, generator=generator, device=generator.device) - 4
    state, frames = generator.get_state(), []
    for frame in range(FRAMES):
        generator.set_state(state)  # all frames draw the same picture
        frames.append(draw(scenes, generator, shift=speed * (frame - (FRAMES - 1) / 2)))
    return torch.stack(frames, 1)


@torch.no_grad()
def latents_of(
    kind: Kind, vae: Any, tokenizer: Any, count: int, device: str
) -> tuple[Tensor, Tensor]:
    """Latents of training scenes as the denoiser sees them, (count, 4, 32, 32) or (count, 4,
    FRAMES, 32, 32), and token ids (count, tokens), on the device.
    """
    generator, latents, ids = torch.Generator(device).manual_seed(SEED), [], []
    at_once = 2048 // max(kind.frames, 1)
    for start in range(0, count, at_once):
        scenes = training_scenes(min(at_once, count - start), generator)
        drawn = clip_of(scenes, generator) if kind.frames else draw(scenes, generator)[:, None]
        with torch.autocast(device, torch.bfloat16):
            encoded = vae.encode(drawn.flatten(0, 1)).latent_dist.mode()
        encoded = (encoded.float() * vae.config.scaling_factor).bfloat16()
        encoded = encoded.unflatten(0, drawn.shape[:2]).transpose(1, 2)  # (B, 4, F, 32, 32)
        latents.append(encoded if kind.frames else encoded[:, :, 0])
        ids.append(token_ids(kind, tokenizer, captions(scenes)))
    return torch.cat(latents), torch.cat(ids).to(device)


def token_ids(kind: Kind, tokenizer: Any, texts: list[str]) -> Tensor:
    """(B, tokens) ids, padded and truncated as the pipeline does."""
    found: Tensor = tokenizer(
        texts, padding="max_length", max_length=kind.tokens, truncation=True, return_tensors="pt"
    )["input_ids"]
    return found


def compiled(denoiser: nn.Module, device: str) -> nn.Module:
    """The denoiser, compiled on a GPU; the blocks of a large stack share their graphs."""
    if device != "cuda":
        return denoiser
    if not hasattr(denoiser, "temporal_transformer_blocks"):
        return torch.compile(denoiser)  # type: ignore[return-value]
    for block in (*denoiser.transformer_blocks, *denoiser.temporal_transformer_blocks):
        block.compile()
    return denoiser


def train(
    kind: Kind, donor: Any, *, device: str, steps: int, batch: int, scenes: int, time_limit_s: float
) -> tuple[nn.Module, dict[str, Any]]:
    """Prediction of noise or v with one caption in ten left empty; ends with averaged weights when
    the steps are done or time is up.

    The rate falls with the steps or with the time, whichever is nearer its end.
    """
    begun = time.monotonic()
    torch.manual_seed(SEED)
    denoiser, generator = (
        kind.untrained().to(device).train(),
        torch.Generator(device).manual_seed(SEED + 1),
    )
    t5, tokenizer = donor.text_encoder_2.to(device), donor.tokenizer_2
    clean, ids = latents_of(kind, donor.vae.to(device), tokenizer, scenes, device)
    empty = token_ids(kind, tokenizer, [""]).to(device)
    alphas = DDPMScheduler(**kind.betas).alphas_cumprod.to(device)
    run = compiled(denoiser, device)
    optimizer = torch.optim.AdamW(
        denoiser.parameters(), lr=1e-3, weight_decay=0.01, betas=(0.9, 0.99), fused=device == "cuda"
    )
    average, taken, last = Average(denoiser, decay=0.999), 0, torch.zeros((), device=device)
    drawn_s = time.monotonic() - begun
    for _, update in _steps("denoiser", steps, optimizer, warmup=min(500, steps // 4 + 1)):
        left = 1 - (time.monotonic() - begun) / time_limit_s
        for group in optimizer.param_groups:  # the last third of the time brings the rate down
            group["lr"] *= min(1.0, max(left * 3, 0.0))
        pick = torch.randint(len(clean), (batch,), generator=generator, device=device)
        u = torch.rand(2, batch, generator=generator, device=device)
        tokens = torch.where((u[0] < DROPPED)[:, None], empty, ids[pick])
        mask = (tokens != 0).to(torch.int64)
        times = (u[1] * len(alphas)).long()
        level = alphas[times].reshape(-1, *(1,) * (clean.dim() - 1))
        noise = torch.randn(clean[pick].shape, generator=generator, device=device)
        signal, spread = level.sqrt(), (1 - level).sqrt()
        noisy = signal * clean[pick].float() + spread * noise
        target = signal * noise - spread * clean[pick].float() if kind.predicts_v else noise
        with torch.autocast(device, torch.bfloat16):
            with torch.no_grad():
                text = t5(tokens, attention_mask=mask if kind.masked else None)[0]
            guess = kind.predict(run, noisy, times, text, mask)
        last = F.mse_loss(guess.float(), target)
        update(last)
        average.update()
        taken += 1
        if time.monotonic() - begun > time_limit_s:
            break
    average.copy_to(denoiser)
    for module in denoiser.modules():
        module._compiled_call_impl = None  # compiled blocks cannot be saved
    numbers = {
        "steps": taken,
        "schedule": steps,
        "batch": batch,
        "scenes": scenes,
        "last_loss": last.item(),
        "drawing_s": drawn_s,
        "seconds": time.monotonic() - begun,
    }
    return denoiser.eval(), numbers


def write_study(kind: str, out: Path) -> Path:
    """The study beside the pipeline: tiny-flux's prompts, and a copy of its perceptual net."""
    call = SETTINGS | dict(KINDS[kind].settings)
    settings = "\n".join(f"{key} = {json.dumps(value)}" for key, value in call.items())
    tiny_flux = (ROOT / "studies" / "tiny-flux.toml").read_text(encoding="utf-8")
    shutil.copy(ROOT / "studies" / "tiny-flux" / "perceptual" / "trunk.safetensors", out)
    study = out / "study.toml"
    study.write_text(
        STUDY.format(kind=kind, component=KINDS[kind].component, settings=settings)
        + "[prompts]"
        + tiny_flux.partition("[prompts]")[2],
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
    if pictures.dim() == 5:
        pictures = pictures[:, 1].float() * 2 - 1
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
    parser.add_argument("kind", choices=tuple(KINDS))
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
    kind = KINDS[args.kind]
    sizes = (
        {"steps": 3, "batch": 4, "scenes": 32}
        if args.smoke
        else {"steps": args.steps, "batch": kind.batch, "scenes": kind.scenes}
    )
    denoiser, numbers = train(kind, donor, device=device, time_limit_s=args.time_limit_s, **sizes)
    pipe = pipeline_of(kind, donor, denoiser).to("cpu", torch.bfloat16)
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
