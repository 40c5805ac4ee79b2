"""Which metric tells damage from drift? tiny-flux's held-out pictures, drifted (other seeds,
steps, guidance) and damaged (noise, blur, JPEG, ...).

Prints a table of means over the prompts and ends with one JSON line. `above_drift` is how many
standard deviations a damaged picture lies above what drifted pictures of the same LPIPS have (a
straight line through their logarithms), averaged over kinds of damage: a metric that tells the two
apart is well above 0.

    python benchmarks/drift_or_damage.py                 # about a minute on two CPU cores
"""

import io
import json
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d
from torchvision.transforms.functional import gaussian_blur

from sensitivity.core.environment import describe_environment
from sensitivity.fidelity.detail import LUMA, detail_distance
from sensitivity.fidelity.lpips import study_distance
from sensitivity.models.generating import MediaGenerator
from sensitivity.models.loading import load_pipeline
from sensitivity.spec.loading import resolve_spec

Metric = Callable[[Tensor, Tensor], Tensor]


def generate() -> tuple[Tensor, dict[str, Tensor]]:
    """(pictures, {kind of drift: pictures}), each (B, 3, H, W) in [-1, 1]; all as good as one
    another.
    """
    spec = resolve_spec("tiny-flux")
    media_generator = MediaGenerator(load_pipeline(spec, device="cpu"))
    texts = spec.prompts.held_out
    seeds = [spec.prompts.held_out_seed + i for i in range(len(texts))]
    drifted = {
        f"{n} steps": media_generator.generate_pictures(
            texts, seeds, batch_size=12, num_inference_steps=n
        )
        for n in (6, 7, 9, 12)
    }
    drifted |= {
        f"guidance {g}": media_generator.generate_pictures(
            texts, seeds, batch_size=12, guidance_scale=g
        )
        for g in (3.0, 3.3, 4.0)
    }
    drifted["other seed"] = media_generator.generate_pictures(
        texts, [seed + 500 for seed in seeds], batch_size=12
    )
    return media_generator.generate_pictures(texts, seeds, batch_size=12), drifted


def damaged(pictures: Tensor) -> dict[str, Tensor]:
    """{kind of damage: the pictures with it}."""
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    made = {
        f"noise {s}": (pictures + s * noise).clamp(-1, 1) for s in (0.01, 0.02, 0.04, 0.08, 0.15)
    }
    made |= {
        f"blur {s}": gaussian_blur(pictures, [15, 15], [s, s]) for s in (0.4, 0.6, 0.9, 1.3, 2.0)
    }
    made |= {f"jpeg {q}": jpeg(pictures, q) for q in (90, 70, 40, 20)}
    made |= {f"contrast {c}": pictures * c for c in (0.9, 0.7, 0.5)}
    return made | {f"{n} levels": ((pictures + 1) * n / 2).round() / n * 2 - 1 for n in (32, 16, 8)}


def jpeg(pictures: Tensor, quality: int) -> Tensor:
    """Each picture through a JPEG file."""
    decoded = []
    for picture in pictures:
        data = io.BytesIO()
        Image.fromarray(((picture.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()).save(
            data, "JPEG", quality=quality
        )
        decoded.append(torch.from_numpy(np.array(Image.open(data))).permute(2, 0, 1) / 127.5 - 1)
    return torch.stack(decoded)


def dissimilarity(a: Tensor, b: Tensor, *, scales: int = 1) -> Tensor:
    """1 - SSIM of luma (Wang et al. 2004:

    Gaussian window of 11, sigma 1.5), or 1 - MS-SSIM with the first weights of Wang et al. 2003,
    normalised.
    """
    weights = torch.tensor([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:scales]
    taps = torch.exp(-((torch.arange(11) - 5.0) ** 2) / 4.5)
    kernel = (taps[:, None] * taps / taps.sum() ** 2)[None, None]
    a, b = (((x + 1) / 2 * torch.tensor(LUMA)[:, None, None]).sum(1, keepdim=True) for x in (a, b))
    product = torch.ones(len(a))
    for scale, weight in enumerate((weights / weights.sum()).tolist()):
        mean_a, mean_b = conv2d(a, kernel), conv2d(b, kernel)
        var_a, var_b = conv2d(a * a, kernel) - mean_a**2, conv2d(b * b, kernel) - mean_b**2
        value = (2 * (conv2d(a * b, kernel) - mean_a * mean_b) + 9e-4) / (var_a + var_b + 9e-4)
        if scale == scales - 1:
            value = value * (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
        product *= value.mean((1, 2, 3)).clamp(min=0) ** weight
        a, b = avg_pool2d(a, 2), avg_pool2d(b, 2)
    return 1 - product


def above_drift(drift: Tensor, damage: Tensor) -> float:
    """Mean standard score of damage (2, n) above the line through drift (2, m); row 0 is LPIPS, row
    1 the metric.
    """
    x, y = drift.clamp(min=1e-6).log().numpy()
    slope, offset = np.polyfit(x, y, 1)
    u, v = damage.clamp(min=1e-6).log().numpy()
    return float(np.mean(v - slope * u - offset) / np.std(y - slope * x - offset))


def main() -> None:
    """Compare and print."""
    metrics: dict[str, Metric] = {
        "lpips": study_distance(resolve_spec("tiny-flux"), device="cpu"),
        "1 - ssim": dissimilarity,
        "1 - ms-ssim": lambda a, b: dissimilarity(a, b, scales=3),
        "detail_db": detail_distance,
    }
    pictures, drifted = generate()
    rows = {
        kind: {
            name: torch.stack([metric(x, pictures) for metric in metrics.values()])
            for name, x in made.items()
        }
        for kind, made in (("drift", drifted), ("damage", damaged(pictures)))
    }
    print(f"{'':20}" + "".join(f"{name:>14}" for name in metrics))
    for kind, found in rows.items():
        for name, values in found.items():
            print(f"{kind + ': ' + name:20}" + "".join(f"{float(v):14.4f}" for v in values.mean(1)))
    drift, damage = (torch.cat([*rows[kind].values()], 1) for kind in ("drift", "damage"))
    scores = {
        name: round(above_drift(drift[[0, i]], damage[[0, i]]), 2)
        for i, name in enumerate(metrics)
        if i
    }
    means = {
        kind: {name: [round(float(v), 4) for v in values.mean(1)] for name, values in found.items()}
        for kind, found in rows.items()
    }
    print(
        json.dumps(
            {
                "pictures": len(pictures),
                "environment": describe_environment("cpu"),
                "measures": [*metrics],
                "above_drift": scores,
                "means": means,
            }
        )
    )


if __name__ == "__main__":
    main()
