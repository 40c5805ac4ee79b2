"""Does a search by measured latency believe what its winner really takes?

    python benchmarks/measured_search.py --model flux1-dev --out result.json         # one GPU

Runs `sensitivity search --latency measured` as a user would, at full size with random weights: FP8,
few trials, few steps, few prompts, the perceptual net that ships. Nothing is downloaded. Scores of
random weights mean nothing; seconds do not depend on weights. Of the recipe that the search wrote,
and of every list that it ran at the end, it shows

    believed      the sum of measured shapes, by which the search ranked
    predicted     the price for this GPU from its constants, without any measurement
    end to end    what the search measured when it had chosen, lists in turns
    plain         `plain_timing.py`: the winner's list, timed by torchao and diffusers alone

`--small --device cpu` walks the path with tiny-flux and predicted prices. The last line of stdout
is a summary as one JSON object.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from sensitivity.core.environment import describe_environment
from sensitivity.core.json_files import write_whole
from sensitivity.core.words import first_line
from sensitivity.latency.devices import find_device
from sensitivity.latency.pricer import latency_model
from sensitivity.recipes.recipe import Recipe, load_recipe
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.overrides import RunOptions
from sensitivity.workflows.price import PriceRequest, price

PROMPTS = (
    "a red bicycle leaning against a brick wall",
    "a lighthouse in a storm at night",
    "two cats asleep on a blue sofa",
    "a street market in the rain",
    "an old map of an island, ink on paper",
    "a bowl of oranges by a window",
    "a robot repairing a clock",
    "snow on a mountain village at dawn",
)
"""Half of them choose, half are held out."""
HERE = Path(__file__).parent


def search_command(asked: argparse.Namespace, target: str, folder: Path) -> list[str]:
    """The command line of the search."""
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    files = {"--storage": "study.db", "--out": "recipe.json", "--json": "search.json"}
    options = {
        "--model": asked.model,
        "--format": "fp8",
        "--budget": asked.budget,
        "--target": target,
        "--latency": "predicted" if asked.small else "measured",
        "--device": asked.device,
        **{flag: folder / name for flag, name in files.items()},
    }
    if not asked.small:
        options |= {
            "--steps": asked.steps,
            "--prompts": prompts,
            "--weights": "random",
            "--net": "tiny",
        }
    words = [str(word) for pair in options.items() for word in pair]
    return [sys.executable, "-m", "sensitivity", "search", *words, *asked.more]


def predicted_of(recipe: Recipe, path: Path, asked: argparse.Namespace, target: str) -> Any:
    """The recipe's price from the target's constants, of what ran end to end: the denoiser's calls
    where the rest of the pipeline was not run.
    """
    options = RunOptions() if asked.small else RunOptions(steps=asked.steps)
    mode = recipe.latency.compile_mode or "reduce-overhead"
    request = PriceRequest(target=target, recipe=path, compile_mode=mode, options=options)
    prices = price(resolve_spec(asked.model), request)
    found, rest_s = prices.main.estimate, 0.0
    if "denoiser calls" in recipe.latency.covers:
        model = latency_model(prices.spec, target, runtime=request.way)
        rest_s = model.others_s(prices.run.table)
    bf16_s, quantized_s = found.bf16_s - rest_s, found.quantized_s - rest_s
    interval = found.interval90 if not rest_s else None  # it is that of the whole run
    return {
        "bf16_s": bf16_s,
        "quantized_s": quantized_s,
        "speedup": bf16_s / quantized_s,
        "interval90": None if interval is None else list(interval),
        "whole_run_bf16_s": found.bf16_s,
        "whole_run_speedup": found.speedup,
    }


def plain_timing(
    asked: argparse.Namespace, recipe: Path, folder: Path, mode: str
) -> dict[str, Any]:
    """What `plain_timing.py` says, in a process of its own; its reason where it failed."""
    out = folder / "plain.json"
    words = ["--model", asked.model, "--recipe", recipe, "--out", out, "--device", asked.device]
    words += ["--compile-mode", mode]
    command = [sys.executable, str(HERE / "plain_timing.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return {"reason": done.stderr.strip().rpartition("\n")[2][:300]}
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def summarise(recipe: Recipe) -> dict[str, Any]:
    """Seconds of the winner and of every list that was run at the end."""
    data = recipe.model_dump(mode="json")
    latency = data["latency"]
    return {
        "name": recipe.name,
        "linears": len(recipe.layers),
        "quantized": len(recipe.layers) - len(recipe.skip),
        "refused": data.get("refused", {}),
        "end_to_end": {key: value for key, value in latency.items() if key != "shapes"},
        "believed": latency.get("shapes"),
        "timings": data.get("timings", []),
        "front": data["front"],
        "kernels": data["fidelity"].get("kernels") if data["fidelity"] else None,
    }


def table(result: dict[str, Any]) -> str:
    """What is to be seen, for people."""
    winner, lines = result["winner"], []
    measured, believed = winner["end_to_end"], winner["believed"]
    predicted, plain = result["predicted"], result["plain"]
    rows = [
        ("believed (measured shapes)", believed),
        ("predicted, of the same part", predicted),
        (f"end to end ({measured['source']})", measured),
    ]
    for title, row in rows:
        if row is None:
            lines.append(f"{title:32} -")
            continue
        error = row["speedup"] / measured["speedup"] - 1
        lines.append(
            f"{title:32} bf16 {row['bf16_s']:8.4f} s  winner {row['quantized_s']:8.4f} s "
            f" {row['speedup']:.3f}x  ({error:+.1%})"
        )
    if "lists" in plain:
        found = plain["lists"]["recipe"]["speedup"]
        lines.append(
            f"{'plain torchao and diffusers':32} {found:.3f}x"
            f"  ({found / measured['speedup'] - 1:+.1%}), of one denoiser call"
        )
    else:
        lines.append(f"plain torchao and diffusers: {plain.get('reason')}")
    for timing in winner["timings"]:
        speedup = timing.get("speedup")
        said = f"{speedup:.3f}x" if speedup else timing.get("failure") or ""
        lines.append(f"  ran at the end: {timing['name']:32} {said}")
    return "\n".join(lines)


def run_shown(command: list[str]) -> str:
    """Run a command; what it prints goes to stderr at once, each line with its seconds."""
    begun, lines = time.monotonic(), []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            lines.append(f"{time.monotonic() - begun:7.1f} {line}")
            print(lines[-1], end="", file=sys.stderr, flush=True)
    return "".join(lines)


def parse_arguments() -> argparse.Namespace:
    """The command line; what is unknown goes to the search."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="flux1-dev")
    parser.add_argument("--budget", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folder", type=Path, help="database and recipe, to go on from; not kept")
    parser.add_argument("--small", action="store_true", help="tiny-flux, predicted, as a test")
    asked, asked.more = parser.parse_known_args()
    if asked.small:
        asked.model, asked.budget = "tiny-flux", 3
    return asked


def main() -> int:
    """Search, summarise, write, print."""
    asked = parse_arguments()
    machine = describe_environment(asked.device)
    known = find_device(machine["device"])
    target = known.name if known is not None else "h100"
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        command = search_command(asked, target, folder)
        begun = time.monotonic()
        output = run_shown(command)
        wall_s = time.monotonic() - begun
        shown = ["sensitivity", *command[3:]]
        result: dict[str, Any] = {
            "benchmark": "search by measured latency",
            "command": " ".join(word.replace(f"{folder}/", "") for word in shown),
            "machine": machine,
            "target": target,
            "wall_s": wall_s,
            "output": [line.rstrip() for line in output[-12_000:].splitlines()],
        }
        path = folder / "recipe.json"
        if not path.is_file():
            result["reason"] = first_line(RuntimeError(output.strip()[-300:]))
        else:
            recipe = load_recipe(path)
            result["winner"] = summarise(recipe)
            result["predicted"] = predicted_of(recipe, path, asked, target)
            mode = recipe.latency.compile_mode or "reduce-overhead"
            result["plain"] = plain_timing(asked, path, folder, mode)
            print(table(result))
        text = json.dumps(result, indent=1, allow_nan=False).replace(f"{folder}/", "")
    write_whole(asked.out, (text + "\n").encode())
    print(json.dumps({key: result.get(key) for key in ("winner", "predicted", "plain", "reason")}))
    return 0 if "winner" in result else 1


if __name__ == "__main__":
    sys.exit(main())
