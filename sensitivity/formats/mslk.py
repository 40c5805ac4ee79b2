"""Is mslk there, torchao's fast NVFP4 quantizer, and which release does this torch need?

NVFP4 runs natively without it, but quantizes slowly unless compiled. Whether it can be used is
found out by looking for its quantizer.

A release for another torch cannot load its library, and then torchao cannot be imported either
(seen: mslk-cuda 1.1.0 beside torch 2.15). The quantizer is a Triton kernel and needs no library:
with MSLK_PYTHON_ONLY=1 in the environment any release can be imported.

    advice()    # "... run `pip install mslk-cuda==1.1.0`", or None where mslk is there

Each release is for one release of torch (`RELEASES`, from the table in its README). Releases for
torch 2.10 and 2.11 are on PyPI as `mslk-cuda`, which the extra `blackwell` installs. Later ones are
`mslk` on the index of PyTorch, which no extra can name. `mslk` on PyPI is an empty placeholder.

What it does not do: run a kernel.
"""

import importlib.metadata
import importlib.util
import sys

import torch

RELEASES = {(2, 10): "1.0.0", (2, 11): "1.1.0", (2, 12): "1.2.0", (2, 13): "1.3.0"}
"""{release of torch: the release of mslk for it}."""
_ON_PYPI = {(2, 10), (2, 11)}
_INDEX = "https://download.pytorch.org/whl/"
_CUDA = ("13.0", "13.2")
"""Versions of CUDA that the index has mslk for."""
_DISTRIBUTIONS = ("mslk", "mslk-cuda")
_PLACEHOLDER = "0.0.0"


def is_available() -> bool:
    """Whether mslk's NVFP4 quantizer can be imported.

    The name alone says nothing: `mslk` 0.0.0 on PyPI is an empty placeholder.
    """
    try:
        return importlib.util.find_spec("mslk.quantize.triton.fp4_quantize") is not None
    except (ImportError, OSError, ValueError, RuntimeError, AttributeError):
        return False


def version() -> str | None:
    """The installed version; None where mslk is not available."""
    return _installed() if is_available() else None


def advice() -> str | None:
    """What NVFP4 loses without mslk, and the command that installs it; None where it is there."""
    if is_available():
        return None
    installed = _installed()
    if installed == _PLACEHOLDER:
        found = "mslk is PyPI's empty placeholder (0.0.0)"
    elif installed is not None:
        found = f"mslk {installed} is installed, and its NVFP4 quantizer cannot be imported"
    else:
        found = "mslk is not installed (PyPI's `mslk` is an empty placeholder)"
    return f"{found}: NVFP4 quantizes slowly unless compiled; {install_command()}"


def install_command() -> str:
    """What to run for the mslk of this torch, in words with the commands in backticks."""
    if not sys.platform.startswith("linux"):
        return "there are no wheels for this system, only for Linux"
    release = _torch_release()
    if release in _ON_PYPI:
        return f"run `pip install mslk-cuda=={RELEASES[release]}`"
    cuda = torch.version.cuda or _CUDA[0]
    tag = cuda if cuda in _CUDA else _CUDA[0]
    pin = f"=={RELEASES[release]}" if release in RELEASES else ""
    command = f"run `pip install mslk{pin} --index-url {_INDEX}cu{tag.replace('.', '')}`"
    if release in RELEASES:
        return command
    return (
        f"{command} and set MSLK_PYTHON_ONLY=1 (no release for torch {release[0]}.{release[1]} is"
        f" known here, and the library of another cannot be loaded; the newest known is for"
        f" {'.'.join(map(str, max(RELEASES)))})"
    )


def _torch_release() -> tuple[int, int]:
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    return major, minor


def _installed() -> str | None:
    """The version of the distribution that has mslk; None where there is none."""
    for name in _DISTRIBUTIONS[::-1]:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
