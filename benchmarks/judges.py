"""What does each judge see that LPIPS does not? Kinds of damage that LPIPS finds equally bad.

Pictures: tiny-flux's in bf16, for its first held-out prompts. Each kind of damage is made as strong
as LPIPS (net tiny) takes it for `LEVEL`; then each judge says how bad it is. Judges that see the
same as LPIPS give all kinds the same value. Beside them stands what quantization does (all Linears
in nvfp4, by emulation) and bf16 with another seed, each at its own LPIPS.

tiny-flux learned shapes and colours, and no letters. So the judge of words is shown on words that
PIL draws, large and small, of which one letter is exchanged; other damage is made as strong as
LPIPS takes it for that, and noise as strong as `noise of` says. The judge of clips is shown on a
still picture that lasts `FRAMES` frames, with noise and brightness errors that stay or change from
frame to frame.

Prints tables, and what a judge costs, and ends with one JSON line.

    python benchmarks/judges.py                         # some minutes on two CPU cores
    python benchmarks/judges.py --out benchmarks/results/2026-11-29-judges.json
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.functional import adjust_hue, gaussian_blur

from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.judges.known import make_judge
from sensitivity.fidelity.judges.text import Text
from sensitivity.fidelity.lpips import LpipsDistance, study_distance
from sensitivity.models.loading import load_pipeline
from sensitivity.spec.loading import resolve_spec

PICTURES = 6
LEVEL = 0.05
"""LPIPS of each kind of damage: what nvfp4 everywhere does to these pictures, about."""
STEPS = 12
"""Halvings of the strength of a kind."""
FRAMES, RATE = 12, 12.0
WORDS = ("OPEN DAILY", "Fresh Bread", "NO PARKING", "LIBRARY")
LETTERS = {"letters of 30 pixels": 30, "letters of 13 pixels": 13}

Damage = Callable[[Tensor, float], Tensor]
"""(pictures (B, 3, H, W) in [0, 1], strength in [0, 1]) -> the same, damaged."""


def seeded(shape: torch.Size) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def blur(x: Tensor, strength: float) -> Tensor:
    """Gaussian, up to 4 pixels."""
    sigma = max(1e-3, 4 * strength)
    return gaussian_blur(x, [31, 31], [sigma, sigma])


def noise(x: Tensor, strength: float) -> Tensor:
    """White, up to half the range."""
    return (x + 0.5 * strength * seeded(x.shape)).clamp(0, 1)


def hue(x: Tensor, strength: float) -> Tensor:
    """Every hue turned, up to half a circle."""
    return adjust_hue(x, 0.5 * strength)


def shift(x: Tensor, strength: float) -> Tensor:
    """Moved to the right, up to 8 pixels and in parts of one, by the phases of its spectrum."""
    pixels, width = 8 * strength, x.shape[-1]
    phase = torch.exp(-2j * math.pi * torch.fft.rfftfreq(width) * pixels)
    return torch.fft.irfft(torch.fft.rfft(x) * phase, n=width).clamp(0, 1)


def blocks(x: Tensor, strength: float) -> Tensor:
    """Mixed with the mean of its 8 x 8 blocks."""
    means = torch.nn.functional.avg_pool2d(x, 8).repeat_interleave(8, -1).repeat_interleave(8, -2)
    return x + strength * (means - x)


def tint(x: Tensor, strength: float) -> Tensor:
    """Warmer: more red, less blue, by up to half the range."""
    return (x + 0.5 * strength * torch.tensor([1.0, 0.0, -1.0])[:, None, None]).clamp(0, 1)


KINDS: dict[str, Damage] = {
    "blur": blur,
    "noise": noise,
    "hue turned": hue,
    "warm tint": tint,
    "shifted": shift,
    "8 x 8 blocks": blocks,
}


def lpips_of(distance: LpipsDistance, x: Tensor, reference: Tensor) -> float:
    return float(distance(x * 2 - 1, reference * 2 - 1).mean())


def at_level(
    distance: LpipsDistance, damage: Damage, x: Tensor, level: float
) -> tuple[Tensor, float]:
    """The pictures damaged to this LPIPS or, at most, as much as can be; and the strength."""
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if lpips_of(distance, damage(x, middle), x) < level:
            low = middle
        else:
            high = middle
    return damage(x, high), high


def scenes() -> tuple[Tensor, dict[str, Tensor]]:
    """tiny-flux's pictures in bf16, and {what happened: pictures} of two things that are real."""
    spec = resolve_spec("tiny-flux")
    texts = spec.prompts.held_out[:PICTURES]
    spec = spec.model_copy(
        update={"prompts": spec.prompts.model_copy(update={"held_out": tuple(texts)})}
    )
    with tempfile.TemporaryDirectory() as folder:
        evaluator = Evaluator(load_pipeline(spec, device="cpu"), cache_folder=Path(folder))
        pictures = evaluator.references("held_out").pictures
        formats = {
            fqn: FormatName.NVFP4
            for fqn, linear in evaluator.switch.linears.items()
            if linear.in_features % 32 == 0  # as nvfp4 needs
        }
        quantized = evaluator.generate(formats, "held_out").pictures
        seeds = [spec.prompts.held_out_seed + 500 + i for i in range(len(texts))]
        other = evaluator.media_generator.generate(texts, seeds, batch_size=PICTURES).pictures
    x, *made = (((p + 1) / 2).clamp(0, 1) for p in (pictures, quantized, other))
    return x, {"nvfp4 everywhere": made[0], "another seed": made[1]}


def signs(words: tuple[str, ...], size: int = 30) -> Tensor:
    """(B, 3, 256, 256): each text on a plain sign, as PIL draws it; letters of `size` pixels."""
    made = []
    for i, text in enumerate(words):
        image = Image.new("RGB", (256, 256), ((70, 110, 150), (170, 120, 80), (90, 130, 90))[i % 3])
        draw = ImageDraw.Draw(image)
        draw.rectangle((14, 84, 242, 164), fill=(240, 236, 225))
        draw.text(
            (128, 124), text, fill=(30, 30, 40), font=ImageFont.load_default(size=size), anchor="mm"
        )
        made.append(torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255)
    return torch.stack(made)


def exchanged(words: tuple[str, ...]) -> tuple[str, ...]:
    """Each text with its third letter exchanged for one that looks much the same or not."""
    return tuple(text[:2] + ("F" if text[2].isupper() else "z") + text[3:] for text in words)


def judged(x: Tensor, reference: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    prompts = [""] * len(x)
    return {
        name: float(
            make_judge(name, frames_per_second=RATE, device="cpu")(x, reference, prompts).mean()
        )
        for name in names
    }


def read_words(distance: LpipsDistance, size: int) -> dict[str, dict[str, float]]:
    """{kind of damage: what LPIPS and the judges say} of drawn words."""
    plain, judge = signs(WORDS, size), Text()
    prompts = [f'a sign that says "{text}"' for text in WORDS]
    wrong = signs(exchanged(WORDS), size)
    level = lpips_of(distance, wrong, plain)
    damaged = {"a letter exchanged": (wrong, math.nan)} | {
        kind: at_level(distance, KINDS[kind], plain, level)
        for kind in ("blur", "noise", "warm tint", "8 x 8 blocks")
    }
    damaged |= {f"noise of {s:.0%}": (noise(plain, 2 * s), 2 * s) for s in (0.2, 0.4)}
    return {
        kind: {
            "lpips": lpips_of(distance, made, plain),
            "strength": strength,
            "text": float(judge(made, plain, prompts).mean()),
            **judged(made, plain, ("psnr", "ssim", "flip")),
        }
        for kind, (made, strength) in damaged.items()
    }


def clips(x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """A still clip (1, F, 3, H, W), and the same with errors that stay or change."""
    still = x[None, :1].repeat(1, FRAMES, 1, 1, 1)
    grain = torch.randn(still.shape, generator=torch.Generator().manual_seed(0))
    steps = torch.tensor([1.0, -1.0]).repeat(FRAMES // 2)[None, :, None, None, None]
    return still, {
        "noise that stays": (still + 0.05 * grain[:, :1]).clamp(0, 1),
        "noise that changes": (still + 0.05 * grain).clamp(0, 1),
        "brighter": (still + 0.03).clamp(0, 1),
        "brighter and darker in turn": (still + 0.03 * steps).clamp(0, 1),
    }


def costs(sizes: tuple[int, ...] = (256, 1024)) -> dict[str, dict[str, float]]:
    """{judge: {height: CPU seconds a picture}} of a noisy picture with a word, after one call."""
    found: dict[str, dict[str, float]] = {}
    for name in ("psnr", "ssim", "flip", "text"):
        judge = make_judge(name, frames_per_second=RATE, device="cpu")
        for size in sizes:
            x = torch.nn.functional.interpolate(signs(WORDS[:1]), (size, size))
            begun = [0.0, 0.0]
            for i in range(2):
                begun[i] = time.process_time()
                judge(noise(x, 0.1), x, ['"OPEN DAILY"'])
            found.setdefault(name, {})[str(size)] = round(time.process_time() - begun[1], 3)
    return found


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    names = list(next(iter(rows.values())))
    print(f"\n{title}\n{'':28}" + "".join(f"{name:>10}" for name in names))
    for kind, row in rows.items():
        print(f"{kind:28}" + "".join(f"{row[name]:10.4g}" for name in names))


def main() -> None:
    """Damage, judge and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, help="where the JSON line goes too")
    out = parser.parse_args().out
    distance = study_distance(resolve_spec("tiny-flux"), device="cpu")
    x, real = scenes()
    on_scenes: dict[str, dict[str, float]] = {}
    for kind, damage in KINDS.items():
        made, strength = at_level(distance, damage, x, LEVEL)
        on_scenes[kind] = {"lpips": lpips_of(distance, made, x), "strength": strength}
        on_scenes[kind] |= judged(made, x, ("psnr", "ssim", "flip"))
    for kind, made in real.items():
        on_scenes[kind] = {"lpips": lpips_of(distance, made, x), "strength": math.nan}
        on_scenes[kind] |= judged(made, x, ("psnr", "ssim", "flip"))
    show(f"{PICTURES} scenes of tiny-flux, damaged to LPIPS {LEVEL}", on_scenes)

    on_words = {name: read_words(distance, size) for name, size in LETTERS.items()}
    for name, rows in on_words.items():
        show(f"{len(WORDS)} drawn signs, {name}, damaged to the LPIPS of an exchanged letter", rows)

    still, errors = clips(x)
    on_clips = {
        kind: {
            "lpips": lpips_of(distance, made[0], still[0]),
            **judged(made, still, ("cvvdp", "flip", "psnr")),
        }
        for kind, made in errors.items()
    }
    show(f"a still clip of {FRAMES} frames at {RATE:g} a second", on_clips)
    spent = costs()
    show("CPU seconds a picture", spent)
    result = {
        "pictures": PICTURES,
        "lpips_level": LEVEL,
        "scenes": _rounded(on_scenes),
        "words": {name: _rounded(rows) for name, rows in on_words.items()},
        "clips": _rounded(on_clips),
        "cpu_seconds_a_picture": spent,
        "torch_threads": torch.get_num_threads(),
        "environment": describe_environment("cpu"),
        "judges": {
            name: make_judge(name, frames_per_second=RATE, device="cpu").made_by
            for name in ("psnr", "ssim", "flip", "cvvdp", "text")
        },
    }
    line = json.dumps(result)
    if out is not None:
        out.write_text(line + "\n")
    print(line)


def _rounded(rows: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    return {
        kind: {name: None if math.isnan(v) else float(f"{v:.4g}") for name, v in row.items()}
        for kind, row in rows.items()
    }


if __name__ == "__main__":
    main()
