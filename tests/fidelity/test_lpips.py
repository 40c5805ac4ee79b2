"""Distances follow LPIPS's definition, order distortions, and say if their weights are missing."""

import hashlib
import io
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d
from torchvision.models import squeezenet1_1
from torchvision.transforms.functional import gaussian_blur

from sensitivity.errors import MissingWeightsError
from sensitivity.fidelity.lpips import LpipsDistance

from support.media import random_pictures
from support.paths import TRAINING, TRUNK


def random_trunk(path: Path) -> Path:
    """A file with the shapes of AlexNet's convolutions and random numbers, in bf16."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "0": (64, 3, 11, 11),
        "3": (192, 64, 5, 5),
        "6": (384, 192, 3, 3),
        "8": (256, 384, 3, 3),
        "10": (256, 256, 3, 3),
    }
    tensors = {}
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = (
            torch.randn(shape, generator=generator) * (2 / np.prod(shape[1:])) ** 0.5
        ).bfloat16()
        tensors[f"{name}.bias"] = (torch.randn(shape[0], generator=generator) * 0.1).bfloat16()
    save_file(tensors, path)
    return path


def lpips_by_definition(trunk: Path, a: Tensor, b: Tensor) -> np.ndarray:
    """Equation 1 of Zhang et al. 2018 with w = 1, in float64: scaled input, the five ReLU outputs
    of AlexNet, unit-normalised over channels.
    """
    w = {name: value.double() for name, value in load_file(trunk).items()}
    plan = {
        "0": (4, 2, False),
        "3": (1, 2, True),
        "6": (1, 1, True),
        "8": (1, 1, False),
        "10": (1, 1, False),
    }  # stride, padding, pooled before
    total = np.zeros(len(a))
    x, y = (
        (p.double() - torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        / torch.tensor([0.458, 0.448, 0.450])[:, None, None]
        for p in (a, b)
    )
    for name, (stride, padding, pooled) in plan.items():
        x, y = (max_pool2d(v, 3, 2) if pooled else v for v in (x, y))
        x, y = (
            conv2d(v, w[f"{name}.weight"], w[f"{name}.bias"], stride=stride, padding=padding).clamp(
                min=0
            )
            for v in (x, y)
        )
        u, v = (f.numpy() / np.sqrt((f.numpy() ** 2).sum(1, keepdims=True) + 1e-30) for f in (x, y))
        total += ((u - v) ** 2).sum(1).mean((1, 2))
    return total


def test_tiny_is_lpips_by_definition(tmp_path: Path) -> None:
    """On random pictures and a random trunk the distance is the paper's formula; batches of any
    size give the same.
    """
    trunk = random_trunk(tmp_path / "trunk.safetensors")
    a, b = random_pictures(19, seed=1), random_pictures(19, seed=2)
    found = LpipsDistance("tiny", weights=trunk, device="cpu")(a, b)
    assert found.shape == (19,)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), lpips_by_definition(trunk, a, b), rtol=1e-4)


def test_shipped_trunk_is_lpips_by_definition(tiny: LpipsDistance) -> None:
    """The trunk that ships has the keys and shapes of AlexNet's convolutions, and gives the
    formula's value, also for pictures that are no square.
    """
    a, b = random_pictures(2, 128, seed=1)[..., :96], random_pictures(2, 128, seed=2)[..., :96]
    np.testing.assert_allclose(tiny(a, b).numpy(), lpips_by_definition(TRUNK, a, b), rtol=1e-4)


def test_a_distance_is_zero_for_equal_pictures_and_symmetric(tiny: LpipsDistance) -> None:
    """d(a, a) is exactly 0, d(a, b) = d(b, a) > 0."""
    a, b = random_pictures(3, seed=1), random_pictures(3, seed=2)
    assert tiny(a, a.clone()).tolist() == [0.0] * 3
    torch.testing.assert_close(tiny(a, b), tiny(b, a))
    assert bool((tiny(a, b) > 0).all())


@pytest.fixture(scope="session")
def scenes() -> tuple[Tensor, Callable[[float], Tensor]]:
    """Six scenes of one or more objects, and the same scenes with the first object moved
    to the right.
    """
    sys.path.insert(0, str(TRAINING))
    try:
        from scenes import draw, sample_scenes  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(TRAINING))
    sampled = sample_scenes(6, torch.Generator().manual_seed(7))

    def moved(pixels: float) -> Tensor:
        return draw(sampled, torch.Generator().manual_seed(8), shift=pixels)

    return moved(0.0), moved


def jpeg(pictures: Tensor, quality: float) -> Tensor:
    decoded = []
    for picture in pictures:
        data = io.BytesIO()
        Image.fromarray(((picture.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()).save(
            data, "JPEG", quality=int(quality)
        )
        decoded.append(torch.from_numpy(np.array(Image.open(data))).permute(2, 0, 1) / 127.5 - 1)
    return torch.stack(decoded)


def blurred(pictures: Tensor, sigma: float) -> Tensor:
    return gaussian_blur(pictures, [25, 25], [sigma, sigma])


def noisy(pictures: Tensor, sd: float) -> Tensor:
    return (
        pictures + sd * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(9))
    ).clamp(-1, 1)


@pytest.mark.parametrize(
    ("distortion", "strengths"),
    [
        ("jpeg", (90, 70, 50, 30, 15, 5)),
        ("blur", (0.5, 0.8, 1.2, 2.0, 3.0, 5.0)),
        ("noise", (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)),
        ("shift", (1, 2, 4, 8, 16, 32)),
    ],
)
def test_tiny_orders_distortions(
    tiny: LpipsDistance,
    scenes: tuple[Tensor, Callable[[float], Tensor]],
    distortion: str,
    strengths: tuple[float, ...],
) -> None:
    """The mean distance over six scenes grows at every step of JPEG compression, blur, noise
    and the shift of one object, from 0.
    """
    clean, moved = scenes
    distort = {
        "jpeg": lambda s: jpeg(clean, s),
        "blur": lambda s: blurred(clean, s),
        "noise": lambda s: noisy(clean, s),
        "shift": moved,
    }[distortion]
    means = [float(tiny(clean, clean).mean())] + [
        float(tiny(distort(strength), clean).mean()) for strength in strengths
    ]
    assert means[0] == 0
    assert all(weaker < stronger for weaker, stronger in itertools.pairwise(means)), means


def test_key_is_the_trunk_itself(tmp_path: Path) -> None:
    """What decides the distance is in its key: the hash of the trunk file, not its name."""
    trunk = random_trunk(tmp_path / "trunk.safetensors")
    key = LpipsDistance("tiny", weights=trunk, device="cpu").key
    assert key == {"net": "tiny", "trunk": hashlib.sha256(trunk.read_bytes()).hexdigest()}
    assert LpipsDistance("tiny", weights=TRUNK, device="cpu").key != key


@pytest.mark.parametrize(
    "damage", ["missing", "text", "truncated", "other keys", "other shapes", "a folder"]
)
def test_a_tiny_trunk_that_is_no_trunk_is_refused(tmp_path: Path, damage: str) -> None:
    """Whatever is wrong with the trunk's file, the message names it and says how to get it back."""
    path = tmp_path / "trunk.safetensors"
    if damage == "text":
        path.write_text("no tensors")
    elif damage == "truncated":
        path.write_bytes(TRUNK.read_bytes()[:100_000])
    elif damage == "other keys":
        save_file({f"features.{name}": value for name, value in load_file(TRUNK).items()}, path)
    elif damage == "other shapes":
        save_file({name: value[:3].clone() for name, value in load_file(TRUNK).items()}, path)
    elif damage == "a folder":
        path.mkdir()
    with pytest.raises(MissingWeightsError, match=r"trunk\.safetensors cannot be read .*train\.py"):
        LpipsDistance("tiny", weights=path, device="cpu")


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty TORCH_HOME on a machine without a network; its folder of checkpoints."""

    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("net", "model"), [("alex", "alexnet"), ("vgg", "vgg16"), ("squeeze", "squeezenet1_1")]
)
def test_missing_published_weights_say_how_to_get_them(
    torch_home: Path, net: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without weights and network the message has the file, the folder where it belongs and the
    command that gets it; stdout stays free for JSON.
    """
    with pytest.raises(MissingWeightsError, match=rf"{model}\(weights='DEFAULT'\)") as caught:
        LpipsDistance(net, weights=None, device="cpu")
    assert str(torch_home) in str(caught.value)
    assert 'net = "tiny"' in str(caught.value)
    said = capsys.readouterr()
    assert said.out == ""
    assert "Downloading" in said.err


def test_damaged_published_weights_say_so(torch_home: Path) -> None:
    """A checkpoint that was cut off while it was copied is the user's to mend, not a traceback."""
    for content in (b"", b"PK\x03\x04 cut off", b"text"):
        (torch_home / "squeezenet1_1-b8a52dc0.pth").write_bytes(content)
        with pytest.raises(MissingWeightsError, match=r"squeezenet1_1-b8a52dc0\.pth"):
            LpipsDistance("squeeze", weights=None, device="cpu")


def test_published_weights_are_found_in_torch_home(torch_home: Path) -> None:
    """A checkpoint in TORCH_HOME is enough: no network is asked, and equal pictures are at distance
    0.
    """
    torch.save(squeezenet1_1(weights=None).state_dict(), torch_home / "squeezenet1_1-b8a52dc0.pth")
    distance = LpipsDistance("squeeze", weights=None, device="cpu")
    a, b = random_pictures(2, seed=1), random_pictures(2, seed=2)
    assert distance.name == "squeeze"
    assert distance.key == {"net": "squeeze", "trunk": "squeezenet1_1-b8a52dc0.pth"}
    assert distance(a, a).tolist() == [0.0, 0.0]
    assert bool((distance(a, b) != 0).all())
