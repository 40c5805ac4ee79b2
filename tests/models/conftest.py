"""What tests of loading share: the study of the random FluxPipeline, and forms in which diffusers
saves it.
"""

from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline

from sensitivity.spec.loading import load_spec
from sensitivity.spec.study_spec import StudySpec


@pytest.fixture
def spec(tiny_study: Path) -> StudySpec:
    """The random FluxPipeline, two steps, three prompts and three held-out ones."""
    return load_spec(tiny_study)


@pytest.fixture(scope="module")
def saved(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same pipeline as plain diffusers saves it: in shards, and as the variant fp16."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("sharded", "variant")}
    pipe = FluxPipeline.from_pretrained(tiny_folder, torch_dtype=torch.bfloat16)
    pipe.save_pretrained(folders["sharded"], max_shard_size="400KB")
    pipe.save_pretrained(folders["variant"], variant="fp16")
    return folders
