"""How different do two pictures look to a trained network? LPIPS. The only module that imports
lpips.

Source: Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
through the `lpips` package's own forward.

Nets. `alex`, `vgg` and `squeeze` are the published ones: an ImageNet trunk, and weights learned
from people's judgements. `tiny` is an AlexNet trunk that was trained on tiny-flux's scenes, without
learned channel weights (`lpips=False`: unit-normalised features, squared difference summed over
channels, averaged over places, summed over the five layers).

Conventions. Pictures go in at their native resolution. Values of different nets, resolutions or
prompt sets are not comparable.

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
from safetensors.torch import load
from torch import Tensor

from sensitivity.core.outside_files import TRUNK, read_bytes
from sensitivity.core.words import printable
from sensitivity.errors import MissingWeightsError, UserError
from sensitivity.fidelity.distance import Distance
from sensitivity.models.media import pictures_at_once
from sensitivity.spec.study_spec import StudySpec

TRUNK_FILES = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
"""Checkpoint files of the published trunks, as torchvision names them."""
TRUNK_MODELS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
"""torchvision's models of the published trunks."""
SMALLEST = {"tiny": 31, "alex": 31, "vgg": 16, "squeeze": 17}
"""Smallest height and width in pixels. Of smaller pictures the net's last pooling leaves nothing.
"""


class LpipsDistance(Distance):
    """LPIPS with one of four nets.

    Args:
        net: "tiny", "alex", "vgg" or "squeeze".
        weights: For "tiny", the safetensors file of the trunk (keys `0.weight`, `0.bias`, ... as in
            torchvision's `alexnet().features`). Unused for the others.
        device: Where it runs.

    Raises:
        MissingWeightsError: The trunk's weights are not on this machine and cannot be downloaded;
            the message says how to get them.
    """

    def __init__(self, net: str, *, weights: Path | None, device: str) -> None:
        self.name, self.device = net, device
        if net == "tiny":
            assert weights is not None  # `FidelitySection` demands them
            self.net, digest = _tiny(weights)
        else:
            self.net, digest = _published(net), TRUNK_FILES[net]
        self.net = self.net.to(device).requires_grad_(False).eval()
        self.key = {"net": net, "trunk": digest}

    @torch.no_grad()
    def __call__(self, pictures: Tensor, references: Tensor) -> Tensor:
        """See `Distance`.

        Raises:
            UserError: The pictures are smaller than the net's pooling takes.
        """
        height, width = pictures.shape[-2:]
        if min(height, width) < SMALLEST[self.name]:
            raise UserError(
                f"The pictures have {height} x {width} pixels; expected at least"
                f" {SMALLEST[self.name]} x {SMALLEST[self.name]} for the LPIPS net {self.name!r}."
                " Generate larger ones: set `height` and `width`."
            )
        parts, step = [], pictures_at_once(*pictures.shape[-2:])
        for start in range(0, len(pictures), step):
            chunk = slice(start, start + step)
            # Convolutions depend on the memory layout, so it is always the same.
            pair = (x[chunk].contiguous().to(self.device) for x in (pictures, references))
            parts.append(self.net(*pair).flatten().float().cpu())
        return torch.cat(parts)


def study_distance(spec: StudySpec, *, device: str) -> LpipsDistance:
    """The perceptual distance that a study asks for.

    Raises:
        MissingWeightsError: Its weights are not on this machine.
    """
    try:
        return LpipsDistance(spec.fidelity.net, weights=spec.fidelity.weights, device=device)
    except MissingWeightsError as error:
        if spec.model.random_seed is None:
            raise
        raise MissingWeightsError(
            f"{error} A run with random weights can do with `net` tiny, which comes with the"
            " package."
        ) from None


def _tiny(path: Path) -> tuple[lpips.LPIPS, str]:
    with warnings.catch_warnings():
        # lpips causes torchvision's warning of a renamed argument.
        warnings.simplefilter("ignore")
        with torch.device("meta"):  # 61 million random numbers, none of which is used, take 0.4 s
            net = lpips.LPIPS(
                net="alex", pretrained=False, pnet_rand=True, lpips=False, verbose=False
            )
    net.scaling_layer = lpips.ScalingLayer()
    try:
        data = read_bytes(path, TRUNK)
        tensors = {name: value.float().clone() for name, value in load(data).items()}
        net.net.load_state_dict(
            {
                f"slice{i}.{name}": value
                for i, part in enumerate(_slices(net), 1)
                for name, value in tensors.items()
                if name.split(".")[0] in part
            },
            assign=True,
        )
    # RuntimeError: keys or shapes that are not AlexNet's.
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        reason = printable(str(error))[:200]
        raise MissingWeightsError(
            f"The LPIPS trunk {path.name} cannot be read ({reason}); expected the safetensors file"
            " that net 'tiny' needs. Restore it from the package, or train it again with"
            " studies/tiny-flux/training/train.py."
        ) from None
    return net, hashlib.sha256(data).hexdigest()


def _slices(net: lpips.LPIPS) -> list[set[str]]:
    """The numbers of the layers in each of the trunk's five slices."""
    return [
        {name for name, _ in getattr(net.net, f"slice{i}").named_children()} for i in range(1, 6)
    ]


def _published(net: str) -> lpips.LPIPS:
    try:
        # torch.hub prints to stdout that it downloads, and stdout is for results.
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            return lpips.LPIPS(net=net, verbose=False)
    # RuntimeError, EOFError, UnpicklingError: a damaged file.
    except (
        URLError,
        HTTPException,
        OSError,
        RuntimeError,
        EOFError,
        UnpicklingError,
    ) as error:
        reason = f"{type(error).__name__}: {printable(str(error))[:200]}"
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise MissingWeightsError(
            f"LPIPS net {net!r} needs the trunk weights {TRUNK_FILES[net]}, which are neither whole"
            f" in {folder} nor downloadable from here ({reason});"
            ' expected one of the two. On a machine with a network run `python -c "import'
            f" torchvision; torchvision.models.{TRUNK_MODELS[net]}(weights='DEFAULT')\"` and copy"
            ' the file into $TORCH_HOME/hub/checkpoints, or use a study with net = "tiny".'
        ) from None
