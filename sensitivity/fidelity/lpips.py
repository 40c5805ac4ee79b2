"""LPIPS: how different do two pictures look to a trained trunk? The one importer of lpips.

Source: Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
through the `lpips` package's own forward. Nets `alex`, `vgg` and `squeeze` are the published ones
(ImageNet trunk, weights learned from people's judgements). Net `tiny` is an AlexNet trunk that was
trained on `tiny-flux`'s scenes, without learned channel weights (`lpips=False`: unit-normalised
features, squared difference summed over channels, averaged over places, summed over the five
layers); its values are on a scale of their own and comparable to no other net's.

Pictures go in at their native resolution. Values of different nets, resolutions or prompt sets are
not comparable.

    distance = LpipsDistance("tiny", weights=Path("trunk.safetensors"), device="cpu")
    distance(pictures, references)          # (B,)
"""

import contextlib
import hashlib
import sys
import warnings
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from urllib.error import URLError

import lpips
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sensitivity.errors import MissingWeightsError, UserError
from sensitivity.fidelity.score import Distance
from sensitivity.models.media import pictures_at_once

TRUNK_FILES = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
SMALLEST = {"tiny": 31, "alex": 31, "vgg": 16, "squeeze": 17}
"""Height and width in pixels below which nothing is left of a picture after the net's last pooling.
"""
TRUNK_MODELS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


class LpipsDistance(Distance):
    """LPIPS with one of four nets.

    Args:
        net: "tiny", "alex", "vgg" or "squeeze".
        weights: for "tiny", the safetensors file of the trunk (keys `0.weight`, `0.bias`, ... as in
            torchvision's `alexnet().features`).
        device: where it runs.

    Raises:
        MissingWeightsError: the trunk's weights are not on this machine and cannot be downloaded;
            the message says how to get them.
    """

    def __init__(self, net: str, *, weights: Path | None, device: str) -> None:
        self.name, self.device = net, device
        if net == "tiny":
            assert weights is not None  # spec.FidelitySection
            self.net, digest = _tiny(weights)
        else:
            self.net, digest = _published(net), TRUNK_FILES[net]
        self.net = self.net.to(device).requires_grad_(False).eval()
        self.key = {"net": net, "trunk": digest}

    @torch.no_grad()
    def __call__(self, pictures: Tensor, references: Tensor) -> Tensor:
        """See `Distance`.

        Raises UserError for pictures that are smaller than the net's own pooling.
        """
        height, width = pictures.shape[-2:]
        if min(height, width) < SMALLEST[self.name]:
            raise UserError(
                f"the pictures have {height} x {width} pixels; LPIPS net {self.name!r} takes"
                f" {SMALLEST[self.name]} x {SMALLEST[self.name]} and larger ones: draw larger ones"
                " (height and width in `[settings]` of a study TOML, or --set)"
            )
        parts, step = [], pictures_at_once(*pictures.shape[-2:])
        for start in range(0, len(pictures), step):
            chunk = slice(start, start + step)
            pair = (
                x[chunk].contiguous().to(self.device) for x in (pictures, references)
            )  # convolutions depend on the memory layout
            parts.append(self.net(*pair).flatten().float().cpu())
        return torch.cat(parts)


def _tiny(path: Path) -> tuple[lpips.LPIPS, str]:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # torchvision's notice of a renamed argument, from inside lpips
        net = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, lpips=False, verbose=False)
    try:
        tensors = {name: value.float() for name, value in load_file(path).items()}
        net.net.load_state_dict(
            {
                f"slice{i}.{name}": value
                for i, part in enumerate(_slices(net), 1)
                for name, value in tensors.items()
                if name.split(".")[0] in part
            }
        )
    except (
        OSError,
        SafetensorError,
        RuntimeError,
    ) as error:  # RuntimeError: other keys or shapes than AlexNet's
        reason = " ".join(str(error).split())[:200]
        raise MissingWeightsError(
            f"the LPIPS trunk {path.name} cannot be read ({reason}); net 'tiny' needs it: restore"
            " the file from the package, or train it again with"
            " studies/tiny-flux/training/train.py"
        ) from None
    return net, hashlib.sha256(path.read_bytes()).hexdigest()


def _slices(net: lpips.LPIPS) -> list[set[str]]:
    """The layer numbers in each of the trunk's five slices."""
    return [
        {name for name, _ in getattr(net.net, f"slice{i}").named_children()} for i in range(1, 6)
    ]


def _published(net: str) -> lpips.LPIPS:
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(sys.stderr),
        ):  # torch.hub says on stdout that it downloads
            warnings.simplefilter("ignore")
            return lpips.LPIPS(net=net, verbose=False)
    except (
        URLError,
        HTTPException,
        OSError,
        RuntimeError,
        EOFError,
        UnpicklingError,
    ) as error:  # the last three: a damaged file
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise MissingWeightsError(
            f"LPIPS net {net!r} needs the trunk weights {TRUNK_FILES[net]}, which are neither whole"
            f" in {folder} nor downloadable from here "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); on a "
            'machine with a network run `python -c "import torchvision;'
            f" torchvision.models.{TRUNK_MODELS[net]}(weights='DEFAULT')\"` and copy the "
            f'file into $TORCH_HOME/hub/checkpoints, or use a study with net = "tiny"'
        ) from None
