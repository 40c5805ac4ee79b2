"""Which commands does the page show? Words of a shell, ready to paste.

search_command(report)       # "sensitivity search --model tiny-flux --budget 50 ..."
"""

import shlex

from sensitivity.latency.runtimes import DEFAULT
from sensitivity.workflows.report.records import Report, Trial

DEFAULTS = {
    "latency": "predicted",
    "runtime": DEFAULT,
    "sampler": "knapsack",
    "seed": "0",
    "granularity": "group",
    "calibrated": "true",
    "arithmetic": "eager",
}
"""Settings that a command need not say."""
OPTIONS = {
    "target": "--target",
    "budget": "--budget",
    "latency": "--latency",
    "runtime": "--runtime",
    "sampler": "--sampler",
    "seed": "--seed",
    "granularity": "--granularity",
    "arithmetic": "--arithmetic",
    "objective": "--objective",
    "edge_steps": "--edge-steps",
    "first_steps": "--first-steps",
    "last_steps": "--last-steps",
}
FLAGS = {("calibrated", "false"): "--no-calibrate", ("emulate", "true"): "--emulate"}


def search_command(report: Report) -> str:
    """The search that found it; of a recipe that none found, the one that would."""
    own = report.reproduction.search
    words = ["sensitivity", "search", "--model", report.model.name]
    for name in own.get("formats", "").split(","):
        words += ["--format", name] if name and own["formats"] != "nvfp4" else []
    for name in filter(None, own.get("consumers", "").split(",")):
        words += ["--for", name]
    was_searched = own.get("budget") != "0"
    for field, option in OPTIONS.items():
        value = own.get(field)
        if value and value != DEFAULTS.get(field) and (was_searched or field == "target"):
            words += [option, value]
    words += [flag for (field, value), flag in FLAGS.items() if own.get(field) == value]
    return shlex.join(words)


def next_commands(report: Report) -> list[tuple[str, str]]:
    """(what it does, command) of what one does next."""
    recipe = report.recipe_file or "recipe.json"
    model = report.model.name
    if report.verdict is None:
        return [("go on with the search", search_command(report))]
    verify = ["sensitivity", "verify", recipe, "--model", model]
    draw = ("draw its pictures for this page", shlex.join([*verify, "--keep-pictures", "12"]))
    again = ["sensitivity", "select", "--model", model, "--min-speedup", "1.2"]
    return [
        *([] if report.gallery.chosen else [draw]),
        ("check it on your own GPU", shlex.join(verify)),
        (
            "hand it to a tool",
            shlex.join(["sensitivity", "export", recipe, "--to", "diffusers"]),
        ),
        ("choose another list of the same search", shlex.join(again))
        if report.trials
        else ("search for a better one", search_command(report)),
    ]


def select_command(report: Report, trial: Trial) -> str:
    """The command that makes a recipe of another list of the front."""
    bound = f"{trial.seconds * 1.0000005:.7g}"
    return shlex.join(
        ["sensitivity", "select", "--model", report.model.name, "--max-seconds", bound]
    )
