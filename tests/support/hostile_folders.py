"""Pipeline folders that would run code if anybody opened their pickles or imported their Python.

    plant(folder / "scheduler", library="diffusers", mark=tmp_path / "ran")
    with opened_files(folder) as opened:
        ...
    assert not opened

Each pickle touches the file `mark` when it is opened, and each Python file when it is imported.
"""

import json
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PICKLES = (
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
    "adapter_model.bin",
    "model.ckpt",
    "model.pt",
    "vocab.pkl",
    "speaker_embeddings_path.npy",
)
"""Names under which libraries look for weights, vocabularies and tables."""
CONFIGS = (
    "config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "scheduler_config.json",
)
CHOOSERS = (
    "AutoConfig",
    "AutoModel",
    "AutoTokenizer",
    "AutoProcessor",
    "AutoImageProcessor",
    "AutoFeatureExtractor",
)

_watched: list[tuple[str, list[str]]] = []
_hooked: list[bool] = []


class _Touch:
    """Its pickle runs `touch` when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.mark}'",)


def plant(folder: Path, *, library: str, mark: Path) -> None:
    """Put pickles, Python, and configs that name it into a component's folder."""
    folder.mkdir(exist_ok=True)
    for name in PICKLES:
        (folder / name).write_bytes(pickle.dumps(_Touch(mark)))
    code = f"import os\nos.system(\"touch '{mark}'\")\n"
    for name in (f"{library}.py", "evil.py", "pipeline.py"):
        (folder / name).write_text(code, encoding="utf-8")
    for name in CONFIGS:
        path = folder / name
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        named = {"auto_map": dict.fromkeys(CHOOSERS, "evil.Evil")}
        path.write_text(json.dumps({"model_type": "evil"} | kept | named), encoding="utf-8")


def name_component(folder: Path, slot: str, library: str, class_name: str) -> None:
    """Let `model_index.json` name a class for a component."""
    path = folder / "model_index.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(index | {slot: [library, class_name]}), encoding="utf-8")


@contextmanager
def opened_files(folder: Path) -> Iterator[list[str]]:
    """The pickles and Python files below a folder that are opened while the context is open.

    Python reports each opened file to its audit hooks, whoever opens it. A hook cannot be removed,
    so there is one for the process.
    """
    if not _hooked:
        sys.addaudithook(_note)
        _hooked.append(True)
    opened: list[str] = []
    _watched.append((str(folder), opened))
    try:
        yield opened
    finally:
        _watched.pop()


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _watched and isinstance(arguments[0], str):
        folder, opened = _watched[-1]
        name = arguments[0]
        if name.startswith(folder) and name.endswith((*_SUFFIXES, ".py")):
            opened.append(name)


_SUFFIXES = tuple({Path(name).suffix for name in PICKLES})
