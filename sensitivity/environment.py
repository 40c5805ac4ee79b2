"""Where a number was made: device, driver, package versions. Stamped into every result.

    stamp = describe_environment("cpu")     # {"device": "AMD EPYC ...", "torch": "2.15.0", ...}

Nothing that names a person, a host or a path is recorded.
"""

import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = ("sensitivity", "torch", "torchao", "diffusers", "transformers", "lpips", "optuna", "numpy")


def describe_environment(device: str) -> dict[str, str]:
    """Names and versions of what decides a result on `device` ("cpu", "cuda", "cuda:1"). Packages that are missing say so."""
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
    return stamp


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"
