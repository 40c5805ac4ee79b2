"""Studies that come with the package, with two layers in each stack of a denoiser's blocks.

Rows, calls and sizes are those of the model; only the number of its blocks is not.
"""

import json
import shutil
from pathlib import Path

from sensitivity.spec.study_spec import StudySpec

LAYERS = 2
_DEPTHS = ("num_layers", "num_single_layers", "n_layers")


def shallow(spec: StudySpec, folder: Path) -> StudySpec:
    """The study of a copy of its config files in `folder`, whose denoisers have `LAYERS` layers."""
    assert spec.model.config is not None
    shutil.copytree(spec.model.config, folder)
    for name in spec.model.denoisers:
        path = folder / name / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {key: LAYERS for key in _DEPTHS if key in config}))
    model = spec.model.model_copy(update={"config": folder})
    return spec.model_copy(update={"model": model})
