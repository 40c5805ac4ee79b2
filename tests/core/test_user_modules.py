"""A user's module is imported from where the command runs, and installed ones come first."""

import sys
from pathlib import Path

import pytest

from sensitivity.core.user_modules import import_user_module
from sensitivity.search.proposers.optuna_proposer import SamplerName, stock_sampler


def test_a_module_of_the_working_directory_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by who asks for a sampler; the path is afterwards what it was."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_sampler_here.py").write_text(
        "from optuna.samplers import RandomSampler\n\nclass Mine(RandomSampler):\n    pass\n"
    )
    before = list(sys.path)
    assert hasattr(import_user_module("own_sampler_here"), "Mine")
    made = stock_sampler(SamplerName("own_sampler_here:Mine"), seed=1)
    assert type(made).__name__ == "Mine"
    assert sys.path == before
    monkeypatch.delitem(sys.modules, "own_sampler_here")


def test_an_installed_module_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the same name beside the user hides nothing; a failing import is passed on."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "colorsys.py").write_text("raise RuntimeError('the wrong one')\n")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    assert hasattr(import_user_module("colorsys"), "rgb_to_hsv")
    before = list(sys.path)
    with pytest.raises(ModuleNotFoundError):
        import_user_module("there_is_no_such_module_here")
    assert sys.path == before
