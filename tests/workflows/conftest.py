"""What tests of workflows share: models that are profiled once, and a search of the tiny study."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sensitivity.search.loop import SearchResult, run_search
from sensitivity.search.proposers import SamplerName
from sensitivity.search.settings import SearchSettings
from sensitivity.search.store import Store
from sensitivity.spec.loading import load_spec, resolve_spec
from sensitivity.workflows.audit.model import AuditedModel, audited_model
from sensitivity.workflows.conclude import SearchOutcome
from sensitivity.workflows.find import find_recipe
from sensitivity.workflows.prepare import Prepared, prepare
from sensitivity.workflows.requests import SearchRequest

from support.clip_pipelines import save_wan
from support.searches import BUDGET, NVFP4, Scorer


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], AuditedModel]:
    """Models by study name, each profiled once; "two" is a tiny Wan with two denoisers."""
    made: dict[str, AuditedModel] = {}

    def get(name: str) -> AuditedModel:
        if name not in made:
            spec = (
                load_spec(save_wan(tmp_path_factory.mktemp("two") / "wan", denoisers=2))
                if name == "two"
                else resolve_spec(name)
            )
            made[name] = audited_model(spec)
        return made[name]

    return get


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the references and databases of searches of the tiny study."""
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="session")
def whole(tiny_study: Path, runs: Path) -> SearchOutcome:
    """An uninterrupted search of `BUDGET` trials, kept in whole.db. Do not change that file."""
    return find_recipe(
        load_spec(tiny_study),
        SearchRequest(
            budget=BUDGET,
            storage=runs / "whole.db",
            cache_folder=runs / "references",
        ),
    )


@pytest.fixture(scope="session")
def prepared(tiny_study: Path, runs: Path) -> Iterator[Prepared]:
    """The candidates of the tiny study, and an evaluator that a test may give another `score`."""
    made = prepare(
        load_spec(tiny_study),
        SearchRequest(storage=runs / "none.db", cache_folder=runs / "references"),
    )
    yield made
    made.evaluator.close()


@pytest.fixture
def quick(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., SearchResult]:
    """Runs a search with a `Scorer` in place of the evaluator's, on the groups that gain most.

    Its database is quick.db in the test's own folder.
    """

    def run(
        scorer: Scorer,
        *,
        budget: int,
        groups: int = 99,
        sampler: SamplerName = SamplerName.KNAPSACK,
        **more: Any,
    ) -> SearchResult:
        monkeypatch.setattr(prepared.evaluator, "score", scorer)
        found = prepared.candidates
        best = sorted(range(len(found.groups)), key=lambda i: -found.groups[i].gains_s[1])[:groups]
        fewer = replace(
            found,
            groups=tuple(found.groups[i] for i in best),
            rule_of_thumb=tuple(found.rule_of_thumb[i] for i in best),
            memory=None,
        )
        settings = SearchSettings(
            formats=NVFP4, target="b200", budget=budget, sampler=sampler, calibrated=False
        )
        with Store.open(tmp_path / "quick.db") as store:
            return run_search(prepared.evaluator, fewer, store, settings, **more)

    return run
