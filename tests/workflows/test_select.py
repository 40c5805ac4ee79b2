"""Another choice from a finished search, and what it may not be made from."""

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sensitivity.errors import ConstraintError, InUseError, StoreError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.models.generating import MediaGenerator
from sensitivity.models.media import Media
from sensitivity.search.store import Store, assignment_key
from sensitivity.search.trials import ScoredTrial
from sensitivity.spec.loading import load_spec
from sensitivity.workflows.conclude import SearchOutcome
from sensitivity.workflows.requests import SelectRequest
from sensitivity.workflows.select import select_recipe

from support.searches import essence


def no_pictures(*_arguments: Any, **_options: Any) -> torch.Tensor:
    """Stands for `MediaGenerator.generate` where nothing may be generated."""
    raise AssertionError("pictures were generated")


def test_selecting_without_constraints_gives_the_searchs_recipe(
    whole: SearchOutcome, tiny_study: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same study gives the same recipe, settings and all, from the database alone: no picture
    is generated.
    """
    monkeypatch.setattr(MediaGenerator, "generate", no_pictures)
    outcome = select_recipe(
        load_spec(tiny_study),
        SelectRequest(storage=runs / "whole.db", cache_folder=runs / "references"),
    )
    assert outcome.recipe == whole.recipe
    assert essence(outcome.result.trials) == essence(whole.result.trials)


def test_selecting_by_another_constraint_draws_only_missing_held_out_scores(
    whole: SearchOutcome,
    tiny_study: Path,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The front's slow end is named with max_seconds just above bf16's; what is generated is held
    out, was not known, and is said before; then all is known.
    """
    shutil.copy(runs / "whole.db", tmp_path / "copy.db")
    front, generated, said = whole.front, [], []  # type: ignore[var-annotated]
    plain = Evaluator.generate

    def generate(self: Evaluator, formats: Any, split: Any, **more: Any) -> Media:
        generated.append(split)
        return plain(self, formats, split, **more)

    monkeypatch.setattr(Evaluator, "generate", generate)
    more = {"storage": tmp_path / "copy.db", "cache_folder": runs / "references"}
    request = SelectRequest(max_seconds=front[-1].latency_s * 1.01, **more)
    outcome = select_recipe(load_spec(tiny_study), request, say=said.append)
    near = {front[-1].index, front[-2].index}
    assert near <= {t.index for t in outcome.winner.shortlist}  # type: ignore[union-attr]
    assert outcome.chosen == front[-1]
    missing = {t.index for t in outcome.winner.shortlist} - set(whole.held_out)
    assert generated == ["held_out"] * len(missing)
    assert missing
    cost = f"{len(missing)} to draw ({3 * len(missing)} pictures, about"
    assert any(cost in text for text in said)
    assert outcome.result.trials == whole.result.trials
    generated.clear()
    assert select_recipe(load_spec(tiny_study), request).recipe == outcome.recipe
    assert generated == []


def test_a_bound_on_memory_flips_the_choice(
    whole: SearchOutcome, tiny_study: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bound that everything keeps to changes nothing. A byte less than the chosen list needs, and
    another one is chosen, which fits; less than any peak, and the least is said. The recipe states
    the bound, and its own peak and the front's as predictions.
    """
    monkeypatch.setattr(MediaGenerator, "generate", no_pictures)
    paths = {"storage": runs / "whole.db", "cache_folder": runs / "references", "verify": False}

    def select(most: int) -> SearchOutcome:
        return select_recipe(load_spec(tiny_study), SelectRequest(max_memory_bytes=most, **paths))

    assert whole.chosen is not None
    peak, memory = whole.chosen.memory_bytes, whole.prepared.candidates.memory
    assert peak is not None
    assert memory is not None
    assert select(memory.bf16_peak_bytes).chosen == whole.chosen
    outcome = select(peak - 1)
    assert outcome.chosen is not None
    assert outcome.recipe is not None
    assert outcome.chosen.memory_bytes is not None
    assert outcome.chosen.memory_bytes < peak
    assert outcome.recipe.choice is not None
    assert outcome.recipe.choice.max_memory_bytes == peak - 1
    said = outcome.recipe.memory
    assert (said.peak_bytes, said.peak_source) == (outcome.chosen.memory_bytes, "predicted")
    members = {own.name: own.memory_bytes for own in outcome.recipe.front}
    assert members == {t.name: t.memory_bytes for t in outcome.front}
    least = min(t.memory_bytes or 0 for t in whole.result.trials)
    with pytest.raises(ConstraintError, match=f"skip-list is {least / 1e9:.5g} GB, predicted"):
        select(least - 1)


def test_selecting_without_verification_names_only_what_has_a_held_out_score(
    whole: SearchOutcome,
    tiny_study: Path,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With `verify` False no picture is generated: a first choice without a held-out score is
    passed over, and without any score nothing is named. A process that has the database is no
    hindrance, as it is for who would write.
    """
    monkeypatch.setattr(MediaGenerator, "generate", no_pictures)
    assert whole.winner is not None
    shutil.copy(runs / "whole.db", tmp_path / "copy.db")
    evaluator, candidates = whole.prepared.evaluator, whole.prepared.candidates
    request = SelectRequest(
        verify=False, storage=tmp_path / "copy.db", cache_folder=runs / "references"
    )

    def forget(*forgotten: ScoredTrial) -> None:
        with closing(sqlite3.connect(tmp_path / "copy.db")) as connection, connection:
            for t in forgotten:
                key = (
                    evaluator.evaluation_key("held_out"),
                    assignment_key(candidates.decode(t.choice)),
                )
                assert (
                    connection.execute(
                        "DELETE FROM sensitivity_scores WHERE evaluation = ? AND assignment = ?",
                        key,
                    ).rowcount
                    == 1
                )
                connection.execute(  # as if it had never been written
                    "UPDATE sensitivity_meta SET value = CAST(value - 1 AS TEXT)"
                    " WHERE key = 'rows of sensitivity_scores'"
                )

    first, rest = (
        whole.winner.first,
        [t for t in whole.winner.shortlist if t.index != whole.winner.first.index],
    )
    forget(first)
    with Store.open(tmp_path / "copy.db"):
        outcome = select_recipe(load_spec(tiny_study), request)
        with pytest.raises(InUseError, match="or turn `verify` off, which reads what is there"):
            select_recipe(load_spec(tiny_study), replace(request, verify=True))
    assert outcome.recipe is not None
    assert outcome.recipe.choice is not None
    assert outcome.recipe.choice.passed_over == (first.name,)
    assert outcome.winner is not None
    assert essence(outcome.winner.shortlist) == essence(tuple(rest))
    assert outcome.chosen in outcome.winner.shortlist
    forget(*rest)
    with pytest.raises(
        ConstraintError,
        match=r"none of the .* has a held-out score in the database; .* choose with `verify` on",
    ):
        select_recipe(load_spec(tiny_study), request)


def test_a_study_made_under_other_conditions_is_refused(
    tiny_study: Path, runs: Path, tmp_path: Path, whole: SearchOutcome
) -> None:
    """Where a prompt was changed since, the fingerprint differs, and the message says what may have
    and what to do.
    """
    assert whole.recipe is not None
    other = tmp_path / tiny_study.name
    other.write_text(tiny_study.read_text().replace('"a ring"', '"a cross"'))
    with pytest.raises(StoreError, match=r"was made with another model, prompts, .*search again"):
        select_recipe(
            load_spec(other),
            SelectRequest(storage=runs / "whole.db", cache_folder=runs / "references"),
        )
