"""In which panel of a command's help does an option stand, what completes it, and what is an
example of the command?

    panel_of("max_lpips")                   # "What is chosen"
    EXAMPLES["search"]                      # a whole command line
    completions("target", "b")              # ["b200", "b300"]

Options are known by the Python names of their parameters, which are the same in all commands. A
parameter of no panel stands in typer's own, "Options". Completions read small files only: no heavy
library is imported for them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from sensitivity.cli.early_checks import SAMPLERS, device_names

_PANELS = {
    "What is studied": "model component prompts weights net save_study",
    "Formats and what changes together": "fmt granularity arithmetic emulate min_width",
    "Where it will run": "consumers target latency runtime compile_mode compare bf16_seconds",
    "The run": "batch_size height width frames prompt_tokens guidance steps settings",
    "How it is searched": (
        "budget dry_run on sampler calibrate seed estimator states prompt_count rows edge_steps"
        " first_steps last_steps"
    ),
    "What is chosen": (
        "max_lpips max_typical max_flips min_speedup max_seconds max_memory judges max_judge"
        " min_judge objective against"
    ),
    "The screen": "show_all watch",
    "The server": "host port",
    "This machine": "device compiled measure repetitions recompile_limit quick minutes time",
    "Files": "out storage study cache keep_pictures md png fix nearest junit json_path force",
}
_PANEL_OF = {name: panel for panel, names in _PANELS.items() for name in names.split()}

EXAMPLES: Mapping[str, str] = MappingProxyType(
    {
        "models": "sensitivity models show ltx2 --set search.chunk=1",
        "doctor": "sensitivity doctor --json doctor.json",
        "device": "sensitivity device measure --quick",
        "profile": "sensitivity profile --model flux1-dev --height 768 --width 768",
        "latency": "sensitivity latency --model flux1-dev --format nvfp4 --target b200",
        "calibrate": "sensitivity calibrate --model tiny-flux --format nvfp4",
        "search": "sensitivity search --model tiny-flux --budget 50",
        "worker": "sensitivity worker --study tiny-flux-nvfp4-b200-9f0e520d --storage study.db",
        "status": "sensitivity status tiny-flux --watch",
        "verify": "sensitivity verify recipe.json --model flux1-dev",
        "check": "sensitivity check recipe.json --model flux1-dev --max-lpips 0.15 --max-flips 2",
        "select": "sensitivity select --model tiny-flux --max-lpips 0.05",
        "export": "sensitivity export recipe.json --to torchao",
        "diff": "sensitivity diff old.json new.json",
        "audit": "sensitivity audit skip.txt --model flux1-dev",
        "report": "sensitivity report recipe.json",
        "dashboard": "sensitivity dashboard tiny-flux",
    }
)
"""{command: a command line that can be typed as it is, once its files are there}."""

EXPORT_FORMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "skip-list": ("fqns", "globs", "regex"),
        "torchao": ("json", "filter-fn"),
        "diffusers": ("python", "json", "modules-to-not-convert", "modelopt"),
        "modelopt": ("quant-cfg", "hf-quant-config"),
        "compressed-tensors": ("config", "recipe"),
        "vllm-omni": ("json", "checkpoint"),
        "sglang": ("checkpoint", "arguments"),
        "comfyui": ("json",),
        "convert-to-quant": ("commands",),
        "sdnq": ("json",),
    }
)
"""{who reads an export: its forms, the default first}; a test compares it with the exporters."""


def panel_of(parameter: str) -> str | None:
    """The panel of an option; None for the first one."""
    return _PANEL_OF.get(parameter)


def completions(parameter: str, begun: str) -> list[str]:
    """What may stand in an option, of what begins so."""
    known = _KNOWN[parameter]()
    return [text for text in known if text.startswith(begun)]


def completer_of(parameter: str) -> Callable[[str], list[str]] | None:
    """What typer asks for completions of an option; None where the shell's own files do."""
    if parameter not in _KNOWN:
        return None

    def complete(incomplete: str) -> list[str]:
        return completions(parameter, incomplete)

    return complete


def _models() -> list[str]:
    """Studies, and the Hub ids of theirs; TOMLs and folders that are here."""
    from sensitivity.spec.shipped import hub_ids, list_studies

    here = sorted(
        str(path)
        for path in Path().iterdir()
        if path.suffix == ".toml" or (path / "model_index.json").is_file()
    )
    return [*list_studies(), *hub_ids(), *here]


def _targets() -> list[str]:
    """The devices that come with the package, and files that may describe one."""
    return [*device_names(), *map(str, sorted([*Path().glob("*.json"), *Path().glob("*.toml")]))]


def _samplers() -> list[str]:
    return list(SAMPLERS)


def _consumers() -> list[str]:
    return list(EXPORT_FORMS)


def _databases() -> list[str]:
    return [str(path) for path in sorted(Path("sensitivity-runs").glob("*.db"))]


def _studies_of_databases() -> list[str]:
    """The searches that the databases of this folder hold."""
    import sqlite3
    from contextlib import closing

    found: list[str] = []
    for path in _databases():
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.2)) as opened:
                found += [name for (name,) in opened.execute("SELECT study_name FROM studies")]
        except sqlite3.Error:
            continue
    return found


_KNOWN: dict[str, Callable[[], list[str]]] = {
    "model": _models,
    "target": _targets,
    "on": _targets,
    "sampler": _samplers,
    "to": _consumers,
    "consumers": _consumers,
    "storage": _databases,
    "study": _studies_of_databases,
}
