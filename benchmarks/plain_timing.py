"""What does a recipe's list take by torchao and diffusers alone? An independent check.

    python benchmarks/plain_timing.py --model flux1-dev --recipe recipe.json --out plain.json

Nothing of `sensitivity` is imported: a user who has only the skip-list could have written this. The
denoiser is built by diffusers from a study's config files at full size with random weights,
quantized by torchao's `quantize_` with a `filter_fn` on names, compiled by diffusers'
`compile_repeated_blocks(fullgraph=True)` (numbered blocks where a model declares none), and called
with random inputs of the shapes that its pipeline makes at 1024 x 1024. Of bf16, everything and the
recipe's list it shows milliseconds of one denoiser call, the lists in turns, and the speedups.

Models: flux1-dev, z-image-turbo, sd3.5-large, and any FLUX (`--config FOLDER`). `--layers 2` cuts
the denoiser, `--device cpu` compiles nothing and quantizes nothing: that walks the path.
"""

import argparse
import gc
import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

STUDIES = Path(__file__).parents[1] / "studies"
BF16 = torch.bfloat16
WARMUPS, ROUNDS, CALLS = 4, 8, 3


def denoiser(config: Path, layers: int | None, device: str) -> nn.Module:
    """The transformer of a config file with random weights, in bf16."""
    data = json.loads((config / "transformer" / "config.json").read_text(encoding="utf-8"))
    if layers is not None:
        data |= {
            key: min(data[key], layers)
            for key in ("num_layers", "num_single_layers", "n_layers")
            if key in data
        }
    cls = getattr(diffusers, data["_class_name"])
    torch.manual_seed(0)
    with torch.device(device):
        before = torch.get_default_dtype()
        torch.set_default_dtype(BF16)
        try:
            model = cls.from_config(data)
        finally:
            torch.set_default_dtype(before)
    model = model.to(device, BF16).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" not in name and parameter.ndim > 1:
            parameter.normal_(0, 0.02)
    return model


def inputs(
    model: nn.Module, device: str, text: int, side: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the model's pipeline gives it for one picture of `side` latent tokens a side."""
    config, tokens = model.config, side * side

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, device=device, dtype=BF16)

    kind = type(model).__name__
    if kind == "FluxTransformer2DModel":
        ids = torch.zeros(side, side, 3, device=device, dtype=BF16)
        ids[..., 1] += torch.arange(side, device=device)[:, None]
        ids[..., 2] += torch.arange(side, device=device)[None]
        kwargs = {
            "hidden_states": normal(1, tokens, config.in_channels),
            "encoder_hidden_states": normal(1, text or 512, config.joint_attention_dim),
            "pooled_projections": normal(1, config.pooled_projection_dim),
            "timestep": torch.full((1,), 0.5, device=device, dtype=BF16),
            "img_ids": ids.reshape(tokens, 3),
            "txt_ids": torch.zeros(text or 512, 3, device=device, dtype=BF16),
            "return_dict": False,
        }
        if config.guidance_embeds:
            kwargs["guidance"] = torch.full((1,), 3.5, device=device)
        return (), kwargs
    if kind == "SD3Transformer2DModel":  # guidance in the batch: two rows a picture
        return (), {
            "hidden_states": normal(2, config.in_channels, 2 * side, 2 * side),
            "encoder_hidden_states": normal(2, text or 333, config.joint_attention_dim),
            "pooled_projections": normal(2, config.pooled_projection_dim),
            "timestep": torch.full((2,), 500.0, device=device),
            "return_dict": False,
        }
    if kind == "ZImageTransformer2DModel":
        latents = [normal(config.in_channels, 1, 2 * side, 2 * side)]
        return (latents, torch.full((1,), 0.5, device=device, dtype=BF16)), {
            "cap_feats": [normal(text or 32, config.cap_feat_dim)],
            "return_dict": False,
        }
    sys.exit(f"no inputs are known for {kind}; expected FLUX, SD3 or Z-Image")


def quantize(model: nn.Module, names: set[str]) -> None:
    """FP8 with a scale a row, dynamic, for exactly these Linears."""
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    config = Float8DynamicActivationFloat8WeightConfig(
        granularity=PerRow(), set_inductor_config=False
    )
    quantize_(model, config, filter_fn=lambda _, fqn: fqn in names)


def compile_blocks(model: nn.Module, mode: str | None) -> str:
    """As diffusers compiles, or block by block where a model declares no repeated blocks."""
    how: dict[str, Any] = {"fullgraph": True, "dynamic": False}
    if mode == "reduce-overhead":
        how["mode"] = mode
    if getattr(model, "_repeated_blocks", None):
        if mode == "reduce-overhead":
            kinds = set(model._repeated_blocks)
            blocks = [child for child in model.modules() if type(child).__name__ in kinds]
        else:
            model.compile_repeated_blocks(**how)
            return "compile_repeated_blocks"
    else:
        numbered = re.compile(r"\w*blocks\.\d+")
        blocks = [child for name, child in model.named_modules() if numbered.fullmatch(name)]
    for block in blocks:
        block.compile(**how)
        if mode == "reduce-overhead":  # the next replay overwrites what a block gave
            block._compiled_call_impl = cloned(block._compiled_call_impl)
    return f"{len(blocks)} blocks"


def cloned(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call with copies of its outputs."""

    def run(*args: Any, **kwargs: Any) -> Any:
        out = call(*args, **kwargs)
        if isinstance(out, tuple):  # SD3's last block gives None for the text
            return tuple(None if x is None else x.clone() for x in out)
        return out.clone()

    return run


def timed(work: Callable[[], Any], device: str) -> float:
    """Seconds of a call, calls back to back."""
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(CALLS):
        work()
    if device != "cpu":
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / CALLS


def linears_of(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: x for name, x in model.named_modules() if isinstance(x, nn.Linear)}


@torch.no_grad()
def measure(asked: argparse.Namespace, skipped: set[str], refused: set[str]) -> dict[str, Any]:
    """{list: its repetitions}, bf16, everything and the recipe in turns."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = 64
    config = asked.config or STUDIES / asked.model
    side, found = (8 if asked.device == "cpu" else 64), {}
    works: dict[str, Callable[[], Any]] = {}
    for name in ("none", "all", "recipe"):
        model = denoiser(config, asked.layers, asked.device)
        fitting = {
            fqn
            for fqn, x in linears_of(model).items()
            if x.in_features % 16 == 0 and x.out_features % 16 == 0
        } - refused
        chosen = {"none": set[str](), "all": fitting, "recipe": fitting - skipped}[name]
        if asked.device != "cpu":
            quantize(model, chosen)
            how = compile_blocks(model, asked.compile_mode)
        else:
            how = "nothing"
        args, kwargs = inputs(model, asked.device, asked.text, side)

        def work(model: nn.Module = model, args: Any = args, kwargs: Any = kwargs) -> Any:
            if asked.compile_mode == "reduce-overhead" and asked.device != "cpu":
                torch.compiler.cudagraph_mark_step_begin()
            return model(*args, **kwargs)

        begun = time.perf_counter()
        for _ in range(1 if asked.device == "cpu" else WARMUPS):
            work()
        found[name] = {
            "quantized": len(chosen),
            "compiled": how,
            "warm_s": time.perf_counter() - begun,
            "seconds": [],
        }
        works[name] = work
        gc.collect()
    for _ in range(2 if asked.device == "cpu" else ROUNDS):
        for name, one in works.items():
            found[name]["seconds"].append(timed(one, asked.device))
    for row in found.values():
        row["ms"] = 1e3 * statistics.median(row["seconds"])
        row["speedup"] = found["none"]["ms"] / row["ms"]
    return found


def main() -> None:
    """Read the recipe as plain JSON, measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="flux1-dev", help="a folder of studies/")
    parser.add_argument("--config", type=Path, help="another folder of config files")
    parser.add_argument("--recipe", type=Path, help="JSON with `layers`; without one, nothing")
    parser.add_argument("--skip", type=Path, help="or a text file with one exact name a line")
    parser.add_argument("--compile-mode", choices=["default", "reduce-overhead"], default="default")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--layers", type=int, help="cut the denoiser")
    parser.add_argument("--text", type=int, default=0, help="text tokens, if not the model's own")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    recipe = json.loads(asked.recipe.read_text(encoding="utf-8")) if asked.recipe else {}
    skipped = {name for name, own in recipe.get("layers", {}).items() if own == "bf16"}
    if asked.skip:
        lines = asked.skip.read_text(encoding="utf-8").splitlines()
        skipped |= {line.partition("#")[0].strip() for line in lines}
    lists = measure(asked, skipped, set(recipe.get("refused", {})))
    print(f"{'list':10}{'quantized':>10}{'ms a call':>12}{'speedup':>10}")
    for name, row in lists.items():
        print(f"{name:10}{row['quantized']:>10}{row['ms']:>12.2f}{row['speedup']:>9.3f}x")
    device = "CPU" if asked.device == "cpu" else torch.cuda.get_device_name()
    result = {
        "benchmark": "plain torchao and diffusers",
        "model": asked.model,
        "device": device,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "compile_mode": asked.compile_mode,
        "unit": "one denoiser call",
        "lists": lists,
    }
    if asked.out:
        asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
