"""Studies that are made in Python, and the Linears of a model."""

from pathlib import Path
from typing import Any

import pytest

from sensitivity.errors import SpecError, UserError
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.overrides import with_prompts
from sensitivity.spec.prompts import split_prompts
from sensitivity.workflows import own_study
from sensitivity.workflows.own_study import make_study, profile_model

from support.shape_runs import shape_run

PROMPTS = [f"a red ring number {i}" for i in range(8)]


def test_prompts_may_be_given_one_by_one_or_in_a_file(tmp_path: Path) -> None:
    """A list is split as a file with one prompt a line is."""
    path = tmp_path / "mine.txt"
    path.write_text("\n".join(PROMPTS))
    spec = make_study("tiny-flux", prompts=PROMPTS)
    assert spec == make_study("tiny-flux", prompts=path)
    assert spec == with_prompts(resolve_spec("tiny-flux"), split_prompts(PROMPTS))
    assert "4 prompts choose, 4 are held out" in repr(spec)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (PROMPTS[:7], "`prompts` has 7 prompts; expected 8 or more"),
        ([*PROMPTS, PROMPTS[0]], "'a red ring number 0' twice"),
        ([*PROMPTS, 3], "something other than texts"),
        ([*PROMPTS, ""], "empty prompt"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused(prompts: Any, message: str) -> None:
    """Too few, one twice, one that is no text."""
    with pytest.raises(SpecError, match=message):
        make_study("tiny-flux", prompts=prompts)


def test_settings_are_those_of_the_run_and_of_the_study() -> None:
    """Steps and sizes become arguments of the pipeline's call; keys with a section are the
    study's.
    """
    spec = make_study("tiny-flux", steps=4, settings={"search.depth_bands": 2}, net="alex")
    assert spec.settings["num_inference_steps"] == 4
    assert spec.search.depth_bands == 2
    assert spec.fidelity.net == "alex"
    with pytest.raises(UserError, match="`steps` is 0; expected 1 or more"):
        make_study("tiny-flux", steps=0)


def test_a_folder_becomes_a_study() -> None:
    """A diffusers folder is derived, and what the caller says comes before that."""
    folder = resolve_spec("tiny-flux").model.path
    assert folder is not None
    spec = make_study(folder, height=64, width=64, settings={"pricing.stands_for": 16}, net="tiny")
    assert not spec.bare
    assert (spec.settings["height"], spec.settings["width"]) == (64, 64)
    assert (spec.pricing.stands_for, spec.fidelity.net) == (16, "tiny")


def test_linears_of_a_model_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name, a path and a study all give the table of a run without weights."""
    monkeypatch.setattr("sensitivity.shapes.run.run_shapes", lambda spec, **_: shape_run(spec.name))
    table = profile_model("tiny-flux")
    assert table == own_study.profile_model(resolve_spec("tiny-flux"))
    frame = table.to_pandas()
    assert list(frame["fqn"]) == [linear.fqn for linear in table.linears]
    assert frame["flops"].sum() == table.flops
    assert (
        repr(table)
        == f"ShapeTable(tiny-flux: 88 Linears of {len(table.by_shape())} shapes, batch 1)"
    )
