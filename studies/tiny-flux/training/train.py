"""Trains `tiny-flux` from nothing and writes it as a diffusers pipeline folder.

    python studies/tiny-flux/training/train.py --out build/tiny-flux       # half an hour, one GPU
    python studies/tiny-flux/training/train.py --out build/try --smoke     # seconds on a CPU

Stages that are already in the folder are not run again, so an interrupted run goes on where it
stopped. Seeds are fixed. The result: `pipeline/` (diffusers format, bf16),
`perceptual/trunk.safetensors` (LPIPS `net = "tiny"`), `reader/reader.safetensors` (the gates'
judge), `samples.png` and `training.json` (losses, gates, time, hardware: the numbers of the model
card).
"""

import argparse
import functools
import json
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import FluxPipeline
from gates import measure_gates, write_samples
from networks import Reader, Trunk, untrained_pipeline
from safetensors.torch import load_file, save_file
from stages import SMOKE, Sizes, encode_scenes, train_autoencoder, train_denoiser, train_reading
from torch import Tensor, nn

SEED = 20261121


class Run:
    """One training run in a folder: which stages are done, and what they reported."""

    def __init__(self, out: Path) -> None:
        self.out, self.stages = out, out / "stages"
        self.stages.mkdir(parents=True, exist_ok=True)
        self.report_path = out / "training.json"
        self.report = json.loads(self.report_path.read_text()) if self.report_path.exists() else {}

    def stage(
        self, name: str, modules: dict[str, nn.Module], train: Callable[[], dict[str, float]]
    ) -> None:
        """Runs `train` and keeps the modules' weights; or loads them when an earlier run has kept
        them.
        """
        files = {part: self.stages / f"{name}.{part}.safetensors" for part in modules}
        if name in self.report and all(f.exists() for f in files.values()):
            print(f"{name}: kept from an earlier run")
            for part, module in modules.items():
                module.load_state_dict(load_file(files[part]))
            return
        begun = time.monotonic()
        numbers = train()
        for part, module in modules.items():
            save_file(
                {
                    k: v.detach().float().cpu().clone(memory_format=torch.contiguous_format)
                    for k, v in module.state_dict().items()
                },
                files[part],
            )
        self.note(name, numbers | {"seconds": round(time.monotonic() - begun, 1)})

    def note(self, name: str, numbers: dict[str, object]) -> None:
        self.report[name] = numbers
        self.report_path.write_text(json.dumps(self.report, indent=2) + "\n")
        print(name, json.dumps(numbers), flush=True)


def save_bf16(tensors: Mapping[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {
            k: v.detach().bfloat16().cpu().clone(memory_format=torch.contiguous_format)
            for k, v in tensors.items()
        },
        path,
    )


def train(run: Run, sizes: Sizes, device: str) -> tuple[FluxPipeline, Reader]:
    """All stages in order; returns the trained pipeline in bf16 and the reader, on the device."""
    torch.manual_seed(SEED)
    trunk, reader, pipeline = Trunk(), Reader(), untrained_pipeline()
    vae = pipeline.vae
    batch = min(256, 4 * sizes.batch)
    run.stage(
        "trunk",
        {"trunk": trunk},
        lambda: train_reading(
            trunk, steps=sizes.trunk_steps, seed=SEED + 1, batch=batch, device=device, noise=0.0
        ),
    )
    run.stage(
        "reader",
        {"reader": reader},
        lambda: train_reading(
            reader, steps=sizes.reader_steps, seed=SEED + 2, batch=batch, device=device, noise=0.3
        ),
    )
    trunk.to(device), reader.to(device)

    def autoencoder() -> dict[str, float]:
        numbers = train_autoencoder(vae, trunk, sizes=sizes, seed=SEED + 3, device=device)
        return numbers | {
            "shift_factor": vae.config.shift_factor,
            "scaling_factor": vae.config.scaling_factor,
        }

    run.stage("autoencoder", {"vae": vae}, autoencoder)
    vae.register_to_config(
        **{k: run.report["autoencoder"][k] for k in ("shift_factor", "scaling_factor")}
    )
    pipeline.to(device)
    parts = {
        "transformer": pipeline.transformer,
        "t5": pipeline.text_encoder_2,
        "clip": pipeline.text_encoder,
    }
    data = (
        {}
        if "distil" in run.report
        else encode_scenes(pipeline, sizes.scenes, seed=SEED + 4, device=device)
    )
    for name, seed in (("denoiser", SEED + 5), ("distil", SEED + 6)):
        options = {"sizes": sizes, "seed": seed, "device": device, "distil": name == "distil"}
        # something to look at before the stage ends
        partial = run.stages / f"{name}.partial.safetensors"
        train = functools.partial(
            train_denoiser,
            pipeline,
            data,
            keep=functools.partial(save_bf16, path=partial),
            **options,
        )
        run.stage(name, parts, train)
    save_bf16(trunk.features.state_dict(), run.out / "perceptual" / "trunk.safetensors")
    save_bf16(reader.state_dict(), run.out / "reader" / "reader.safetensors")
    pipeline.to(torch.bfloat16).save_pretrained(run.out / "pipeline")
    return pipeline, reader


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the result")
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="a few steps of each stage, to see that the script runs",
    )
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.enable_cudnn_sdp(
        False
    )  # its backward crashes on these shapes (illegal memory access, H100, torch 2.11)
    torch.set_float32_matmul_precision("high")
    run = Run(args.out)
    machine = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "CPU"
    run.note(
        "environment",
        {
            "device": machine,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "smoke": args.smoke,
            "seed": SEED,
        },
    )
    pipeline, reader = train(run, SMOKE if args.smoke else Sizes(), device)
    run.note("gates", measure_gates(pipeline, reader, count=8 if args.smoke else 256))
    write_samples(pipeline, args.out / "samples.png", rows=1 if args.smoke else 4)


if __name__ == "__main__":
    main()
