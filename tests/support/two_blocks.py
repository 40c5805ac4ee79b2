"""A net of two blocks, and a recipe of it as parsed JSON."""

import copy
from typing import Any

import torch
from torch import nn

from sensitivity.recipes.recipe import Recipe


class TwoBlockNet(nn.Module):
    """Two blocks of two Linears and a small head: 5 Linears, all K and N multiples of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(32, 64), "down": nn.Linear(64, 32)}) for _ in range(2)
        )
        self.head = nn.Linear(32, 32, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (..., 32) -> (..., 32)."""
        for block in self.blocks:
            x = x + block["down"](block["up"](x))  # type: ignore[index]
        return self.head(x)  # type: ignore[no-any-return]


LAYERS = {
    "blocks.0.up": "mxfp8",
    "blocks.0.down": "bf16",
    "blocks.1.up": "mxfp8",
    "blocks.1.down": "bf16",
    "head": "mxfp8",
}


def recipe_data(**changes: Any) -> dict[str, Any]:
    """A recipe as parsed JSON, with top-level fields replaced."""
    latency = {
        "bf16_s": 3.0,
        "quantized_s": 2.0,
        "speedup": 1.5,
        "source": "predicted",
        "target": "b200",
        "batch_size": 1,
        "compile_mode": None,
        "stands_for": 1,
        "runtime": "",
        "covers": "",
        "speedup_interval90": None,
        "shapes": None,
        "whole_run": None,
        "note": "",
    }
    data: dict[str, Any] = {
        "schema_version": "2.0",
        "name": "toy-mxfp8-b200",
        "made": {"date": "2026-11-29", "command": "sensitivity search --model toy"},
        "model": {
            "id": "toy",
            "revision": None,
            "pipeline_class": "ToyPipeline",
            "component": "transformer",
            "component_class": "TwoBlockNet",
            "components": {},
            "weights": "pretrained",
        },
        "layers": dict(LAYERS),
        "patterns": [{"pattern": "blocks.*.down", "reason": "costs quality"}],
        "latency": latency,
        "fidelity": {
            "lpips": {
                "mean": 0.15,
                "ci95": [0.1, 0.2],
                "typical": 0.14,
                "typical_ci95": [0.1, 0.2],
                "expected_mean": 0.15,
                "curve": {"at": 0.1, "log_ratio": 0.1, "slope": -0.1, "error": 0.2},
                "flips": {"count": 1, "prompts": [1], "threshold": 0.2, "another_seed": 0.4},
                "net": "tiny",
                "noise_floor": 0.01,
                "native_rounding": None,
                "prompts": ["a", "b"],
                "seeds": [1, 2],
                "per_prompt": [0.1, 0.2],
                "simultaneous": 1,
            },
            "frames": {"stride": 2, "lpips": [[0.1, 0.1], [0.1, 0.3]]},
            "motion": {"mean": 0.0, "noise_floor": None, "per_prompt": [0.0, 0.0]},
            "detail_db": {"mean": 0.3, "noise_floor": 0.1, "per_prompt": [0.2, 0.4]},
            "audio": {
                "mean": 0.5,
                "noise_floor": 0.2,
                "per_prompt": [0.5, 0.5],
                "weight": 0.5,
                "max_distance": None,
            },
            "kernels": "emulated",
            "judges": {},
            "objective": None,
            "against": [{"name": "all mxfp8", "ratio": 0.5, "ci95": [0.4, 0.6]}],
        },
        "notice": None,
        "memory": {"bf16_bytes": 1000, "quantized_bytes": 600, "source": "predicted"},
        "block_patterns": {"ModuleDict": 1},
        "search": {
            "study": "toy",
            "budget": 50,
            "trials": 40,
            "stopped": 3,
            "trial": 7,
            "sampler": "sweep",
            "seed": 0,
            "consumers": ["sglang"],
        },
        "choice": None,
        "verified": None,
        "environment": {"torch": "2.15", "gpu": None},
        "front": [
            {"name": "t7", "latency": dict(latency), "lpips": 0.15, "typical": 0.1, "audio": 0.4}
        ],
        "timings": [],
        "refused": {},
    }
    return {**data, **changes}


def two_block_recipe(**changes: Any) -> Recipe:
    """The same as a `Recipe`."""
    return Recipe.from_mapping(recipe_data(**changes))


def changed(path: str, value: Any) -> dict[str, Any]:
    """`recipe_data()` with the field at a dotted path replaced."""
    data = copy.deepcopy(recipe_data())
    *front, last = path.split(".")
    place = data
    for key in front:
        place = place[key]
    place[last] = value
    return data
