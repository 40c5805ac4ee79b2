"""What tests of shapes share: the random FluxPipeline as config files alone."""

from pathlib import Path

import pytest

from sensitivity.spec.study_spec import StudySpec

from support.bare_pipelines import copy_configs


@pytest.fixture
def bare(tiny_study: Path, tmp_path: Path) -> StudySpec:
    """The random FluxPipeline with config files alone: no weights, no tokenizers."""
    return copy_configs(tiny_study, tmp_path / "bare")
