"""By what a study's pictures are compared, and whose values a recipe has."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from sensitivity.errors import UserError
from sensitivity.fidelity.judges.objective import OwnDistance
from sensitivity.fidelity.judges.wishes import JudgeWishes
from sensitivity.spec.loading import resolve_spec
from sensitivity.workflows.comparing import check_objective, compare_by, say_by_what

OWN = "def mse(p, r):\n    return (p - r).square().flatten(1).mean(1)\n"


def test_an_objective_has_lpips_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The study's LPIPS becomes one of the judges, and both are said."""
    (tmp_path / "own_objective.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    spec = resolve_spec("tiny-flux")
    wishes = JudgeWishes(asked=("none",))
    found = compare_by(spec, device="cpu", wishes=wishes, objective="own_objective:mse")
    assert isinstance(found.distance, OwnDistance)
    assert found.panel.names == ("lpips",)
    said: list[str] = []
    evaluator = SimpleNamespace(distance=found.distance, panel=found.panel)
    say_by_what(evaluator, said.append)  # type: ignore[arg-type]
    assert said == ["the objective is own_objective:mse: it stands where LPIPS is written"]
    assert compare_by(spec, device="cpu", wishes=wishes).distance.name == "tiny"


@pytest.mark.parametrize("own", [None, "a:b"])
def test_values_of_another_objective_are_not_compared(own: str | None) -> None:
    """A recipe's LPIPS is verified by what it is of."""
    recipe = SimpleNamespace(fidelity=SimpleNamespace(objective=own))
    check_objective(recipe, own)  # type: ignore[arg-type]
    check_objective(SimpleNamespace(fidelity=None), "c:d")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="and `objective` is c:d; expected the same"):
        check_objective(recipe, "c:d")  # type: ignore[arg-type]
