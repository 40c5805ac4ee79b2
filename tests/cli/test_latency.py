"""`latency` names the runtime of its prices, and says where the host is the limit."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sensitivity import cli

Run = Callable[..., tuple[int, str, str]]
SLOW = """\
name = "slow"
like = "b200"
host_factor = 5.0
"""
PRICE = ("latency", "--model", "tiny-flux", "--format", "mxfp8", "--target", "slow.toml")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the program in this process and in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["sensitivity", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def test_the_host_is_named_where_it_is_the_limit(run: Run) -> None:
    """With the milliseconds and what helps, as an option of the command; that option takes the
    limit away.
    """
    Path("slow.toml").write_text(SLOW)
    code, out, _ = run(*PRICE)
    text = " ".join(out.split())
    assert code == 0
    assert "predicted for slow, batch 1, torchao-graphs" in text
    assert "limited by the host quantized: " in text
    assert "ms a denoiser call" in text
    assert "(--runtime torchao-step-graph: " in text
    code, out, _ = run(*PRICE, "--runtime", "torchao-step-graph", "--json", "-")
    data = json.loads(out)
    assert (code, data["runtime"], data["compile_mode"]) == (0, "torchao-step-graph", "default")
    assert data["host"]["lost_s"] == 0
    assert data["host"]["calls"] > 0


def test_a_wrong_runtime_is_a_mistake(run: Run) -> None:
    """An unknown one, or one of another compile mode, is refused with the options' names."""
    Path("slow.toml").write_text(SLOW)
    code, _, error = run(*PRICE, "--runtime", "torchao-graph")
    assert code == 2
    assert "no --runtime is called 'torchao-graph'" in " ".join(error.split())
    code, _, error = run(*PRICE, "--runtime", "torchao-eager", "--compile-mode", "reduce-overhead")
    assert code == 2
    assert "leave --compile-mode out" in " ".join(error.split())
