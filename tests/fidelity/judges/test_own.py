"""A function of the user's as a judge, and as the objective."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sensitivity.errors import UserError
from sensitivity.fidelity.comparison import Comparison
from sensitivity.fidelity.judges.objective import OwnDistance
from sensitivity.fidelity.judges.own import OwnJudge, probe

from support.media import random_clips, random_pictures

MODULE = """
import torch

def mse(pictures, references):
    return (pictures - references).square().flatten(1).mean(1)

def one_number(pictures, references):
    return (pictures - references).mean()

def nan(pictures, references):
    return [float("nan")] * len(pictures)

def fails(pictures, references):
    raise RuntimeError("boom")

def words(pictures, references):
    return ["good"] * len(pictures)

def lengths(pictures, references, prompts):
    return [float(len(prompt)) for prompt in prompts]

def likeness(pictures, references):
    return (1 - mse(pictures, references)).numpy()
likeness.higher_is_better = True
likeness.unit = "%"

def negative(pictures, references):
    return -mse(pictures, references)

def constant(pictures, references):
    return torch.ones(len(pictures))

class Made:
    def __call__(self, pictures, references):
        return mse(pictures, references)

number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in the current folder."""
    (tmp_path / "own_judges.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield "own_judges"
    sys.modules.pop("own_judges", None)


@pytest.mark.parametrize("name", ["mse", "Made", "likeness", "lengths"])
def test_a_function_a_class_and_an_array_will_do(module: str, name: str) -> None:
    """What a judge returns is one number a prompt, whatever holds them; nothing else is asked."""
    judge = OwnJudge(f"{module}:{name}")
    pictures, references = probe(is_video=False)
    found = judge(pictures, references, ["a", "bb"])
    assert found.shape == (2,)
    assert judge.higher_is_better == (name == "likeness")
    assert judge.unit == ("%" if name == "likeness" else "")
    if name == "lengths":
        assert found.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("one_number", r"shape \(\) instead of \(2,\)"),
        ("nan", "gave nan for the prompt 'a probe'"),
        ("fails", r"failed on pictures of shape .*RuntimeError: boom"),
        ("words", "returned a list, which is no numbers"),
    ],
)
def test_what_a_function_does_wrong_is_said(module: str, name: str, says: str) -> None:
    """Wrong shapes, NaN, errors and texts are users' mistakes, and name the function."""
    with pytest.raises(UserError, match=f"{module}:{name} {says}|{says}") as found:
        OwnJudge(f"{module}:{name}").try_out(is_video=False)
    assert "expected one finite number for each picture" in str(found.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere_at_all:mse", "ModuleNotFoundError"),
        ("own_judges:missing", "AttributeError"),
        ("own_judges:number", "is a int; expected a function"),
        ("own_judges:", "expected module:function"),
    ],
)
@pytest.mark.usefixtures("module")
def test_what_cannot_be_imported_is_said(name: str, says: str) -> None:
    """A wrong name is refused with what was tried and what is expected."""
    with pytest.raises(UserError, match=says):
        OwnJudge(name)


def test_an_edited_function_is_another_one(module: str, tmp_path: Path) -> None:
    """The file that defines a function is part of what made its values."""
    before = OwnJudge(f"{module}:mse")
    (tmp_path / "own_judges.py").write_text(MODULE + "\n# better\n")
    assert OwnJudge(f"{module}:mse").made_by != before.made_by
    assert OwnDistance(f"{module}:mse", is_video=False).key["source"] != before.digest


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("likeness", "has `higher_is_better`"),
        ("negative", "gave -"),
        ("constant", "gave 1 for equal pictures and 1"),
        ("lengths", "takes prompts"),
    ],
)
def test_an_objective_must_be_a_distance(module: str, name: str, says: str) -> None:
    """What is not 0 for equal pictures, or goes below, cannot be minimised."""
    with pytest.raises(UserError, match=says):
        OwnDistance(f"{module}:{name}", is_video=False)


def test_an_objective_stands_where_lpips_stands(module: str) -> None:
    """It is given values in [0, 1], and clips as a whole, and motion is left out."""
    distance = OwnDistance(f"{module}:mse", is_video=True)
    comparison = Comparison(distance=distance, device="cpu", stride=2)
    clips, references = random_clips(0), random_clips(1)
    values, frames = comparison.lpips(clips, references)
    apart = (clips.pictures.float() - references.pictures.float())[:, ::2].square()
    assert values.tolist() == pytest.approx(apart.flatten(1).mean(1).tolist(), rel=1e-3)
    assert frames is None
    assert set(comparison.secondary(clips, references)) == {"detail_db"}
    pictures = random_pictures(2, seed=2)
    broken = pictures.clone()
    broken[1, 0, 0, 0] = torch.nan
    assert distance(broken, pictures).isnan().tolist() == [False, True]
