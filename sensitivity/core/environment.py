"""Where a number was made: device, driver, package versions. Stamped into every result.

    stamp = describe_environment("cpu")     # {"device": "AMD EPYC ...", "torch": "2.15.0", ...}

On CUDA also: CUDA's version, the compute capability, the driver (asked of `nvidia-smi`, "unknown"
where it does not answer) and the GPU's memory. Nothing that names a person, a host or a path is
recorded.
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
    """Names and versions of what decides a result on `device` ("cpu", "cuda", "cuda:1").

    Packages that are missing say so.
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
    """The NVIDIA driver's version, one for all GPUs of a machine; "unknown" where `nvidia-smi` is
    missing, fails or hangs.
    """
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        asked = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=DRIVER_TIMEOUT_S,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return "unknown"
    first = (asked.stdout.splitlines() or [""])[0].strip()
    return first if re.fullmatch(r"\d+(?:\.\d+)+", first) else "unknown"


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        name = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name
        )
    return f"{name}, {os.cpu_count()} cores"
