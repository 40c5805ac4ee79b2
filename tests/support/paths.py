"""Where things lie in the repository."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
TRAINING = ROOT / "studies" / "tiny-flux" / "training"
TRUNK = ROOT / "studies" / "tiny-flux" / "perceptual" / "trunk.safetensors"
PUBLISHED_LISTS = ROOT / "recipes" / "published"
