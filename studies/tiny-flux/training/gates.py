"""Is it a model?

The gates that a trained `tiny-flux` must pass, measured on held-out prompts, and its sample sheet.

The reader (trained on drawn scenes, never on generated pictures) looks at each place that the
prompt names and must read the shape and the colour that the prompt asks for: at least 90 % each.
Two seeds of one prompt must give different pictures.
"""

from pathlib import Path

import torch
from diffusers import FluxPipeline
from networks import attribute_targets, split_heads
from PIL import Image, ImageDraw
from scenes import PIXELS, Scenes, captions, held_out, sample_scenes
from torch import Tensor, nn

STEPS, GUIDANCE, TEXT_TOKENS = 8, 3.5, 32
PROMPT_SEED = 77


def held_out_scenes(count: int, seed: int = PROMPT_SEED) -> Scenes:
    """The first `count` held-out scenes of a seed, on the CPU: the same on every machine."""
    scenes = sample_scenes(count * 80 + 1000, torch.Generator().manual_seed(seed))
    return scenes[held_out(scenes)][:count]


@torch.no_grad()
def generate(
    pipeline: FluxPipeline,
    prompts: list[str],
    seeds: list[int],
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> Tensor:
    """(B, 3, 128, 128) in [-1, 1]; one CPU generator a prompt."""
    pipeline.set_progress_bar_config(disable=True)
    parts = []
    for start in range(0, len(prompts), 64):
        chunk = slice(start, start + 64)
        parts.append(
            pipeline(
                prompts[chunk],
                height=PIXELS,
                width=PIXELS,
                num_inference_steps=steps,
                guidance_scale=guidance,
                max_sequence_length=TEXT_TOKENS,
                generator=[torch.Generator().manual_seed(n) for n in seeds[chunk]],
                output_type="pt",
            ).images.float()
        )
    return torch.cat(parts) * 2 - 1


@torch.no_grad()
def measure_gates(
    pipeline: FluxPipeline,
    reader: nn.Module,
    *,
    count: int,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> dict[str, float]:
    """Accuracy of shape, colour, size and texture over all objects that `count` held-out prompts
    name, and how much two seeds differ.
    """
    scenes = held_out_scenes(count)
    prompts = captions(scenes)
    pictures, others = (
        generate(pipeline, prompts, list(range(s, s + count)), steps=steps, guidance=guidance)
        for s in (0, 10_000)
    )
    device = next(reader.parameters()).device
    heads = split_heads(reader(pictures.to(device)).float())
    targets = {name: t.to(device) for name, t in attribute_targets(scenes).items()}
    nothing = heads["shape"].shape[-1] - 1
    named = targets["shape"] != nothing
    gates: dict[str, float] = {
        "prompts": count,
        "objects": int(named.sum()),
        "steps": steps,
        "guidance": guidance,
    }
    for name, target in targets.items():
        right = heads[name].argmax(-1) == target
        gates[f"{name}_accuracy"] = (
            (right[named] if right.shape == named.shape else right).float().mean().item()
        )
    gates["empty_places_left_empty"] = (
        (heads["shape"].argmax(-1) == targets["shape"])[~named].float().mean().item()
    )
    gates["mean_pixel_difference_between_seeds"] = (pictures - others).abs().mean().item() / 2
    gates["least_pixel_difference_between_seeds"] = (pictures - others).abs().mean(
        (1, 2, 3)
    ).min().item() / 2
    return gates


def write_samples(pipeline: FluxPipeline, path: Path, *, rows: int, columns: int = 4) -> None:
    """A sheet of held-out prompts with what was drawn for them; two seeds side by side."""
    prompts = captions(held_out_scenes(rows * columns))
    first, second = (generate(pipeline, prompts, [s] * len(prompts)) for s in (1, 2))
    cell_w, cell_h = 2 * PIXELS + 12, PIXELS + 62
    sheet = Image.new("RGB", (columns * cell_w, rows * cell_h), "white")
    pen = ImageDraw.Draw(sheet)
    for i, prompt in enumerate(prompts):
        x, y = i % columns * cell_w + 4, i // columns * cell_h + 4
        for j, pictures in enumerate((first, second)):
            pixels = (
                ((pictures[i].permute(1, 2, 0).cpu() + 1) * 127.5)
                .round()
                .clamp(0, 255)
                .byte()
                .numpy()
            )
            sheet.paste(Image.fromarray(pixels), (x + j * (PIXELS + 2), y))
        lines, line = [], ""
        for word in prompt.split():
            line, full = (
                (f"{line} {word}".strip(), None) if len(line) + len(word) < 42 else (word, line)
            )
            lines += [full] if full else []
        for k, text in enumerate([*lines, line]):
            pen.text((x, y + PIXELS + 2 + 11 * k), text, fill="black")
    sheet.save(path, optimize=True)
