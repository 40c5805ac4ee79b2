"""How many trials an hour do N GPUs of one host do, beside one? And what does a killed worker cost?

For each number of GPUs a new study is searched by the command that users run, torchrun with one
worker a GPU. The rate is that of the middle 80 % of the trials, by the times at which they ended,
so neither loading nor the last trials count; the whole command's seconds are beside it. With
`--kill` the last number is run once more, and one worker is killed (SIGKILL) when half of the
trials are done: what was finished must be there, no skip-list may be there twice, and the budget
must be met.

    python benchmarks/scaling.py --gpus 1 2 --model tiny-flux --budget 120 --kill --out runs/scaling
    python benchmarks/scaling.py --gpus 1 8 --model flux1-dev --budget 100 --out runs/flux \\
        --storage 'postgresql+psycopg://user@host/{name}' -- --weights random --steps 2 --net tiny

Arguments behind `--` go to `sensitivity search`. The storage is an SQLite file in `--out`, or a URL
in which `{name}` is the name of an empty database that exists (`scaling-1`, `scaling-2`,
`scaling-2-killed`). On more hosts: run the printed command on each of them, and then this script
with `--read`, which starts nothing.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import text

from sensitivity.core.environment import describe_environment
from sensitivity.core.storage_url import Storage, parse_storage
from sensitivity.search.database import Database
from sensitivity.workflows.status import read_status

MIDDLE = 0.8
"""Part of the trials that the rate is taken from."""
POLL_S = 0.5


def main(argv: Sequence[str] | None = None) -> None:
    """Run what the arguments ask for; the last line is JSON."""
    args, passed = _arguments(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "environment": describe_environment(args.device),
        "model": args.model,
        "budget": args.budget,
        "arguments": passed,
        "runs": [],
    }
    runs = [(gpus, False) for gpus in args.gpus] + [(args.gpus[-1], True)] * args.kill
    for gpus, kills in runs:
        name = f"scaling-{gpus}" + "-killed" * kills
        storage = parse_storage((args.storage or f"{args.out}/{{name}}.db").format(name=name))
        command = _command(args, gpus, args.out / f"{name}.json", passed)
        if args.read:
            run = {"gpus": gpus, **_trials_of(storage)}
        else:
            run = {"gpus": gpus, **_run(command, storage, args, name, kills=kills)}
        result["runs"].append(run)
        print(json.dumps(run), flush=True)
        (args.out / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")
    one = result["runs"][0]
    for run in result["runs"]:
        if one["an_hour"] and run["an_hour"]:
            linear = one["an_hour"] * run["gpus"] / one["gpus"]
            run["part_of_linear"] = round(run["an_hour"] / linear, 4)
    (args.out / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def _arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--model", default="tiny-flux")
    parser.add_argument("--budget", type=int, default=120)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--storage", help="a URL with {name}; default: SQLite files in --out")
    parser.add_argument("--kill", action="store_true", help="once more, with a worker killed")
    parser.add_argument("--time-limit-s", type=float, default=3600.0, help="of one run")
    parser.add_argument("--read", action="store_true", help="read the databases, start nothing")
    parser.add_argument("--out", type=Path, required=True)
    own = list(sys.argv[1:] if argv is None else argv)
    passed = own[own.index("--") + 1 :] if "--" in own else []
    return parser.parse_args(own[: len(own) - len(passed) - bool("--" in own)]), passed


def _command(args: argparse.Namespace, gpus: int, recipe: Path, passed: Sequence[str]) -> list[str]:
    """What users run on a host; the storage is named by the environment."""
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(gpus), "-m", "sensitivity", "search"),
        *("--model", args.model, "--budget", str(args.budget), "--device", args.device),
        *("--out", str(recipe), *passed),
    ]


def _run(
    command: list[str], storage: Storage, args: argparse.Namespace, name: str, *, kills: bool
) -> dict[str, Any]:
    """Run a command to its end, and say what its study holds."""
    secret = storage if isinstance(storage, Path) else storage.secret
    begun, killed = time.monotonic(), None
    with (args.out / f"{name}.log").open("w") as log:
        print(f"{' '.join(command)}  (storage {storage})", flush=True)
        process = subprocess.Popen(
            command,
            env=os.environ | {"SENSITIVITY_STORAGE": str(secret)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while process.poll() is None and time.monotonic() - begun < args.time_limit_s:
                time.sleep(POLL_S)
                if kills and killed is None:
                    killed = _kill_one(storage, args.budget)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(60)
    return {
        "seconds": round(time.monotonic() - begun, 1),
        "exit": process.returncode,
        **({"killed": killed} if kills else {}),
        **_trials_of(storage),
    }


def _kill_one(storage: Storage, budget: int) -> dict[str, Any] | None:
    """Kill a worker that lives, once half of the budget is done; what was done then."""
    try:
        status = read_status(storage)
    except Exception:  # not there yet
        return None
    alive = [worker for worker in status.workers if worker.is_alive and worker.stage == "trials"]
    done = status.studies[0].trials.done if status.studies else 0
    if done < budget / 2 or not alive:
        return None
    process = int(alive[-1].name.split(":")[1])
    os.kill(process, signal.SIGKILL)
    return {"worker": alive[-1].name, "trials_done": done}


def _trials_of(storage: Storage) -> dict[str, Any]:
    """What the study holds: trials by state, repeated skip-lists, the rate."""
    with Database.read(storage) as database, database.engine.connect() as connection:
        states = Counter(
            str(state) for (state,) in connection.execute(text("SELECT state FROM trials"))
        )
        ended = sorted(
            _seconds(when)
            for (when,) in connection.execute(
                text("SELECT datetime_complete FROM trials WHERE state IN ('COMPLETE', 'PRUNED')")
            )
        )
        choices = [
            choice
            for (choice,) in connection.execute(
                text(
                    "SELECT value_json FROM trial_user_attributes JOIN trials USING (trial_id)"
                    " WHERE key = 'choice' AND state IN ('COMPLETE', 'PRUNED')"
                )
            )
        ]
    cut = round(len(ended) * (1 - MIDDLE) / 2)
    middle = ended[cut : len(ended) - cut]
    span = middle[-1] - middle[0] if len(middle) > 2 else 0.0
    status = read_status(storage)
    return {
        "trials": len(ended),
        "proposals": status.studies[0].trials.done if status.studies else 0,
        "states": dict(states),
        "repeated": len(choices) - len(set(choices)),
        "trials_span_s": round(ended[-1] - ended[0], 2) if ended else None,
        "an_hour": round((len(middle) - 1) / span * 3600, 1) if span else None,
    }


def _seconds(when: object) -> float:
    """Seconds since 1970 of a time as the databases give it."""
    moment = when if isinstance(when, datetime) else datetime.fromisoformat(str(when))
    return moment.timestamp()


if __name__ == "__main__":
    main()
