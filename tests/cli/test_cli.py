"""The command line as careless and hostile users meet it: exit codes, messages on the right stream,
JSON that is nothing but JSON.
"""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import optuna
import pytest
import torch

from sensitivity import cli
from sensitivity.consumers.exporters import EXPORTERS
from sensitivity.search.store import Store

from support.toy_pipelines import save_toy

COMMANDS = (
    "models",
    "doctor",
    "device",
    "profile",
    "latency",
    "calibrate",
    "search",
    "select",
    "export",
    "diff",
    "verify",
)


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit code and both streams."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the program in this process and in an empty folder, as `sensitivity ARGUMENTS` would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")

    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["sensitivity", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Ran(int(ended.value.code or 0), out, err)

    return call


@pytest.fixture(scope="module")
def searched(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A search of three trials through the command line, with `--json -`: its streams, files and
    recipe.
    """
    folder = tmp_path_factory.mktemp("cli")
    out, err = io.StringIO(), io.StringIO()
    arguments = [
        "search",
        "--model",
        tiny_study,
        "--budget",
        3,
        "--out",
        "r.json",
        "--storage",
        "s.db",
        "--json",
        "-",
    ]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(sys, "argv", ["sensitivity", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    done = Ran(int(ended.value.code or 0), out.getvalue(), err.getvalue())
    return {"done": done, "recipe": folder / "r.json", "storage": folder / "s.db"}


def wrong(ran: Ran, *words: str) -> None:
    """The command ended as a user's mistake does: exit code 2, nothing on stdout, a message on
    stderr that has these words.
    """
    assert ran.code == 2, ran
    assert ran.out == ""
    for word in words:
        assert word in ran.err


MISTAKES: dict[str, tuple[list[object], list[str]]] = {
    "model misspelt": (
        ["profile", "--model", "tiny-fluks"],
        ["unknown model 'tiny-fluks'", "did you mean 'tiny-flux'?"],
    ),
    "model far from all": (
        ["profile", "--model", "zzz"],
        ["unknown model 'zzz'", "tiny-flux", "sensitivity models"],
    ),
    "model empty": (["profile", "--model", ""], ["unknown model ''", "tiny-flux"]),
    "folder without a pipeline": (
        ["search", "--model", "."],
        ["model_index.json", "save_pretrained"],
    ),
    "study that is not there": (
        ["search", "--model", "none.toml"],
        ["none.toml", "No such file", "sensitivity models"],
    ),
    "budget 0": (
        ["search", "--model", "tiny-flux", "--budget", 0],
        ["--budget is 0", "1 or more", "50"],
    ),
    "budget negative": (
        ["search", "--model", "tiny-flux", "--budget", -3],
        ["--budget is -3", "1 or more"],
    ),
    "budget no number": (
        ["search", "--model", "tiny-flux", "--budget", "many"],
        ["--budget", "integer"],
    ),
    "format misspelt": (
        ["search", "--model", "tiny-flux", "--format", "nvpf4"],
        ["--format", "'nvpf4' is not one of 'nvfp4', 'mxfp8', 'fp8'"],
    ),
    "format bf16": (
        ["search", "--model", "tiny-flux", "--format", "bf16"],
        ["--format", "'bf16' is not one of 'nvfp4', 'mxfp8', 'fp8'"],
    ),
    "format in capitals": (
        ["latency", "--model", "tiny-flux", "--format", "NVFP4"],
        ["--format", "'NVFP4' is not one of 'nvfp4', 'mxfp8', 'fp8'"],
    ),
    "two formats of a skip-list": (
        ["latency", "--model", "tiny-flux", "-f", "nvfp4", "-f", "mxfp8"],
        ["--format is given 2 times", "--recipe"],
    ),
    "skip and recipe": (
        ["latency", "--model", "tiny-flux", "--skip", "a", "--recipe", "b"],
        ["--skip and --recipe", "one of them"],
    ),
    "skip that is not there": (
        ["latency", "--model", "tiny-flux", "--skip", "none.txt"],
        ["--skip none.txt", "No such file", "one FQN or glob a line"],
    ),
    "recipe that is not there": (
        ["latency", "--model", "tiny-flux", "--recipe", "none.json"],
        ["none.json", "No such file"],
    ),
    "recipe that is a folder": (["verify", ".", "--model", "tiny-flux"], ["found a folder"]),
    "device unknown": (
        ["search", "--model", "tiny-flux", "--device", "tpu"],
        ["--device is 'tpu'", "cpu, cuda or cuda:N"],
    ),
    "device that is not there": (
        ["search", "--model", "tiny-flux", "--device", "cuda:99"],
        ["--device is 'cuda:99'", "set --device to cpu"],
    ),
    "target unknown": (
        ["search", "--model", "tiny-flux", "--target", "b20"],
        ["'b20'", "b200", "--target"],
    ),
    "target empty": (
        ["search", "--model", "tiny-flux", "--target", ""],
        ["''", "b200, gb200", "--target"],
    ),
    "target empty, priced": (
        ["latency", "--model", "tiny-flux", "--target", ""],
        ["''", "b200, gb200", "--target"],
    ),
    "format empty": (
        ["latency", "--model", "tiny-flux", "--format", ""],
        ["--format", "'' is not one of 'nvfp4', 'mxfp8', 'fp8'"],
    ),
    "device empty": (
        ["search", "--model", "tiny-flux", "--device", ""],
        ["--device is ''", "cpu, cuda or cuda:N"],
    ),
    "component empty": (
        ["profile", "--model", "tiny-flux", "--component", ""],
        ["no module ''", "transformer", "--component"],
    ),
    "target without the format": (
        ["search", "--model", "tiny-flux", "--target", "h100"],
        ["h100 has no nvfp4", "fp8", "b200"],
    ),
    "sampler unknown": (
        ["search", "--model", "tiny-flux", "--sampler", "best"],
        ["'best'", "knapsack, tpe, nsga2, nsga3, gp, random"],
    ),
    "granularity unknown": (
        ["search", "--model", "tiny-flux", "--granularity", "block"],
        ["--granularity", "'block' is not one of 'group', 'layer'"],
    ),
    "seed negative": (
        ["search", "--model", "tiny-flux", "--seed", -1],
        ["--seed is -1", "0 or more"],
    ),
    "seed too large": (
        ["search", "--model", "tiny-flux", "--seed", 2**32],
        ["--seed is 4294967296", "at most 4294967295"],
    ),
    "speedup no number": (
        ["search", "--model", "tiny-flux", "--min-speedup", "nan"],
        ["--min-speedup is nan", "above 0"],
    ),
    "LPIPS negative": (
        ["search", "--model", "tiny-flux", "--max-lpips", -0.1],
        ["--max-lpips is -0.1", "0 or more"],
    ),
    "typical LPIPS negative": (
        ["select", "--model", "tiny-flux", "--max-typical", -0.1],
        ["--max-typical is -0.1", "0 or more"],
    ),
    "flips negative": (
        ["search", "--model", "tiny-flux", "--max-flips", -1],
        ["--max-flips is -1", "0 or more"],
    ),
    "seconds 0": (
        ["search", "--model", "tiny-flux", "--max-seconds", 0],
        ["--max-seconds is 0.0", "above 0", "such as 1.5"],
    ),
    "seconds no number": (
        ["select", "--model", "tiny-flux", "--max-seconds", "nan"],
        ["--max-seconds is nan", "above 0"],
    ),
    "selection without a search": (
        ["select", "--model", "tiny-flux", "--storage", "none.db"],
        ["none.db is not there", "sensitivity search", "--storage"],
    ),
    "selection from a text": (
        ["select", "--model", "tiny-flux", "--storage", "file"],
        ["file is no database of sensitivity", "another --storage"],
    ),
    "selection over the database": (
        ["select", "--model", "tiny-flux", "--storage", "a.db", "--out", "a.db"],
        ["the file of --storage", "name another"],
    ),
    "selection of an unknown sampler": (
        ["select", "--model", "tiny-flux", "--sampler", "best"],
        ["'best'", "knapsack, tpe, nsga2, nsga3, gp, random"],
    ),
    "selection of an unknown format": (
        ["select", "--model", "tiny-flux", "--format", "nvpf4"],
        ["--format", "'nvpf4' is not one of 'nvfp4', 'mxfp8', 'fp8'"],
    ),
    "frames of a picture": (
        ["profile", "--model", "tiny-flux", "--frames", 9],
        ["--frames sets num_frames", "FluxPipeline", "leave it out"],
    ),
    "steps 0": (["profile", "--model", "tiny-flux", "--steps", 0], ["--steps is 0", "1 or more"]),
    "height below a token": (
        ["profile", "--model", "tiny-flux", "--height", 1],
        ["'height': 1", "[settings]"],
    ),
    "argument without a value": (
        ["profile", "--model", "tiny-flux", "--set", "height"],
        ["--set 'height'", "KEY=VALUE"],
    ),
    "argument of another type": (
        ["profile", "--model", "tiny-flux", "--set", "height=1.5"],
        ["height is 1.5", "a whole number", "option"],
    ),
    "batch beyond reason": (
        ["latency", "--model", "tiny-flux", "--batch-size", 10**8],
        ["--batch-size is 100000000", "65536 or less"],
    ),
    "skip that is a text of another kind": (
        ["latency", "--model", "tiny-flux", "--skip", "file"],
        ["--skip file: line 1", "rewrite it"],
    ),
    "component that is not there": (
        ["profile", "--model", "tiny-flux", "--component", "unet"],
        ["'unet'", "transformer", "--component"],
    ),
    "batch 0": (
        ["profile", "--model", "tiny-flux", "--batch-size", 0],
        ["--batch-size is 0", "1 or more"],
    ),
    "output is a folder": (
        ["search", "--model", "tiny-flux", "--out", "."],
        ["--out .", "is a folder"],
    ),
    "output below a file": (
        ["profile", "--model", "tiny-flux", "--json", "file/x.json"],
        ["--json file/x.json", "cannot be written"],
    ),
    "output in /proc": (
        ["search", "--model", "tiny-flux", "--out", "/proc/x.json"],
        ["--out /proc/x.json", "cannot be written"],
    ),
    "output is a device": (
        ["search", "--model", "tiny-flux", "--out", "/dev/null"],
        ["--out /dev/null", "not a regular file"],
    ),
    "output is the database": (
        ["search", "--model", "tiny-flux", "--storage", "a.db", "--out", "./a.db"],
        ["the file of --storage", "name another"],
    ),
    "database below a file": (
        ["search", "--model", "tiny-flux", "--storage", "file/s.db"],
        ["--storage file/s.db", "cannot be written"],
    ),
    "database is a text": (
        ["search", "--model", "tiny-flux", "--storage", "file"],
        ["file is no database of sensitivity", "another --storage"],
    ),
    "output is the recipe": (
        ["latency", "--model", "tiny-flux", "--recipe", "file", "--json", "./file"],
        ["--json file", "the file of --recipe"],
    ),
    "output is a list beside others": (
        [
            "latency",
            "--model",
            "tiny-flux",
            "--compare",
            "a",
            "--compare",
            "file",
            "--json",
            "file",
        ],
        ["of --compare"],
    ),
    "exporter misspelt": (
        ["export", "none.json", "--to", "torcha"],
        ["'torcha'", "skip-list, torchao, diffusers", "did you mean 'torchao'?"],
    ),
    "export without a form": (["export", "none.json"], ["--to"]),
    "option misspelt": (["search", "--modell", "tiny-flux"], ["--modell", "--model"]),
    "model not given": (["search"], ["--model"]),
    "command misspelt": (["serach"], ["serach"]),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_ends_with_the_value_found_what_was_expected_and_a_next_step(
    run: Run, tmp_path: Path, name: str
) -> None:
    """Each mistake ends at once with exit code 2 and a message on stderr that has the value found,
    what was expected and the next step.
    """
    (tmp_path / "file").write_text("a text, not a database\n" * 100)
    arguments, words = MISTAKES[name]
    if arguments[0] == "select" and "--storage" not in arguments:
        (tmp_path / "sensitivity-runs").mkdir()  # its database is there, only the rest is wrong
        (tmp_path / "sensitivity-runs" / "tiny-flux.db").touch()
    begun = time.monotonic()
    wrong(run(*arguments), *words)
    assert time.monotonic() - begun < 20


def test_a_mistake_writes_nothing(run: Run, tmp_path: Path) -> None:
    """A refused request leaves no database and no recipe behind."""
    wrong(run("search", "--model", "tiny-flux", "--budget", 0))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_foreign_optuna_study_is_refused_and_kept(
    run: Run, tiny_study: Path, tmp_path: Path
) -> None:
    """A database with somebody's own Optuna study is refused by the study's name, and the study is
    untouched.
    """
    url = f"sqlite:///{tmp_path / 'mine.db'}"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna.create_study(study_name="my-life", storage=url)
    ran = run("search", "--model", tiny_study, "--storage", "mine.db", "--budget", 1)
    assert ran.code == 2
    assert "'my-life'" in ran.err
    assert "another --storage" in ran.err
    assert [s.study_name for s in optuna.get_all_study_summaries(url)] == ["my-life"]


def test_a_database_of_another_schema_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that another version wrote is refused with both schemas and a next step."""
    with monkeypatch.context() as patch:
        patch.setattr("sensitivity.search.schema.SCHEMA", 99)
        Store.open(tmp_path / "old.db").close()
    wrong(
        run("search", "--model", "tiny-flux", "--storage", "old.db"),
        "schema 99",
        "reads schema",
        "another --storage",
    )


@pytest.fixture(scope="module")
def odd_study(
    tiny_study: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A study of a FluxPipeline that has no Linear with K % 32 == 0 and N % 16 == 0."""
    from diffusers import FluxPipeline

    pipe = FluxPipeline.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    config = dict(pipe.transformer.config) | {
        "num_attention_heads": 1,
        "attention_head_dim": 20,
        "axes_dims_rope": (4, 8, 8),
    }
    pipe.transformer = type(pipe.transformer).from_config(config).to(torch.bfloat16)
    folder = tmp_path_factory.mktemp("odd")
    pipe.save_pretrained(folder / "pipeline")
    path = folder / "odd.toml"
    path.write_text(
        tiny_study.read_text().replace(
            json.dumps(str(tiny_folder)), json.dumps(str(folder / "pipeline"))
        )
    )
    return path


def test_a_format_that_the_shapes_refuse_is_explained(run: Run, odd_study: Path) -> None:
    """A model none of whose Linears takes the format is refused with a Linear, the rule it breaks,
    and another format as next step.
    """
    ran = run("search", "--model", odd_study, "--budget", 1)
    assert ran.code == 2
    for word in ("none of the", "nvfp4", "is not a multiple of", "another --format"):
        assert word in ran.err


def changed(study: Path, tmp_path: Path, *pairs: tuple[str, str]) -> Path:
    """A copy of a study with some text replaced."""
    text = study.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "changed.toml").write_text(text)
    return tmp_path / "changed.toml"


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_missing_lpips_weights_say_how_to_get_them(
    run: Run, tiny_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: str
) -> None:
    """Without the net's weights and without a network the message names the file, the command that
    gets it and where it goes; no model is loaded.
    """

    def refuse(*_arguments: object, **_options: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(
        "sensitivity.workflows.prepare.load_pipeline",
        lambda *_a, **_o: pytest.fail("the model was loaded first"),
    )
    ran = run(
        "search",
        "--model",
        changed(tiny_study, tmp_path, ('net = "tiny"', f'net = "{net}"')),
        "--budget",
        1,
    )
    assert ran.code == 2
    for word in (f"'{net}'", ".pth", "python -c", "TORCH_HOME"):
        assert word in ran.err


def test_a_pattern_that_matches_nothing_is_said(run: Run, tiny_study: Path, tmp_path: Path) -> None:
    """`search` and `calibrate` warn of each always-skip pattern of the study that names no Linear,
    and only of those.
    """
    skips = (
        'depth_bands = 2\nalways_skip = [{ pattern = "adaln.*", reason = "r" }, { pattern ='
        ' "proj_out", reason = "r" }]'
    )
    study = changed(tiny_study, tmp_path, ("depth_bands = 2", skips))
    for ran in (
        run(
            "search",
            "--model",
            study,
            "--budget",
            1,
            "--sampler",
            "random",
            "--json",
            "-",
            "--storage",
            "s.db",
            "--out",
            "r.json",
        ),
        run(
            "calibrate",
            "--model",
            study,
            "--storage",
            "s.db",
            "--states",
            1,
            "--prompt-count",
            1,
            "--estimator",
            "local",
            "--json",
            "-",
        ),
    ):
        assert ran.code == 0
        assert "warning: 'adaln.*' of the study's always_skip matches no Linear" in ran.err
        assert "'proj_out' of the study's" not in ran.err
        json.loads(ran.out)


def test_profiling_needs_no_lpips_weights(
    run: Run, tiny_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile compares no pictures, so that missing weights do not stop it."""
    monkeypatch.setattr(
        "sensitivity.fidelity.lpips.LpipsDistance",
        lambda *_a, **_o: pytest.fail("LPIPS was loaded"),
    )
    assert run("profile", "--model", tiny_study).code == 0


def test_a_hub_id_without_a_network_fails_in_seconds(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the Hub takes connections and never answers, as behind some firewalls, the command ends
    soon with what to do.
    """
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("sensitivity.models.hub.HUB_TIMEOUT_S", 0.5)
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begun = time.monotonic()
        ran = run("profile", "--model", "nobody/nothing")
        assert time.monotonic() - begun < 20
    wrong(ran, "nobody/nothing", "Hugging Face Hub", "network", "save_pretrained")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("num_inference_steps = 2", "num_inference_steps = 0"),
        ("height = 64", 'height = "tall"'),
        ("height = 64", 'prompt = "another"\nheight = 64'),
        ("height = 64", "hieght = 64"),
        ('weights = "pretrained"', 'weights = "pretrained"\ncomponent = "unet"'),
    ],
    ids=["no steps", "height a text", "prompt as setting", "setting misspelt", "component missing"],
)
def test_settings_that_the_pipeline_refuses_are_a_mistake(
    run: Run, tiny_study: Path, tmp_path: Path, old: str, new: str
) -> None:
    """Settings that the pipeline cannot draw with, and a component that it lacks, end with what to
    correct in the study.
    """
    wrong(
        run("profile", "--model", changed(tiny_study, tmp_path, (old, new))),
        "study TOML" if "hieght" not in new else "[settings]",
    )


SMALL = ("--height", 64, "--width", 64, "--frames", 5, "--steps", 4)


def test_configs_that_contradict_one_another_are_a_mistake(run: Run, tmp_path: Path) -> None:
    """A folder of configs with a transformer of another model ends as a user's mistake that names
    the component and what it does not fit.
    """
    save_toy("wan", tmp_path)
    path = tmp_path / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"text_dim": 64}))
    wrong(
        run("profile", "--model", tmp_path, *SMALL),
        "config of transformer",
        "text_dim 64",
        "contradict text_encoder",
        "copy the wrong config",
    )


@pytest.mark.parametrize(
    "command", [["profile"], ["latency", "--format", "mxfp8"]], ids=["profile", "latency"]
)
def test_a_second_denoiser_that_is_left_out_is_told(
    run: Run, tmp_path: Path, command: list[str]
) -> None:
    """Two denoisers are treated together, without a word; where a study or an option names one,
    stderr names the other and the key that treats it.
    """
    save_toy("wan", tmp_path)
    assert "notice" not in run(*command, "--model", tmp_path, *SMALL).err
    shutil.copytree(tmp_path / "transformer", tmp_path / "transformer_2")
    path = tmp_path / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(
        json.dumps(index | {"transformer_2": index["transformer"], "boundary_ratio": 0.9})
    )
    both = run(*command, "--model", tmp_path, *SMALL, "--json", "-")
    assert "notice" not in both.err
    assert {row["fqn"].partition(".")[0] for row in json.loads(both.out)["linears"]} == {
        "transformer",
        "transformer_2",
    }
    study = tmp_path / "one.toml"
    study.write_text(f'name = "one"\n[model]\npath = {json.dumps(str(tmp_path))}\n')
    ran = run(*command, "--model", study, *SMALL, "--json", "-")
    assert ran.code == 0
    assert "more than one denoiser; the Linears of transformer_2 (called 4 x)" in ran.err
    assert "--component transformer_2" in ran.err
    assert "`model.components` in a study TOML treats them together" in ran.err
    assert len(json.loads(ran.out)["linears"]) == len(json.loads(both.out)["linears"]) / 2
    if command == ["profile"]:
        assert (
            "Linears of transformer (called 4 x)"
            in run("profile", "--model", tmp_path, *SMALL, "--component", "transformer_2").err
        )
        assert (
            "notice"
            not in run("profile", "--model", tmp_path, *SMALL, "--component", "text_encoder").err
        )


def test_the_help_of_a_format_says_how_often_it_is_given(run: Run) -> None:
    """`search` takes several formats and says so; `latency` takes one, says so, and refuses several
    (see MISTAKES).
    """
    said = {name: " ".join(run(name, "--help").out.split()) for name in ("search", "latency")}
    assert "May be given several times: each group chooses" in said["search"]
    assert "Given once: what Linears" in said["latency"]


def test_a_damaged_pipeline_folder_is_a_mistake(run: Run, tmp_path: Path) -> None:
    """A folder whose model_index.json is no JSON is named, with how to save it again."""
    (tmp_path / "model_index.json").write_text("{")
    wrong(run("profile", "--model", "."), "could not be loaded", "save_pretrained")


@pytest.mark.parametrize("seconds", ["-1", "0", "nan", "inf"])
def test_an_anchor_that_is_no_time_is_a_mistake(run: Run, tiny_study: Path, seconds: str) -> None:
    """`--bf16-seconds` takes a time that the Linears fit into; nothing else reaches the JSON."""
    wrong(
        run("latency", "--model", tiny_study, "--bf16-seconds", seconds, "--json", "-"),
        "bf16",
        "--bf16-seconds",
    )


def test_ctrl_c_is_said_in_a_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C anywhere ends with exit code 1 and says that the same command goes on."""

    def interrupt(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sensitivity.shapes.run.run_shapes", interrupt)
    ran = run("profile", "--model", "tiny-flux")
    assert (ran.code, ran.out) == (1, "")
    assert "the same command goes on" in ran.err


def test_out_of_memory_is_said_in_a_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is too small ends with exit code 1 and what to lower."""

    def exhaust(*_arguments: object, **_options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("sensitivity.shapes.run.run_shapes", exhaust)
    ran = run("profile", "--model", "tiny-flux")
    assert (ran.code, ran.out) == (1, "")
    assert "batch_size" in ran.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_below_stdout_is_said_in_a_line() -> None:
    """What cannot be written ends with exit code 1 and the reason, whether the text is longer than
    Python's buffer or not.
    """
    for command in (["models"], ["models", "--json", "-"]):
        with Path("/dev/full").open("w") as full:
            ended = subprocess.run(
                [sys.executable, "-c", "from sensitivity.cli import main; main()", *command],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert ended.returncode == 1
        assert (
            ended.stderr.splitlines()[-1]
            == "error: cannot write the output: No space left on device; make space, or write to"
            " another disk"
        )
        assert "Traceback" not in ended.stderr


def test_a_closed_stdout_stops_nothing(tmp_path: Path) -> None:
    """Python has no stdout then; files are written all the same."""
    code = "import sys; sys.stdout = None; from sensitivity.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, "models", "--json", tmp_path / "m.json"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads((tmp_path / "m.json").read_text())


def test_no_arguments_show_the_help(run: Run) -> None:
    """The bare program lists its commands."""
    ran = run()
    assert all(name in ran.out + ran.err for name in COMMANDS)


def test_help_is_complete_and_loads_no_torch() -> None:
    """`--help` of the program and of every command exits with 0, shows its options, and imports
    neither torch nor diffusers.
    """
    code = (
        "import sys\nfrom sensitivity.cli import main\n"
        f"for name in [[], *([c] for c in {COMMANDS!r})]:\n"
        "    sys.argv = ['sensitivity', *name, '--help']\n"
        "    try: main()\n    except SystemExit as end: print('CODE', end.code)\n"
        "print('LOADED', sorted({'torch', 'diffusers', 'optuna', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.count("CODE 0") == 1 + len(COMMANDS)
    assert "LOADED []" in done.stdout
    assert done.stdout.count("--json") >= len(COMMANDS)


def test_search_prints_json_only(searched: dict[str, Any]) -> None:
    """`search --json -` puts the recipe on stdout, equal to the recipe file, and its tables on
    stderr.
    """
    done = searched["done"]
    assert done.code == 0, done.err
    assert json.loads(done.out) == json.loads(searched["recipe"].read_text())
    assert "x as fast as bf16" in done.err
    assert "trial 3/3" in done.err
    numbers = {
        "latency",
        "fidelity",
        "memory",
        "block_patterns",
        "search",
        "choice",
        "verified",
        "notice",
        "environment",
        "front",
        "refused",
        "timings",
    }
    assert {"schema_version", "name", "made", "model", "layers", "patterns"} | numbers == set(
        json.loads(done.out)
    )


def test_searching_again_draws_no_trial_and_says_that_it_continues(
    run: Run, searched: dict[str, Any], tiny_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command on a finished study says so and writes the same recipe from what is stored,
    without one picture.
    """
    monkeypatch.setattr(
        "sensitivity.models.generating.MediaGenerator.generate", plain_profile_only()
    )
    ran = run(
        "search",
        "--model",
        tiny_study,
        "--budget",
        3,
        "--out",
        "again.json",
        "--storage",
        searched["storage"],
    )
    assert ran.code == 0, ran.err
    assert "continuing study" in ran.out
    assert "3 of 3 trials are done, 0 to go" in ran.out
    again, first = (
        json.loads(Path("again.json").read_text()),
        json.loads(searched["recipe"].read_text()),
    )
    assert again == first


def found(path: Path) -> Any:
    """A recipe without when and by which command it was made."""
    return {key: value for key, value in json.loads(path.read_text()).items() if key != "made"}


def test_select_writes_the_searchs_recipe_and_draws_nothing(
    run: Run, searched: dict[str, Any], tiny_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`select` on a finished study prints its front and how the winner was named, and without
    constraints writes the recipe of the search.
    """
    monkeypatch.setattr(
        "sensitivity.models.generating.MediaGenerator.generate", plain_profile_only()
    )
    ran = run(
        "select",
        "--model",
        tiny_study,
        "--out",
        "s.json",
        "--storage",
        searched["storage"],
        "--all",
        "--json",
        "-",
    )
    assert ran.code == 0, ran.err
    assert json.loads(ran.out) == json.loads(Path("s.json").read_text())
    assert found(Path("s.json")) == found(searched["recipe"])
    for words in (
        "choosing among the 3 trials of study",
        "and 3 baselines",
        "nothing is drawn",
        "front of",
        "share a letter",
        "chosen as the knee of the front",
        "another seed is",
        "became another picture",
        "x as fast as bf16",
        f"sensitivity report s.json --model {tiny_study} --storage {searched['storage']}",
        "sensitivity export s.json --to diffusers",
    ):
        assert words in ran.err


@pytest.mark.parametrize("command", ["search", "select"])
def test_unmet_constraints_show_the_front_first(
    run: Run,
    searched: dict[str, Any],
    tiny_study: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    """Where nothing is fast enough, the front is printed, the message has what it offers, the exit
    code is 2 and no recipe is written.
    """
    monkeypatch.setattr(
        "sensitivity.models.generating.MediaGenerator.generate", plain_profile_only()
    )
    more = ["--budget", 3] if command == "search" else []
    ran = run(
        command,
        "--model",
        tiny_study,
        *more,
        "--max-seconds",
        1e-9,
        "--out",
        "u.json",
        "--storage",
        searched["storage"],
    )
    assert ran.code == 2
    assert "front of" in ran.out
    assert "no scored skip-list has seconds a run <= 1e-09 s; the front runs from" in ran.err
    assert not Path("u.json").exists()


def test_two_studies_are_told_apart_by_their_settings(
    run: Run, searched: dict[str, Any], tiny_study: Path, tmp_path: Path
) -> None:
    """With two seeds in a database `select` lists both and ends with 2; with --seed it chooses from
    that one.
    """
    shutil.copy(searched["storage"], tmp_path / "two.db")
    assert (
        run(
            "search",
            "--model",
            tiny_study,
            "--budget",
            3,
            "--seed",
            1,
            "--storage",
            "two.db",
            "--out",
            "b.json",
        ).code
        == 0
    )
    wrong(
        run("select", "--model", tiny_study, "--storage", "two.db"),
        "2 studies of tiny-random",
        "--study NAME",
        "3 of 3 trials",
        "--seed 1",
    )
    ran = run(
        "select", "--model", tiny_study, "--storage", "two.db", "--seed", 1, "--out", "c.json"
    )
    assert ran.code == 0, ran.err
    assert found(Path("c.json")) == found(Path("b.json"))


def plain_profile_only() -> Any:
    """A `MediaGenerator.generate` that makes the profile's picture and fails on a second call."""
    from sensitivity.models.generating import MediaGenerator

    plain, calls = MediaGenerator.generate, []

    def generate(self: MediaGenerator, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        assert len(calls) == 1, "pictures were drawn"
        return plain(self, *arguments, **options)

    return generate


def test_profile_json(run: Run, tiny_study: Path, tmp_path: Path) -> None:
    """`profile --json` has the contract's keys, on stdout and in a file alike."""
    ran = run("profile", "--model", tiny_study, "--json", "-")
    data = json.loads(ran.out)
    assert {"model", "batch_size", "settings", "linears", "uncalled"} <= set(data)
    assert {"fqn", "m", "k", "n", "calls", "dtype", "bias", "block", "role"} <= set(
        data["linears"][0]
    )
    assert "GFLOP" in ran.err
    assert run("profile", "--model", tiny_study, "--json", "new/p.json").code == 0
    assert json.loads((tmp_path / "new" / "p.json").read_text()) == data


def test_latency_json(run: Run, tiny_study: Path, searched: dict[str, Any], tmp_path: Path) -> None:
    """`latency --json` has the contract's keys, a recipe is priced as it was when found, and
    patterns that match nothing are said.
    """
    ran = run("latency", "--model", tiny_study, "--recipe", searched["recipe"], "--json", "-")
    data = json.loads(ran.out)
    assert {
        "target",
        "source",
        "batch_size",
        "compile_mode",
        "bf16_s",
        "quantized_s",
        "speedup",
        "linears",
    } <= set(data)
    assert {"fqn", "m", "k", "n", "calls", "format", "bf16_us", "quantized_us"} <= set(
        data["linears"][0]
    )
    assert data["source"] == "predicted"
    assert data["quantized_s"] == pytest.approx(
        json.loads(searched["recipe"].read_text())["latency"]["quantized_s"]
    )
    (tmp_path / "skip.txt").write_text("*  # everything\nnothing.like.this\n")
    ran = run("latency", "--model", tiny_study, "--skip", "skip.txt", "--json", "-")
    assert json.loads(ran.out)["speedup"] == pytest.approx(1.0)
    assert "'nothing.like.this'" in ran.err


@pytest.mark.parametrize("to", ["skip-list", "torchao", "diffusers"])
def test_export_json(run: Run, searched: dict[str, Any], tmp_path: Path, to: str) -> None:
    """`export` gives one text: on stdout, in a file, and in the JSON; with `--json -` stdout has
    the JSON only.
    """
    text = run("export", searched["recipe"], "--to", to).out
    assert text.strip()
    data = json.loads(
        run("export", searched["recipe"], "--to", to, "--out", "x", "--json", "-").out
    )
    said = {
        "to": to,
        "form": next(iter(EXPORTERS[to].forms)),
        "text": text,
        "notice": None,
        "notes": [],
        "step_policy": None,
    }
    assert data == said | {"path": "x"}
    assert (tmp_path / "x").read_text() == text
    assert json.loads(run("export", searched["recipe"], "--to", to, "--json", "-").out) == said | {
        "path": None
    }


def test_verify_json(run: Run, searched: dict[str, Any], tiny_study: Path) -> None:
    """`verify` generates the held-out pictures again and finds the recipe's LPIPS to the bit."""
    ran = run("verify", searched["recipe"], "--model", tiny_study, "--json", "-")
    data = json.loads(ran.out)
    assert set(data) >= {
        "lpips",
        "ci95",
        "typical",
        "typical_ci95",
        "expected_mean",
        "curve",
        "flips",
        "per_prompt",
        "recipe_lpips",
        "recipe_ci95",
        "recipe_typical",
        "recipe_typical_ci95",
        "recipe_expected_mean",
        "recipe_flips",
        "recipe_kernels",
        "broken",
        "kernels",
        "inside",
        "detail_db",
        "latency",
        "untimed",
    }
    assert (data["latency"], data["untimed"]) == (
        None,
        "torch runs on cpu, and times are measured on a GPU",
    )
    assert (
        "time is not measured here: torch runs on cpu, and times are measured on a GPU" in ran.err
    )
    assert data["kernels"] == data["recipe_kernels"] == "emulated"
    assert data["lpips"] == data["recipe_lpips"] > 0
    said = json.loads(searched["recipe"].read_text())["fidelity"]["lpips"]
    assert data["recipe_ci95"] == said["ci95"]
    for key in ("ci95", "typical", "typical_ci95", "expected_mean", "curve", "flips"):
        assert data[key] == said[key]
    assert data["broken"] == {}
    assert data["detail_db"] == json.loads(searched["recipe"].read_text())["fidelity"]["detail_db"]
    assert data["detail_db"]["mean"] > 0
    assert data["inside"] is True
    assert "holds: every prompt has the LPIPS that the recipe states" in ran.err
    assert f"detail {data['detail_db']['mean']:.3g} dB" in ran.err
    assert ran.err.count("by emulation") == 2
    assert f"sensitivity export {searched['recipe']} --to" in ran.err


def test_verify_says_when_the_value_is_outside_its_stated_interval(
    run: Run, searched: dict[str, Any], tiny_study: Path, tmp_path: Path
) -> None:
    """A recipe that states another LPIPS than its pictures have is told so, and bounds that are
    broken give the exit code 1.
    """
    data = json.loads(searched["recipe"].read_text())
    lpips = data["fidelity"]["lpips"]
    factor = 1.01 * lpips["typical_ci95"][1] / lpips["typical_ci95"][0]
    data["fidelity"]["lpips"] |= {"flips": lpips["flips"] | {"threshold": 1e9, "prompts": []}}
    data["fidelity"]["lpips"]["flips"]["count"] = 0
    data["fidelity"]["lpips"] |= {
        "mean": lpips["mean"] * factor,
        "typical": lpips["typical"] * factor,
        "typical_ci95": [v * factor for v in lpips["typical_ci95"]],
        "per_prompt": [v * factor for v in lpips["per_prompt"]],
    }
    (tmp_path / "wrong.json").write_text(json.dumps(data))
    bounds = ("--max-typical", 1e-9, "--max-flips", 0)
    ran = run("verify", "wrong.json", "--model", tiny_study, *bounds, "--json", "-")
    found = json.loads(ran.out)
    assert found["inside"] is False
    assert found["broken"] == {"max_typical": found["typical"]}
    assert ran.code == 1
    assert "does NOT hold: its pictures are OUTSIDE the interval" in ran.err
    assert "it breaks --max-typical: found" in ran.err
    assert "expected at most 1e-09" in ran.err


def test_verifying_another_model_is_refused(
    run: Run, searched: dict[str, Any], odd_study: Path, tmp_path: Path
) -> None:
    """A recipe whose Linears the model lacks is refused with names."""
    data = json.loads(searched["recipe"].read_text())
    name = next(fqn for fqn, own in data["layers"].items() if own == "bf16")
    data["layers"] = {
        key.replace(name, f"{name}_gone") if key == name else key: value
        for key, value in data["layers"].items()
    }
    data["patterns"] = []
    (tmp_path / "other.json").write_text(json.dumps(data))
    wrong(
        run("verify", "other.json", "--model", odd_study),
        "missing in the model",
        f"{name}_gone",
        "extra",
    )


@pytest.mark.parametrize("command", ["models", "doctor", "device"])
def test_models_and_doctor_json(run: Run, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`models`, `doctor` and `device` print tables, or with `--json -` their JSON on stdout and the
    tables on stderr.
    """
    free = os.statvfs("/")
    monkeypatch.setattr(os, "statvfs", lambda _folder: free)  # what is free changes meanwhile
    monkeypatch.setattr("sensitivity.workflows.machine_checks.free_bytes", lambda _device: 10**9)
    plain, data = run(command), run(command, "--json", "-")
    assert (plain.code, data.code) == (0, 0)
    assert plain.out == data.err != ""
    keys = {
        "models": {"models"},
        "doctor": {"environment", "native", "why_not", "missing", "judges", "checks", "ok"},
        "device": {"targets"},
    }
    assert set(json.loads(data.out)) == keys[command]


def test_json_that_cannot_be_written_is_said(run: Run, tmp_path: Path) -> None:
    """A command that is quick says after its work, with exit code 2, that its JSON has no place."""
    (tmp_path / "file").write_text("")
    ran = run("models", "--json", "file/x.json")
    assert ran.code == 2
    assert "file" in ran.err
