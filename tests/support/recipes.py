"""Recipes of toy models, and what exported Python defines."""

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


FLUX_FQNS = (
    "x_embedder",
    "context_embedder",
    "time_text_embed.timestep_embedder.linear_1",
    "proj_out",
    "norm_out.linear",
    *(
        f"transformer_blocks.{block}.{role}"
        for block in range(12)
        for role in ("attn.to_q", "ff.net.2", "norm1.linear")
    ),
    *(
        f"single_transformer_blocks.{block}.{role}"
        for block in range(12)
        for role in ("attn.to_q", "proj_mlp", "proj_out")
    ),
)
"""FLUX's names in small: `proj_out` and `transformer_blocks.N` are also parts of longer names."""


def flux_recipe(*formats: str) -> Recipe:
    """Names where substring matching goes wrong: the top-level `proj_out` and block 1 stay bf16,
    their namesakes do not.
    """
    kept = {
        "proj_out",
        "x_embedder",
        *(fqn for fqn in FLUX_FQNS if fqn.startswith("transformer_blocks.1.")),
    }
    return make_recipe(
        FLUX_FQNS, (fqn for fqn in FLUX_FQNS if fqn not in kept), *(formats or ("nvfp4",))
    )


def run_exported(text: str) -> dict[str, Any]:
    """What exported Python defines."""
    namespace: dict[str, Any] = {}
    exec(compile(text, "exported.py", "exec"), namespace)
    return namespace
