"""What a user types and gets: exit codes, messages that say what to do next, and JSON that is only JSON."""

import json
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import torch
from torch import nn

from sensitivity import cli, workflow
from sensitivity.recipe import load_recipe


class Said:
    """What one command wrote and how it exited."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Calls the entry point in this process, in an empty folder with an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["sensitivity", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capfd.readouterr()
        return Said(int(stopped.value.code or 0), out, " ".join(err.split()))

    return call


@pytest.fixture
def other_database(tmp_path: Path) -> Path:
    """An Optuna database that sensitivity did not make."""
    path = tmp_path / "other.db"
    optuna.create_study(storage=f"sqlite:///{path}", study_name="somebody-else")
    return path


MISTAKES = {
    "misspelt model": (["profile", "--model", "tiny-flx"], "unknown model 'tiny-flx'.*did you mean tiny-flux"),
    "unknown model": (["search", "--model", "zzz"], "unknown model 'zzz'.*sensitivity models"),
    "no pipeline folder": (["search", "--model", "FOLDER"], "without model_index.json.*save_pretrained"),
    "budget": (["search", "--model", "tiny-flux", "--budget", "0"], "--budget is 0; allowed is 1 or more"),
    "format": (["search", "--model", "tiny-flux", "--format", "nvfp5"], "'nvfp5' is unknown; allowed are mxfp8, nvfp4, fp8: did you mean nvfp4"),
    "bf16": (["search", "--model", "tiny-flux", "--format", "bf16"], "bf16' is what skipped Linears keep"),
    "target": (["search", "--model", "tiny-flux", "--target", "b20"], "b20.*known are.*b200"),
    "target without format": (["search", "--model", "tiny-flux", "--target", "h100"], "nvfp4"),
    "sampler": (["search", "--model", "tiny-flux", "--sampler", "gp"], "--sampler is 'gp'; allowed are knapsack"),
    "device": (["profile", "--model", "tiny-flux", "--device", "tpu"], "--device is 'tpu'; allowed are cpu, cuda"),
    "constraint": (["search", "--model", "tiny-flux", "--max-lpips", "-1"], "--max-lpips is -1.0; allowed is 0 or more"),
    "recipe folder": (["search", "--model", "tiny-flux", "--out", "FOLDER"], "--out .* is a folder; name a file"),
    "recipe under a file": (["search", "--model", "tiny-flux", "--out", "/dev/null/x/r.json"], "--out .* cannot be made"),
    "database under a file": (["search", "--model", "tiny-flux", "--storage", "/dev/null/x.db"], "cannot be written.*--storage"),
    "no database": (["search", "--model", "tiny-flux", "--storage", "TEXT"], "no database of sensitivity|not a database"),
    "foreign study": (["search", "--model", "STUDY", "--storage", "OTHER"], "somebody-else.*did not make.*--storage"),
    "both lists": (["latency", "--model", "tiny-flux", "--skip", "a", "--recipe", "b"], "--skip and --recipe are both given"),
    "missing skip file": (["latency", "--model", "tiny-flux", "--skip", "nowhere.txt"], "--skip nowhere.txt cannot be read"),
    "missing recipe": (["export", "nowhere.json", "--to", "torchao"], "nowhere.json: found No such file"),
    "no recipe": (["export", "TEXT", "--to", "torchao"], "no valid JSON"),
    "unknown exporter": (["export", "nowhere.json", "--to", "torchoa"], "torchoa.*torchao"),
    "unknown option": (["search", "--modle", "tiny-flux"], "No such option.*--modle"),
    "study TOML": (["search", "--model", "nowhere.toml"], "nowhere.toml: No such file.*sensitivity models"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_exit_with_2_and_a_next_step(run, case: str, tmp_path: Path, tiny_study: Path, other_database: Path) -> None:  # type: ignore[no-untyped-def]
    """A user's mistake exits with 2 and a message on stderr that is no traceback."""
    (tmp_path / "text").write_text("this is no database and no JSON")
    (tmp_path / "folder").mkdir()
    places = {"FOLDER": tmp_path / "folder", "TEXT": tmp_path / "text", "OTHER": other_database, "STUDY": tiny_study}
    words, message = MISTAKES[case]
    said = run(*(places.get(word, word) for word in words))
    assert said.code == 2, said.err
    assert "error" not in said.out
    assert "Traceback" not in said.err
    assert re.search(message, said.err + said.out), said.err


def test_a_hub_id_without_a_network_is_said_quickly(run) -> None:  # type: ignore[no-untyped-def]
    """A Hub id that cannot be reached exits with 2 and names the causes, within seconds."""
    begun = time.monotonic()
    said = run("profile", "--model", "some-org/some-model")
    assert said.code == 2
    assert "some-org/some-model could not be loaded from the Hugging Face Hub" in said.err
    assert "check the id and the network" in said.err
    assert time.monotonic() - begun < 60


def test_missing_lpips_weights_say_how_to_get_them(run, tiny_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """A study with net alex on a machine without its trunk exits with 2 and the command that downloads it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_a, **_k: (_ for _ in ()).throw(OSError("no network")))
    text = tiny_study.read_text(encoding="utf-8")
    study = tmp_path / "alex.toml"
    start = text.index("[fidelity]")
    study.write_text(text[:start] + '[fidelity]\nnet = "alex"\n\n' + text[text.index("[search]") :], encoding="utf-8")
    said = run("search", "--model", study, "--budget", 3)
    assert said.code == 2
    assert "alexnet-owt-7be5be79.pth" in said.err
    assert "torchvision.models.alexnet(weights='DEFAULT')" in said.err


def test_a_format_that_no_shape_takes_is_refused(run, tiny_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """Where every Linear refuses the format, the search says so with a shape, and which flag to change."""
    from sensitivity.formats import NVFP4

    monkeypatch.setattr(NVFP4, "refusal", lambda _self, *, k, n, dtype: f"K = {k} is odd" if dtype else str(n))
    said = run("search", "--model", tiny_study, "--budget", 3)
    assert said.code == 2
    assert "none of the" in said.err
    assert "choose another --format" in said.err


def test_another_schema_is_refused(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A database of a later schema is refused, and left as it is."""
    from sensitivity.store import Store

    path = tmp_path / "later.db"
    Store.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE sensitivity_meta SET value = '99' WHERE key = 'schema'")
    said = run("search", "--model", "tiny-flux", "--storage", path)
    assert said.code == 2
    assert "schema 99" in said.err


def test_json_on_stdout_is_only_json(run, tiny_study: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """With `--json -`, stdout of every command holds one JSON object with the contract's keys, and what people read goes to stderr."""
    recipe = tmp_path / "r.json"
    model = ["--model", tiny_study]
    calls = {
        ("models",): {"models"},
        ("doctor",): {"environment", "native", "why_not"},
        ("profile", *model): {"model", "batch_size", "settings", "linears", "uncalled"},
        ("search", *model, "--budget", 5, "--out", recipe): set(json.loads((Path(cli.__file__).parent / "recipe.schema.json").read_text())["required"]),
        ("latency", *model, "--recipe", recipe): {
            "target", "source", "batch_size", "compile_mode", "bf16_s", "quantized_s", "speedup", "linears",
        },
        ("verify", recipe, *model): {"lpips", "ci95", "per_prompt", "recipe_lpips"},
        ("export", recipe, "--to", "skip-list"): {"to", "text"},
    }  # fmt: skip
    for words, keys in calls.items():
        said = run(*words, "--json", "-")
        assert said.code == 0, said.err
        assert keys <= set(json.loads(said.out)), words
    row = json.loads(run("profile", *model, "--json", "-").out)["linears"][0]
    assert set(row) == {"fqn", "m", "k", "n", "calls", "dtype", "bias", "block", "role"}
    assert load_recipe(recipe).model.weights == "random"


def test_json_to_a_file(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """With a path, the JSON is in the file and the screen still has the table."""
    said = run("models", "--json", tmp_path / "models.json")
    assert said.code == 0
    assert "tiny-flux" in said.out
    assert json.loads((tmp_path / "models.json").read_text())["models"]


def test_a_dead_pattern_is_reported(run, tiny_study: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A line of a skip file that matches no Linear is named, and the rest is priced."""
    (tmp_path / "skip.txt").write_text("proj_out\ntransformer_blocks.*.nothing  # a typo\n")
    said = run("latency", "--model", tiny_study, "--skip", tmp_path / "skip.txt")
    assert said.code == 0
    assert "transformer_blocks.*.nothing" in said.out
    assert "matches no Linear" in said.out


def test_help_is_quick_and_loads_no_torch() -> None:
    """`--help` of the program and of each command exits with 0 and imports no torch."""
    code = (
        "import sys\nfrom typer.main import get_command\nfrom sensitivity.cli import app\nfrom typer.testing import CliRunner\n"
        "for words in [[], *([name] for name in get_command(app).commands)]:\n"
        "    assert CliRunner().invoke(app, [*words, '--help']).exit_code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_errors_of_our_own_exit_with_1(run, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """A measurement that fails for no fault of the caller exits with 1 and its message."""
    from sensitivity.errors import MeasurementError

    def fail(*_args: object, **_kwargs: object) -> nn.Module:
        raise MeasurementError("the model gave NaN")

    monkeypatch.setattr(workflow, "profile", fail)
    said = run("profile", "--model", "tiny-flux")
    assert (said.code, said.err) == (1, "error: the model gave NaN")
