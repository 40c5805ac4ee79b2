"""Models that are profiled once for all tests of audits."""

from collections.abc import Callable

import pytest

from sensitivity.spec.loading import load_spec, resolve_spec
from sensitivity.workflows.audit.model import AuditedModel, audited_model

from support.clip_pipelines import save_wan


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
