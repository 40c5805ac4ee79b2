"""Where was a number made? The device, the driver and the versions of packages, kept with every
result.

    stamp = describe_environment("cpu")     # {"device": "AMD EPYC ...", "torch": "2.15.0", ...}

On CUDA the stamp also has CUDA's version, the compute capability, the driver's version and the
GPU's memory. It never has the name of a person or a host, or a path.
"""

import importlib.metadata
import os
import platform
import re
import subprocess
from functools import lru_cache
from pathlib import Path

PACKAGES = (
    "sensitivity",
    "torch",
    "torchao",
    "diffusers",
    "transformers",
    "lpips",
    "optuna",
    "numpy",
)
DRIVER_TIMEOUT_S = 10.0


def describe_environment(device: str) -> dict[str, str]:
    """The names and versions that a result on `device` ("cpu", "cuda", "cuda:1") depends on.

    The version of a package that is missing is "not installed". All values are text, so that the
    stamp is the same after a round trip through JSON.
    """
    stamp = {
        "device_type": device.split(":")[0],
        "device": _device_name(device),
        "python": platform.python_version(),
        "system": platform.system(),
    }
    for package in PACKAGES:
        try:
            stamp[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            stamp[package] = "not installed"
    if device.startswith("cuda"):
        import torch

        stamp["cuda"] = str(torch.version.cuda)
        stamp["capability"] = ".".join(map(str, torch.cuda.get_device_capability(device)))
        stamp["driver"] = driver_version()
        stamp["gpu_memory_bytes"] = str(torch.cuda.get_device_properties(device).total_memory)
    return stamp


@lru_cache(maxsize=1)
def driver_version() -> str:
    """The version of the NVIDIA driver, which all GPUs of a machine share.

    "unknown" where `nvidia-smi` is missing, fails or does not answer within `DRIVER_TIMEOUT_S`.
    """
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=DRIVER_TIMEOUT_S,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return "unknown"
    first = (answer.stdout.splitlines() or [""])[0].strip()
    return first if re.fullmatch(r"\d+(?:\.\d+)+", first) else "unknown"


def _device_name(device: str) -> str:
    """A GPU's name, or the CPU's model and how many cores it has."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        name = next(models, name)
    return f"{name}, {os.cpu_count()} cores"
