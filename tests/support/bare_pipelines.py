"""Pipelines that are config files alone, and changes of these files."""

import json
import shutil
from pathlib import Path
from typing import Any

from sensitivity.spec.loading import load_spec
from sensitivity.spec.study_spec import ModelSection, StudySpec


def copy_configs(study: Path, folder: Path) -> StudySpec:
    """Copy the pipeline of a study without weights and tokenizers; the study of the copy."""
    spec = load_spec(study)
    assert spec.model.path is not None
    left_out = shutil.ignore_patterns("*.safetensors", "tokenizer*")
    shutil.copytree(spec.model.path, folder, ignore=left_out)
    return spec.model_copy(update={"model": ModelSection(path=folder, weights="random")})


def rewrite(spec: StudySpec, file: str, **changes: Any) -> None:
    """Change keys of a config file of a study's pipeline."""
    path = Path(str(spec.model.path)) / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
