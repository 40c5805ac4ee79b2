"""Studies at the command line: derived ones are shown, kept and searched; prompts of the user's own
make another study; `models` says what is here.
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import huggingface_hub.constants
import pytest
import torch

from sensitivity import cli
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.spec.loading import load_spec
from sensitivity.spec.overrides import with_prompts
from sensitivity.spec.prompts import read_prompts
from sensitivity.spec.shipped import list_studies

from support.paths import TRUNK
from support.toy_pipelines import save_toy

Run = Callable[..., tuple[int, str, str]]
MINE = "\n".join(
    f"a {colour} ring on a plain {ground} background"
    for colour in ("red", "blue", "white", "black")
    for ground in ("mint", "navy")
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the program in this process and in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["sensitivity", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return int(ended.value.code or 0), out, err

    return call


def test_a_model_without_a_study_is_shown_kept_and_searched(
    run: Run, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`search` of a folder says on stderr what it derived; `profile --save-study` keeps it;
    corrected, the file searches and writes a recipe.
    """

    def refuse(*_arguments: object, **_options: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    code, _, err = run("search", "--model", tiny_folder, "--budget", 1)
    assert code == 2  # its perceptual net has no weights here
    assert 'component = "transformer"' in err
    assert "# derived from the config files of" in err
    assert err.index("num_inference_steps = 28") < err.index("alex")

    assert (
        run(
            "profile",
            "--model",
            tiny_folder,
            "--steps",
            1,
            "--height",
            64,
            "--width",
            64,
            "--save-study",
            "mine.toml",
        )[0]
        == 0
    )
    text = Path("mine.toml").read_text(encoding="utf-8")
    assert load_spec(Path("mine.toml")).model.path == tiny_folder
    text = text.replace(
        'net = "alex"', f'net = "tiny"\nweights = {json.dumps(str(TRUNK))}'
    ).replace("batch_size = 8", "batch_size = 4")
    Path("mine.toml").write_text(text, encoding="utf-8")
    Path("prompts.txt").write_text(MINE, encoding="utf-8")
    code, out, err = run(
        "search",
        "--model",
        "mine.toml",
        "--prompts",
        "prompts.txt",
        "--budget",
        1,
        "--no-calibrate",
        "--json",
        "-",
    )
    assert code == 0, err
    assert json.loads(out)["fidelity"]["lpips"]["prompts"] == MINE.splitlines()[1::2]
    assert "8 prompts of prompts.txt (text, one prompt a line):" in err


def test_a_saved_study_never_replaces_another_file(run: Run, tmp_path: Path) -> None:
    """--save-study refuses a file that says something else, a name that --model would not take, and
    the file of another option.
    """
    folder = tmp_path / "sdxl"
    folder.mkdir()
    save_toy("sdxl", folder)
    Path("there.toml").write_text("name = 1")
    for path, words in (
        ("there.toml", "is a file with another content"),
        ("mine.json", "does not end in .toml"),
        (".", "does not end in .toml"),
    ):
        code, _, err = run("profile", "--model", folder, "--save-study", path)
        assert (code, words in err) == (2, True), err
    assert Path("there.toml").read_text() == "name = 1"
    code, _, err = run("calibrate", "--model", folder, "--json", "x.toml", "--save-study", "x.toml")
    assert code == 2
    assert "is the file of --save-study" in err
    for _ in range(2):
        assert run("profile", "--model", folder, "--save-study", "new.toml")[0] == 0
    assert run("profile", "--model", "new.toml")[0] == 0


@pytest.mark.parametrize("command", [["search"], ["calibrate"], ["select"]])
def test_prompts_that_cannot_be_are_refused_first(run: Run, command: list[str]) -> None:
    """A file of prompts is read before anything is loaded."""
    Path("few.txt").write_text("a\nb\n")
    code, out, err = run(*command, "--model", "tiny-flux", "--prompts", "few.txt")
    assert (code, out) == (2, "")
    assert "few.txt has 2 prompts" in err
    assert "torch" not in err


def test_other_prompts_are_another_study(evaluator: Evaluator, tmp_path: Path) -> None:
    """Scores of other search prompts are never taken for each other; held-out prompts are their own
    key.
    """
    (tmp_path / "mine.txt").write_text(MINE, encoding="utf-8")
    mine = with_prompts(evaluator.spec, read_prompts(tmp_path / "mine.txt"))
    held_out = with_prompts(
        evaluator.spec, mine.prompts.model_copy(update={"search": evaluator.spec.prompts.search})
    )
    others = [
        Evaluator(dataclasses.replace(evaluator.loaded, spec=spec), cache_folder=tmp_path)
        for spec in (mine, held_out)
    ]
    keys = [
        (each.evaluation_key("search"), each.evaluation_key("held_out"))
        for each in (evaluator, *others)
    ]
    assert keys[0][0] != keys[1][0]
    assert keys[0][0] == keys[2][0]
    assert len({held for _, held in keys}) == 2
    assert keys[1][1] == keys[2][1]


def test_models_says_what_is_on_this_machine(run: Run) -> None:
    """Every study with its denoisers, its prompts and what is cached, without a network; what ships
    is said to ship.
    """
    code, out, _ = run("models", "--json", "-")
    found = {entry["name"]: entry for entry in json.loads(out)["models"]}
    assert code == 0
    assert set(found) == set(list_studies())
    assert {
        name: entry["local"] for name, entry in found.items() if entry["local"] != "configs only"
    } == {"tiny-flux": "ships with the package"}
    assert found["wan2.2"]["components"] == ["transformer", "transformer_2"]
    assert found["sdxl"]["component"] == "unet"
    assert "weights cached" not in out
    assert "ships with the package" in run("models")[1]
