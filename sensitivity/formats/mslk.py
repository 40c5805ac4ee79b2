"""Is mslk there, the package with torchao's fast NVFP4 quantizer?

NVFP4 runs natively without it, but quantizes slowly unless compiled. Nothing here imports mslk.
"""

import importlib.metadata
import importlib.util

import torch


def is_available() -> bool:
    """Whether mslk's NVFP4 quantizer can be imported.

    The name alone says nothing: `mslk` 0.0.0 on PyPI is an empty placeholder.
    """
    try:
        return importlib.util.find_spec("mslk.quantize.triton.fp4_quantize") is not None
    except (ImportError, OSError, ValueError):
        return False


def version() -> str | None:
    """The installed version; None where mslk is not available."""
    if not is_available():
        return None
    versions = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    return versions.get("mslk") or versions.get("mslk-cuda")


def advice() -> str | None:
    """What NVFP4 loses without mslk, and the command that installs it; None where it is there."""
    if is_available():
        return None
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    index = "https://download.pytorch.org/whl/cu" + (torch.version.cuda or "13.0").replace(".", "")
    command = (
        f"pip install mslk --index-url {index}"
        if (major, minor) >= (2, 12)
        else "pip install mslk-cuda"
    )
    return (
        "mslk is not installed (PyPI's `mslk` is an empty placeholder): NVFP4 quantizes slowly"
        f" unless compiled; run `{command}`"
    )
