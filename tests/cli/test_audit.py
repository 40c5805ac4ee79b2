"""`sensitivity audit` at the command line: exit codes for CI, JSON that is nothing but JSON, lists
from everywhere, models that nobody has seen.
"""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sensitivity import cli
from sensitivity.recipes.recipe import load_recipe

from support.tiny_flux_recipes import first_recipe
from support.toy_pipelines import save_toy

Run = Callable[..., tuple[int, str, str]]
AUDIT = ("audit", "--model", "tiny-flux", "--no-vary")
RIGHT = "*embed*\n*norm*.linear\nproj_out\n"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the program in this process and in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, stdin: bytes = b"") -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["sensitivity", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return int(ended.value.code or 0), out, err

    return call


def test_a_right_list_exits_with_0(run: Run) -> None:
    """No finding is more than a note, whatever --fail-on; the form is guessed and said; every
    number says that it is predicted, and for what.
    """
    Path("right.txt").write_text(RIGHT)
    code, out, _ = run(*AUDIT, "right.txt", "--fail-on", "warning")
    assert code == 0
    assert "right.txt read as glob, guessed by its looks" in out
    assert "predicted for b200, batch 1" in out
    assert "0 errors, 0 warnings" in out
    assert "exits with 0" in out


def test_the_report_fits_100_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines do not run on, names are folded."""
    monkeypatch.setenv("COLUMNS", "100")
    Path("list.txt").write_text("zzz\nblocks.1\ntransformer_blocks.0.attn.to_q\n*\n")
    _, out, _ = run(*AUDIT, "list.txt", "--as", "substring")
    assert max(map(len, out.splitlines())) <= 100
    assert len(out.splitlines()) < 80


@pytest.mark.parametrize(
    ("text", "fail_on", "code"),
    [
        ("zzz", "error", 1),
        ("zzz", "never", 0),
        ("single_transformer_blocks.1.attn.to_q", "error", 0),
        ("single_transformer_blocks.1.attn.to_q", "warning", 1),
    ],
)
def test_exit_codes_are_for_ci(run: Run, text: str, fail_on: str, code: int) -> None:
    """A dead entry is an error, torn q, k and v a warning; --fail-on says what counts, and the last
    line says why.
    """
    Path("list.txt").write_text(RIGHT + text)
    found, out, _ = run(*AUDIT, "list.txt", "--as", "glob", "--fail-on", fail_on)
    assert found == code
    assert out.splitlines()[-1].endswith(f"exits with {code} (--fail-on {fail_on})")


def test_json_on_stdout_is_nothing_else(run: Run) -> None:
    """With --json - the report goes to stderr, also where the exit code is 1; a list may come from
    standard input.
    """
    code, out, err = run(*AUDIT, "-", "--as", "substring", "--json", "-", stdin=b"zzz\nembed\n")
    data = json.loads(out)
    assert (code, data["list"], data["form"], data["entries"], data["errors"]) == (
        1,
        "standard input",
        "substring",
        2,
        1,
    )
    assert [f["kind"] for f in data["findings"]][:1] == ["dead-entry"]
    assert "line 1: zzz" in err


def test_a_function_leaves_stdout_and_the_exit_code_alone(run: Run) -> None:
    """What it prints goes to stderr, also while its module is imported; one that ends the program
    is a mistake like any other.
    """
    Path("mine.py").write_text(
        "import sys\nprint('noise')\ndef keep(module, fqn):\n    print('more')\n    return"
        " hasattr(module, 'in_features')\ndef leave(module, fqn):\n    sys.exit(3)\n"
    )
    code, out, err = run(
        *AUDIT,
        "mine.py:keep",
        "--as",
        "filter-fn",
        "--allow-code",
        "--json",
        "-",
        "--fail-on",
        "never",
    )
    assert (code, json.loads(out)["quantized"]) == (0, 88)
    assert "noise" in err
    assert "more" in err
    code, out, err = run(*AUDIT, "mine.py:leave", "--as", "filter-fn", "--allow-code")
    assert (code, out) == (2, "")
    assert "mine.py:leave fails on" in err


def test_the_report_is_readable_at_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prices stand in rows, not in letters below each other."""
    monkeypatch.setenv("COLUMNS", "80")
    Path("a-rather-long-name-of-a-list.txt").write_text("zzz")
    _, out, _ = run(*AUDIT, "a-rather-long-name-of-a-list.txt", "--as", "substring")
    assert max(map(len, out.splitlines())) <= 80
    assert any(line.split()[:3] == ["the", "same,", "fixed"] for line in out.splitlines())
    assert any(line.split()[:3] == ["rule", "of", "thumb"] for line in out.splitlines())


def test_a_list_is_fixed_both_ways(run: Run) -> None:
    """As globs and as an unverified recipe the fixed list passes with --fail-on warning, and both
    say the same.
    """
    Path("list.txt").write_text("zzz\ntransformer_blocks.0\nsingle_transformer_blocks.1.attn.to_q")
    assert run(*AUDIT, "list.txt", "--as", "substring", "--fix", "fixed.txt")[0] == 1
    assert run(*AUDIT, "list.txt", "--as", "substring", "--fix", "fixed.json")[0] == 1
    skipped = []
    for path in ("fixed.txt", "fixed.json"):
        code, out, _ = run(
            *AUDIT, path, "--fail-on", "warning", "--json", "-", "--recipe", "fixed.json"
        )
        assert code == 0
        assert "list-fixed" in [row["name"] for row in json.loads(out)["latency"]]
        skipped.append(json.loads(out)["fixed"]["skip"])
    assert skipped[0] == skipped[1] == sorted(load_recipe("fixed.json").skip)
    assert load_recipe("fixed.json").notice


def test_a_model_that_nobody_has_seen(run: Run, tmp_path: Path) -> None:
    """A folder of config files that has no study is audited in any consumer's form, at the settings
    of the command.
    """
    (tmp_path / "toy").mkdir()
    save_toy("flux", tmp_path / "toy")
    Path("list.json").write_text(json.dumps(["proj_out", "x_embedder"]))
    options = ("--height", 64, "--width", 64, "--steps", 1, "--format", "mxfp8", "--batch-size", 2)
    code, out, _ = run(
        "audit",
        "--model",
        tmp_path / "toy",
        "list.json",
        "--as",
        "dotted-substring",
        "--json",
        "-",
        *options,
    )
    data = json.loads(out)
    assert code == 0
    assert (data["format"], data["batch_size"], data["settings"]["height"]) == ("mxfp8", 2, 64)
    over = next(f for f in data["findings"] if f["kind"] == "over-matching")
    assert sorted(over["fqns"]) == [
        "single_transformer_blocks.0.proj_out",
        "single_transformer_blocks.1.proj_out",
    ]


def test_a_fixed_list_of_a_model_that_gains_nothing_passes(run: Run, tmp_path: Path) -> None:
    """Every Linear of a toy is slower quantized: the fixed list quantizes none, and that is no
    fault of it.
    """
    (tmp_path / "toy").mkdir()
    save_toy("pixart", tmp_path / "toy")
    Path("list.txt").write_text("zzz")
    toy = ("audit", "--model", tmp_path / "toy", "--no-vary", "--format", "mxfp8")
    assert run(*toy, "list.txt", "--fix", "fixed.txt")[0] == 1
    code, out, _ = run(*toy, "fixed.txt", "--fail-on", "warning", "--json", "-")
    assert (code, json.loads(out)["quantized"]) == (0, 0)
    assert "none would gain as mxfp8" in json.loads(out)["findings"][0]["message"]


MISTAKES: dict[str, tuple[list[object], list[str]]] = {
    "no file": (["none.txt"], ["none.txt cannot be read", "No such file"]),
    "a function as a file": (["mine:keep"], ["give --as filter-fn and --allow-code"]),
    "code that is not allowed": (["mine:keep", "--as", "filter-fn"], ["--allow-code"]),
    "code where none is": (["list.txt", "--allow-code"], ["leave it out"]),
    "unknown form": (
        ["list.txt", "--as", "globs"],
        ["found the form 'globs'", "did you mean 'glob'"],
    ),
    "another form": (["regex.txt", "--as", "glob"], ["regex.txt: line 1", "--as regex"]),
    "two formats": (
        ["list.txt", "--format", "mxfp8", "--format", "nvfp4"],
        ["--format is given 2 times"],
    ),
    "format that the target lacks": (["list.txt", "--target", "h100"], ["h100 has no nvfp4"]),
    "unknown target": (["list.txt", "--target", "b2000"], ["b200"]),
    "unknown severity": (
        ["list.txt", "--fail-on", "note"],
        ["--fail-on", "'note' is not one of 'error', 'warning', 'never'"],
    ),
    "width below nothing": (
        ["list.txt", "--min-width", -1],
        ["'--min-width': found -1, expected 0 to"],
    ),
    "one file for two results": (
        ["list.txt", "--fix", "a.json", "--json", "a.json"],
        ["is the file of"],
    ),
    "fixed list over the list": (
        ["list.txt", "--as", "substring", "--fix", "list.txt"],
        ["is the file of LIST"],
    ),
    "JSON over the recipe": (
        ["list.txt", "--recipe", "r.json", "--json", "r.json"],
        ["is the file of --recipe"],
    ),
    "fixed list into a folder": (["list.txt", "--fix", "."], ["is a folder"]),
    "a recipe that is none": (["list.txt", "--recipe", "list.txt"], ["list.txt"]),
    "an argument that the pipeline lacks": (["list.txt", "--frames", 5], ["num_frames"]),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_mistakes_exit_with_2(run: Run, name: str) -> None:
    """A user's mistake: exit code 2, nothing on stdout, a message that says what was found and what
    was expected.
    """
    Path("list.txt").write_text(RIGHT)
    Path("regex.txt").write_text("^proj_out$\n.*norm.*|x")
    first_recipe().save("r.json")
    arguments, words = MISTAKES[name]
    code, out, err = run(*AUDIT, *arguments)
    assert (code, out) == (2, ""), err
    for word in words:
        assert word in err
