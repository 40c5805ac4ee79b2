"""`sensitivity check` at the command line: exit codes for a gate, one line for each criterion, JSON
and JUnit.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from sensitivity import cli
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.models.media import Media
from sensitivity.recipes.recipe import Recipe, load_recipe
from sensitivity.spec.loading import load_spec
from sensitivity.workflows.check_subject import read_subject

Run = Callable[..., tuple[int, str, str]]
KEPT = "*embed*\n*norm*.linear\nproj_out\n*transformer_blocks.1.*\n"
PROMPTS = """\
search = ["a small red circle", "a large blue star", "a ring"]
held_out = ["a green square", "a white cross", "a star", "a blue ring", "a cross", "two squares"]
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where bf16's pictures are kept for all tests of this file."""
    return tmp_path_factory.mktemp("references")


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    cache: Path,
) -> Run:
    """Runs the program in this process and in a folder with a list and prompts: (exit code, stdout,
    stderr).
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    Path("kept.txt").write_text(KEPT)
    Path("prompts.toml").write_text(PROMPTS)

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["sensitivity", "check", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return int(ended.value.code or 0), out, err

    return call


@pytest.fixture
def recipe(tiny_study: Path, run: Run) -> Recipe:  # noqa: ARG001 - its folder has the list
    """The recipe of the list, in `recipe.json`."""
    made = read_subject("kept.txt", load_spec(tiny_study))
    made.save("recipe.json")
    return made


def worse_by_one(recipe: Recipe, fqn: str) -> None:
    """Write `worse.json`: the recipe with one more Linear in nvfp4."""
    data = recipe.model_dump(mode="json") | {"name": "worse", "patterns": [], "refused": {}}
    assert data["layers"][fqn] == "bf16"
    data["layers"][fqn] = "nvfp4"
    Recipe.from_mapping(data).save("worse.json")


def test_a_recipe_made_worse_by_one_layer(run: Run, recipe: Recipe, tiny_study: Path) -> None:
    """It fails against the one before, which passes against itself without drawing twice; the JSON
    says what was asked, what was decided and on which weights, and JUnit has a case for each.
    """
    worse_by_one(recipe, "proj_out")
    gate = ("--model", tiny_study, "--prompts", "prompts.toml", "--against", "recipe.json")
    files = ("--junit", "gate.xml", "--json", "gate.json", "--out", "checked.json")
    code, out, _ = run("worse.json", *gate, "--max-flips", 5, *files)
    assert code == 1
    assert "fails      typical LPIPS not above that of kept.txt: " in out
    assert "significantly worse, prompt by prompt" in out
    assert "passes     flips <= 5: " in out
    assert "1 passes, 1 fails: exits with 1" in out
    data = json.loads(Path("gate.json").read_text())
    assert (data["decision"], data["gate"]) == ("fails", {"max_flips": 5})
    decided = {row["field"]: row["decision"] for row in data["criteria"]}
    assert decided == {"max_flips": "passes", "against": "fails"}
    assert len(data["per_prompt"]) == len(data["against_per_prompt"]) == 6
    assert len(data["weights_sha256"]) == 64
    assert data["environment"]["torch"]
    suite = ElementTree.parse("gate.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    kept = load_recipe("checked.json")
    assert kept.gate is not None
    assert (kept.gate.decision, kept.gate.against) == ("fails", "kept.txt")
    assert kept.gate.per_prompt == tuple(data["per_prompt"])
    assert kept.gate.is_of(kept.layers)
    assert not kept.gate.is_of(recipe.layers)
    assert kept.model_copy(update={"gate": None}) == load_recipe("worse.json")
    code, out, _ = run("recipe.json", *gate, *files)  # its own files are replaced
    assert code == 0
    assert "1 times as much [1, 1]; the same on every prompt" in out


def test_three_prompts_decide_nothing(
    run: Run, tiny_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list passes nothing on three prompts, and the exit code is 3; another seed's pictures fail
    on three prompts too, since all of them are other pictures.
    """
    gate = ("kept.txt", "--model", tiny_study, "--max-typical", 0.9, "--max-flips", 2)
    code, out, _ = run(*gate, "--min-speedup", 1.01, "--junit", "gate.xml")
    assert code == 3
    assert out.count("not enough prompts to decide: found 3, ") == 2
    assert "passes     speedup >= 1.01: " in out
    assert "1 passes, 2 undecided: exits with 3" in out
    assert "UNVERIFIED: a list, read as glob" in out
    suite = ElementTree.parse("gate.xml").getroot()[0]
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("0", "2", "0")

    def with_another_seed(self: Evaluator, *_: Any, **__: Any) -> Media:
        texts, seeds = self.prompts("held_out")
        return self.media_generator.generate(texts, [seed + 7 for seed in seeds], batch_size=3)

    monkeypatch.setattr(Evaluator, "generate", with_another_seed)
    code, out, _ = run(*gate)
    assert code == 1
    assert "fails      flips <= 2: 3 of 3" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "found no bound; expected one at least of --max-lpips, --max-typical"),
        (("--max-memory", "24 apples"), "--max-memory is '24 apples'; expected a size above 0"),
        (("--max-flips", -1), "--max-flips is -1; expected a number of prompts, 0 or more"),
        (
            ("--max-lpips", 0.1, "--junit", "kept.txt"),
            "--junit kept.txt is the file of RECIPE|LIST",
        ),
        (("--max-lpips", 0.1, "--junit", "prompts.toml"), "that this program did not write"),
        (("--max-lpips", 0.1, "--max-judge", "flipp=1"), "did you mean 'flip'?"),
    ],
)
def test_mistakes(run: Run, arguments: tuple[object, ...], words: str) -> None:
    """They end with the exit code 2, before anything is drawn."""
    code, out, err = run("kept.txt", "--model", "tiny-flux", *arguments)
    assert (code, out) == (2, "")
    assert words in err


def test_a_list_in_a_format_that_is_not_known(run: Run) -> None:
    """It cannot be drawn, and is refused in words."""
    Path("int8.json").write_text('{"quant_method": "torchao", "quant_type": "uint4_weight_only"}')
    code, _, err = run("int8.json", "--model", "tiny-flux", "--max-lpips", 0.1)
    assert code == 2
    assert "expected" in err
