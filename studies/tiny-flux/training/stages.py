"""How each part of `tiny-flux` is trained.

One function a stage; every stage is seeded, prints its losses and returns what the model card
needs.

Order: trunk (reads scenes; becomes LPIPS `net = "tiny"`), reader (the independent judge),
autoencoder (L1 + LPIPS on the trunk + a small KL), denoiser (flow matching with the text encoders,
then guidance distillation as FLUX.1-dev had).
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import lpips
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from diffusers import FluxPipeline
from networks import (
    LATENT_CHANNELS,
    LATENT_SIZE,
    TEXT_TOKENS,
    Reader,
    Trunk,
    attribute_targets,
    split_heads,
)
from scenes import Scenes, captions, draw, held_out, sample_scenes
from torch import Tensor, nn

IMAGE_TOKENS = (LATENT_SIZE // 2) ** 2
GUIDANCE_RANGE = (1.0, 6.0)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How long each stage runs. `smoke` is for trying the script without a GPU."""

    trunk_steps: int = 4000
    reader_steps: int = 4000
    vae_steps: int = 4000
    scenes: int = 400_000
    base_schedule: int = 16_000  # steps of the learning-rate schedule of flow matching
    base_steps: int = 11_000  # of which this many are taken
    distil_steps: int = 2_500
    batch: int = 512


SMOKE = Sizes(
    trunk_steps=3,
    reader_steps=3,
    vae_steps=3,
    scenes=256,
    base_schedule=6,
    base_steps=4,
    distil_steps=2,
    batch=8,
)


def training_scenes(n: int, generator: torch.Generator) -> Scenes:
    """n scenes, none of them held out."""
    scenes = sample_scenes(n + n // 20 + 64, generator)
    return scenes[~held_out(scenes)][:n]


def cosine(step: int, steps: int, warmup: int) -> float:
    """Learning-rate factor: linear warm-up, then half a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _steps(
    name: str,
    steps: int,
    optimizer: torch.optim.Optimizer,
    warmup: int,
    schedule: int | None = None,
) -> Iterator[tuple[int, Callable[[Tensor], None]]]:
    """Yields (step, update): update(loss) is one optimizer step at the scheduled rate with the
    gradient clipped at 1; prints now and then.
    """
    base = [group["lr"] for group in optimizer.param_groups]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    begun, total = time.monotonic(), torch.zeros((), device=parameters[0].device)
    every = max(1, steps // 40)

    def update(loss: Tensor) -> None:
        nonlocal total
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total = total + loss.detach()

    for step in range(steps):
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = lr * cosine(step, schedule or steps, warmup)
        yield step, update
        if (step + 1) % every == 0:
            print(
                f"{name}: step {step + 1}/{steps}, loss {total.item() / every:.4f},"
                f" {time.monotonic() - begun:.0f} s",
                flush=True,
            )
            total = torch.zeros_like(total)


def train_reading(
    net: Trunk | Reader, *, steps: int, seed: int, batch: int, device: str, noise: float
) -> dict[str, float]:
    """Teaches a network to read every attribute of a scene; returns its accuracy on held-out
    scenes. `noise`: largest sd of added Gaussian noise.
    """
    generator = torch.Generator(device).manual_seed(seed)
    net.to(device).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-4, weight_decay=1e-2)
    for _, update in _steps(type(net).__name__.lower(), steps, optimizer, warmup=min(500, steps)):
        scenes = training_scenes(batch, generator)
        pictures = draw(scenes, generator)
        pictures = pictures + noise * torch.rand(
            batch, 1, 1, 1, generator=generator, device=device
        ) * torch.randn(pictures.shape, generator=generator, device=device)
        with torch.autocast(device, torch.bfloat16):
            heads = split_heads(net(pictures).float())
        targets = attribute_targets(scenes)
        update(
            sum(
                F.cross_entropy(heads[name].flatten(0, 1), target.flatten())
                for name, target in targets.items()
            )
        )
    net.eval()
    return reading_accuracy(net, generator)


@torch.no_grad()
def reading_accuracy(net: nn.Module, generator: torch.Generator) -> dict[str, float]:
    """Share of attributes read right on freshly drawn held-out scenes; places with no object count
    for shape only.
    """
    scenes = sample_scenes(40_000, generator)
    scenes = scenes[held_out(scenes)][:512]
    heads, targets = split_heads(net(draw(scenes, generator)).float()), attribute_targets(scenes)
    named = targets["shape"] < targets["shape"].max()
    right = {name: heads[name].argmax(-1) == target for name, target in targets.items()}
    return {
        name: (r[named] if r.shape == named.shape else r).float().mean().item()
        for name, r in right.items()
    }


def perceptual_distance(trunk: Trunk) -> lpips.LPIPS:
    """LPIPS with the given trunk and no learned channel weights, through the lpips package's own
    forward.
    """
    net = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, lpips=False, verbose=False)
    layers = dict(trunk.features.named_children())
    for slice_name in ("slice1", "slice2", "slice3", "slice4", "slice5"):
        for index, layer in getattr(net.net, slice_name).named_children():
            layer.load_state_dict(layers[index].state_dict())
    return net.requires_grad_(False).eval()


def train_autoencoder(
    vae: nn.Module, trunk: Trunk, *, sizes: Sizes, seed: int, device: str
) -> dict[str, float]:
    """L1 + 0.5 LPIPS(trunk) + 3e-3 KL (mean over the latent's elements).

    Sets the config's shift and scale from 4,096 scenes. Returns held-out errors.
    """
    generator = torch.Generator(device).manual_seed(seed)
    torch.manual_seed(seed)
    distance = perceptual_distance(trunk).to(device)
    vae.to(device, memory_format=torch.channels_last).train()
    if device == "cuda":
        vae.encoder.compile()
        vae.decoder.compile()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3, weight_decay=1e-3, betas=(0.9, 0.95))
    for _, update in _steps(
        "autoencoder", sizes.vae_steps, optimizer, warmup=min(300, sizes.vae_steps)
    ):
        pictures = draw(training_scenes(min(64, 4 * sizes.batch), generator), generator).contiguous(
            memory_format=torch.channels_last
        )
        with torch.autocast(device, torch.bfloat16):
            posterior = vae.encode(pictures).latent_dist
            decoded = vae.decode(posterior.sample()).sample
            apart = distance(decoded, pictures).mean()
        update(
            F.l1_loss(decoded.float(), pictures)
            + 0.5 * apart.float()
            + 3e-3 * posterior.kl().float().mean() / (LATENT_CHANNELS * LATENT_SIZE**2)
        )
    vae.eval()
    vae.encoder._compiled_call_impl = vae.decoder._compiled_call_impl = (
        None  # other batch sizes follow
    )
    scenes = sample_scenes(40_000, generator)
    scenes = scenes[held_out(scenes)][:256]
    pictures = draw(scenes, generator)
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        latents = vae.encode(pictures).latent_dist.mode()
        decoded = vae.decode(latents).sample.float()
        apart = distance(decoded, pictures).float().mean().item()
    vae.register_to_config(
        shift_factor=latents.float().mean().item(), scaling_factor=1 / latents.float().std().item()
    )
    mse = (decoded - pictures).square().mean().item() / 4
    return {"held_out_psnr_db": -10 * math.log10(mse), "held_out_lpips_tiny": apart}


@torch.no_grad()
def encode_scenes(pipeline: FluxPipeline, n: int, *, seed: int, device: str) -> dict[str, Tensor]:
    """n training scenes as the denoiser sees them: packed latents (n, 256, 16) and token ids of
    both tokenizers (n, TEXT_TOKENS).
    """
    generator = torch.Generator(device).manual_seed(seed)
    vae, packed, clip_ids, t5_ids = pipeline.vae, [], [], []
    for start in range(0, n, 2048):
        scenes = training_scenes(min(2048, n - start), generator)
        with torch.autocast(device, torch.bfloat16):
            latents = vae.encode(
                draw(scenes, generator).contiguous(memory_format=torch.channels_last)
            ).latent_dist.mode()
        latents = (latents.float() - vae.config.shift_factor) * vae.config.scaling_factor
        packed.append(
            FluxPipeline._pack_latents(
                latents, len(latents), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE
            ).bfloat16()
        )
        for ids, tokenizer in ((clip_ids, pipeline.tokenizer), (t5_ids, pipeline.tokenizer_2)):
            ids.append(tokenize(tokenizer, captions(scenes)))
    return {
        "latents": torch.cat(packed),
        "clip": torch.cat(clip_ids).to(device),
        "t5": torch.cat(t5_ids).to(device),
    }


def tokenize(tokenizer: Callable[..., dict[str, Tensor]], texts: list[str]) -> Tensor:
    """(B, TEXT_TOKENS) ids, padded and truncated as FluxPipeline does."""
    return tokenizer(
        texts, padding="max_length", max_length=TEXT_TOKENS, truncation=True, return_tensors="pt"
    )["input_ids"]


class Velocity(nn.Module):
    """Text encoders and denoiser as one function of latents, caption ids, time and guidance."""

    def __init__(self, pipeline: FluxPipeline, device: str) -> None:
        super().__init__()
        self.clip, self.t5, self.transformer = (
            pipeline.text_encoder,
            pipeline.text_encoder_2,
            pipeline.transformer,
        )
        self.register_buffer(
            "text_ids", torch.zeros(TEXT_TOKENS, 3, device=device), persistent=False
        )
        image_ids = FluxPipeline._prepare_latent_image_ids(
            1, LATENT_SIZE // 2, LATENT_SIZE // 2, device, torch.float32
        )
        self.register_buffer("image_ids", image_ids, persistent=False)
        self.run = self.transformer

    def forward(
        self, latents: Tensor, clip_ids: Tensor, t5_ids: Tensor, sigma: Tensor, guidance: Tensor
    ) -> Tensor:
        """latents:

        (B, 256, 16); ids: (B, TEXT_TOKENS); sigma in [0, 1] and guidance: (B,). Returns the
        velocity, (B, 256, 16).
        """
        pooled, text = self.clip(clip_ids).pooler_output, self.t5(t5_ids)[0]
        return self.run(
            hidden_states=latents,
            encoder_hidden_states=text,
            pooled_projections=pooled,
            timestep=sigma,
            guidance=guidance,
            txt_ids=self.text_ids,
            img_ids=self.image_ids,
            return_dict=False,
        )[0]


class Average:
    """Exponential moving average of a module's parameters (decay ramps up from 0 over the first
    steps).
    """

    def __init__(self, module: nn.Module, decay: float = 0.9995) -> None:
        self.decay, self.count = decay, 0
        self.live = list(module.parameters())
        self.mean = [p.detach().clone() for p in self.live]

    def update(self) -> None:
        self.count += 1
        torch._foreach_lerp_(
            self.mean,
            [p.detach() for p in self.live],
            1 - min(self.decay, self.count / (self.count + 10)),
        )

    def copy_to(self, module: nn.Module) -> None:
        with torch.no_grad():
            for p, mean in zip(module.parameters(), self.mean, strict=True):
                p.copy_(mean)


def train_denoiser(
    pipeline: FluxPipeline,
    data: dict[str, Tensor],
    *,
    sizes: Sizes,
    seed: int,
    device: str,
    distil: bool,
    keep: Callable[[dict[str, Tensor]], None],
) -> dict[str, float]:
    """Flow matching on cached latents; with `distil`, guidance distillation from the pipeline's
    present weights.

    sigma is logit-normal(0.3, 1); x = (1 - sigma) x0 + sigma noise; the target is noise - x0.
    Without `distil` one caption in ten is empty and the guidance input is 1. With `distil` the
    target is the teacher's v(empty) + g (v(caption) - v(empty)), g uniform in GUIDANCE_RANGE. The
    pipeline ends with the averaged weights; `keep` is given the averages so far, by name, every
    1,000 steps.
    """
    torch.manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed)
    student = Velocity(pipeline, device).to(device).train()
    teacher = copy.deepcopy(student).eval().requires_grad_(False) if distil else None
    if device == "cuda":
        for net in filter(None, (student, teacher)):
            net.run = torch.compile(net.transformer)
    steps, schedule, lr = (
        (sizes.distil_steps,) * 2 + (3e-4,)
        if distil
        else (sizes.base_steps, sizes.base_schedule, 1.2e-3)
    )
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.95), fused=device == "cuda"
    )
    average = Average(student)
    empty = {
        name: tokenize(t, [""]).to(device)
        for name, t in (("clip", pipeline.tokenizer), ("t5", pipeline.tokenizer_2))
    }
    n, last = len(data["latents"]), torch.zeros((), device=device)
    name, warmup = "distil" if distil else "denoiser", min(1000, schedule // 10 + 1)
    for step, update in _steps(name, steps, optimizer, warmup=warmup, schedule=schedule):
        pick = torch.randint(n, (sizes.batch,), generator=generator, device=device)
        clean, clip, t5 = data["latents"][pick].float(), data["clip"][pick], data["t5"][pick]
        u = torch.randn(2, sizes.batch, generator=generator, device=device)
        sigma, drop = (u[0] + 0.3).sigmoid(), (u[1] < -1.2816)[:, None]  # P(u < -1.2816) = 0.1
        noise = torch.randn(clean.shape, generator=generator, device=device)
        noisy, target, guidance = (
            torch.lerp(clean, noise, sigma[:, None, None]),
            noise - clean,
            torch.ones_like(sigma),
        )
        with torch.autocast(device, torch.bfloat16):
            if teacher is None:
                clip, t5 = (
                    torch.where(drop, empty["clip"], clip),
                    torch.where(drop, empty["t5"], t5),
                )
            else:
                low, high = GUIDANCE_RANGE
                guidance = low + (high - low) * torch.rand(
                    sizes.batch, generator=generator, device=device
                )
                with torch.no_grad():
                    with_text = teacher(noisy, clip, t5, sigma, torch.ones_like(sigma)).float()
                    without = teacher(
                        noisy,
                        empty["clip"].expand_as(clip),
                        empty["t5"].expand_as(t5),
                        sigma,
                        torch.ones_like(sigma),
                    ).float()
                target = without + guidance[:, None, None] * (with_text - without)
            velocity = student(noisy, clip, t5, sigma, guidance)
        last = F.mse_loss(velocity.float(), target)
        update(last)
        average.update()
        if step % 1000 == 999:
            keep(
                {
                    name: mean
                    for (name, _), mean in zip(
                        student.named_parameters(), average.mean, strict=True
                    )
                }
            )
    average.copy_to(student)
    student.eval()
    return {"steps": steps, "schedule": schedule, "batch": sizes.batch, "last_loss": last.item()}
