"""What identifies a pipeline's weights?

`hash_weights` for weights in files, `hash_random_weights` for those made from a seed. Cached
references and stored trials belong to one such hash, so equal weights must keep theirs.

    hash_weights(spec, folder)          # 64 hexadecimal digits of sha256
    hash_random_weights(spec, seed=0)
"""

import hashlib
from pathlib import Path

from sensitivity.models.config_files import config_folder
from sensitivity.spec.study_spec import StudySpec

WHOLE_FILE_BYTES = 64 * 2**20
SAMPLED_CHUNKS, CHUNK_BYTES = 64, 2**20


def hash_weights(spec: StudySpec, folder: Path) -> str:
    """sha256 of every weight and config file in a folder.

    Files up to 64 MiB are read whole; of larger ones, their size and 64 evenly spread MiB. For a
    Hub id the commit is hashed instead.

    Args:
        spec: the study.
        folder: the pipeline's folder; for a Hub id the snapshot, which is named after its commit.
    """
    digest = hashlib.sha256()
    if spec.model.variant is not None:
        digest.update(f"variant {spec.model.variant}:".encode())
    if spec.model.hub is not None:
        digest.update(f"{spec.model.hub}@{folder.name}".encode())
        return digest.hexdigest()
    for path in sorted(
        p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json") and p.is_file()
    ):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}:{size}".encode())
        with path.open("rb") as file:
            if size <= WHOLE_FILE_BYTES:
                digest.update(file.read())
                continue
            for i in range(SAMPLED_CHUNKS):
                file.seek((size - CHUNK_BYTES) * i // (SAMPLED_CHUNKS - 1))
                digest.update(file.read(CHUNK_BYTES))
    return digest.hexdigest()


def hash_random_weights(spec: StudySpec, seed: int) -> str:
    """sha256 of the seed and every config file.

    Raises:
        PipelineError: no config files can be had.
    """
    folder = config_folder(spec)
    digest = hashlib.sha256(f"random weights, seed {seed}\n".encode())
    for path in sorted(path for path in folder.rglob("*.json") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
