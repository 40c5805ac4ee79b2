"""Recipes of toy models."""

from collections.abc import Iterable
from typing import Any

from sensitivity.recipes.recipe import Recipe


def make_recipe(
    fqns: Iterable[str], quantized: Iterable[str], *formats: str, **changes: Any
) -> Recipe:
    """A recipe over `fqns` in which `quantized` take `formats` in turn."""
    chosen = list(quantized)
    layers = dict.fromkeys(fqns, "bf16") | {
        fqn: formats[place % len(formats)] for place, fqn in enumerate(chosen)
    }
    model = {
        "id": "toy\nproj_out",
        "revision": None,
        "pipeline_class": "FluxPipeline",
        "component": "transformer",
        "component_class": "FluxTransformer2DModel",
        "weights": "pretrained",
    }
    latency = {
        "bf16_s": 3.0,
        "quantized_s": 2.0,
        "speedup": 1.5,
        "source": "predicted",
        "target": "b200",
        "batch_size": 1,
    }
    lpips = {
        "mean": 0.15,
        "ci95": [0.1, 0.2],
        "net": "alex",
        "noise_floor": None,
        "prompts": ["a"],
        "seeds": [1],
        "per_prompt": [0.15],
    }
    data = {
        "name": "toy",
        "model": model | changes,
        "layers": layers,
        "skip": [fqn for fqn in layers if layers[fqn] == "bf16"],
        "latency": {**latency, "compile_mode": None},
        "fidelity": {"lpips": lpips},
        "block_patterns": {},
        "environment": {},
        "memory": {"bf16_bytes": 2, "quantized_bytes": 1, "source": "predicted"},
        "search": {"study": "toy", "budget": 1, "trials": 1, "sampler": "sweep", "seed": None},
    }
    return Recipe.from_mapping(data)
