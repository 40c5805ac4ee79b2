"""Captioned scenes: what `tiny-flux` was taught to draw.

A scene is one to three objects on a background. Each object has a shape, a colour, a size, a
texture and a place; the background has a colour and a texture; the caption says all of them. What
the caption does not say (exact place, exact size, rotation, phase of a texture, shading) is drawn
at random, so one caption has many pictures.

    generator = torch.Generator().manual_seed(0)
    scenes = sample_scenes(4, generator)
    pictures = draw(scenes, generator)          # (4, 3, 128, 128), values in [-1, 1]
    print(captions(scenes)[0])      # a large striped red circle top left on a plain grey background

Shapes are signed distance functions (formulas: Inigo Quilez, "2D distance functions"), so that
drawing is a few tensor operations on any device. One scene in fifty is **held out** by a hash of
its content (`held_out`); training never sees those, and gates and studies use only those.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

PIXELS = 128
PLACES = ("top left", "top right", "bottom left", "bottom right", "in the centre")
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLOURS = {
    "red": (215, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (245, 220, 50),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "purple": (140, 50, 170),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")
GROUNDS = {
    "grey": (128, 128, 128),
    "sky": (135, 190, 230),
    "pink": (240, 180, 200),
    "brown": (110, 80, 55),
    "mint": (165, 220, 190),
    "navy": (35, 45, 90),
}
GROUND_TEXTURES = ("plain", "striped", "checked", "graded")
MAX_OBJECTS = 3
HELD_OUT_ONE_IN = 50

_CENTRES = torch.tensor(
    [[32.0, 32.0], [96.0, 32.0], [32.0, 96.0], [96.0, 96.0], [64.0, 64.0]]
)  # (x, y) of each place, pixels
_RADII = torch.tensor([[15.0, 18.0], [23.0, 27.0]])  # (low, high) of each size, pixels


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """A batch of B scenes; every field holds indices into the tuples above.

    Objects beyond `count` are ignored.
    """

    count: Tensor  # (B,) 1 .. MAX_OBJECTS
    place: Tensor  # (B, MAX_OBJECTS)
    shape: Tensor  # (B, MAX_OBJECTS)
    colour: Tensor  # (B, MAX_OBJECTS)
    size: Tensor  # (B, MAX_OBJECTS)
    texture: Tensor  # (B, MAX_OBJECTS)
    ground: Tensor  # (B,)
    ground_texture: Tensor  # (B,)

    def __len__(self) -> int:
        return len(self.count)

    def __getitem__(self, index: Tensor | slice) -> "Scenes":
        return Scenes(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device: torch.device | str) -> "Scenes":
        return Scenes(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def present(self) -> Tensor:
        """(B, MAX_OBJECTS) bool: which object slots are used."""
        return torch.arange(MAX_OBJECTS, device=self.count.device) < self.count[:, None]


def sample_scenes(n: int, generator: torch.Generator) -> Scenes:
    """n scenes, on the generator's device.

    A lone object may stand in the centre; several stand in different quadrants.
    """
    device = generator.device

    def pick(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator, device=device)

    count = 1 + pick(MAX_OBJECTS, n)
    place = torch.rand(n, 4, generator=generator, device=device).argsort(1)[:, :MAX_OBJECTS]
    centred = (count == 1) & (pick(5, n) == 0)
    place[:, 0] = torch.where(centred, 4, place[:, 0])
    return Scenes(
        count=count,
        place=place,
        shape=pick(len(SHAPES), n, MAX_OBJECTS),
        colour=pick(len(COLOURS), n, MAX_OBJECTS),
        size=pick(len(SIZES), n, MAX_OBJECTS),
        texture=pick(len(TEXTURES), n, MAX_OBJECTS),
        ground=pick(len(GROUNDS), n),
        ground_texture=pick(len(GROUND_TEXTURES), n),
    )


def held_out(scenes: Scenes) -> Tensor:
    """(B,) bool: scenes that training never sees.

    The order in which a caption names the objects does not matter.
    """
    code = scenes.place
    for part, options in (
        (scenes.shape, SHAPES),
        (scenes.colour, COLOURS),
        (scenes.size, SIZES),
        (scenes.texture, TEXTURES),
    ):
        code = code * len(options) + part
    mixed = (
        (code + 1) * 2654435761
    ) % 1000003  # one number an object, summed: independent of order
    total = (
        (mixed * scenes.present()).sum(1) + scenes.ground * 7919 + scenes.ground_texture * 104729
    )
    return (total * 2246822519 % 4294967291) % HELD_OUT_ONE_IN == 0


def captions(scenes: Scenes) -> list[str]:
    """One caption a scene, at most 28 words, none of them outside `words()`."""
    colours, grounds = tuple(COLOURS), tuple(GROUNDS)
    columns = [getattr(scenes, f.name).tolist() for f in fields(scenes)]
    texts = []
    for count, place, shape, colour, size, texture, ground, ground_texture in zip(
        *columns, strict=True
    ):
        objects = [
            f"a {SIZES[size[i]]} {TEXTURES[texture[i]]} {colours[colour[i]]} {SHAPES[shape[i]]}"
            f" {PLACES[place[i]]}".replace(" plain", "")
            for i in range(count)
        ]
        listed = (
            " and ".join(objects) if count < 3 else f"{objects[0]}, {objects[1]} and {objects[2]}"
        )
        texts.append(
            f"{listed} on a {GROUND_TEXTURES[ground_texture]} {grounds[ground]} background"
        )
    return texts


def words() -> list[str]:
    """Every word and sign that a caption can hold, sorted."""
    phrases = (
        *PLACES,
        *SHAPES,
        *COLOURS,
        *SIZES,
        *TEXTURES[1:],
        *GROUNDS,
        *GROUND_TEXTURES,
        "a",
        "and",
        "on",
        "background",
        ",",
    )
    return sorted({word for phrase in phrases for word in phrase.split()})


def _distance(shape: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance, in units of the object's radius, of the points (x, y) to the outline of each
    shape index; broadcasts.
    """
    radius = torch.hypot(x, y)
    square = torch.maximum(x.abs(), y.abs()) - 0.85
    sides = [x * math.sin(a) - y * math.cos(a) for a in (math.pi, math.pi / 3, -math.pi / 3)]
    triangle = torch.stack(sides).amax(0) - 0.55
    bars = torch.minimum(
        torch.maximum(x.abs() - 1, y.abs() - 0.34), torch.maximum(x.abs() - 0.34, y.abs() - 1)
    )
    every = (radius - 0.95, square, triangle, _star(x, y), (radius - 0.70).abs() - 0.27, bars)
    return torch.where(
        shape == 0, every[0], sum(torch.where(shape == i, d, 0.0) for i, d in enumerate(every) if i)
    )


def _star(x: Tensor, y: Tensor, tip: float = 1.1, waist: float = 0.45) -> Tensor:
    """Signed distance to a five-pointed star (sdStar5 of Quilez), tip up in picture coordinates."""
    px, py = x.abs(), -y
    for kx, ky in ((0.809016994375, -0.587785252292), (-0.809016994375, -0.587785252292)):
        fold = 2 * (kx * px + ky * py).clamp(min=0)
        px, py = px - fold * kx, py - fold * ky
    px, py = px.abs(), py - tip
    bx, by = waist * 0.587785252292, waist * 0.809016994375 - 1.0
    along = ((px * bx + py * by) / (bx * bx + by * by)).clamp(0, tip)
    return torch.hypot(px - bx * along, py - by * along) * torch.sign(py * bx - px * by)


def draw(scenes: Scenes, generator: torch.Generator, *, shift: Tensor | float = 0.0) -> Tensor:
    """Pictures of the scenes: (B, 3, PIXELS, PIXELS) fp32 in [-1, 1], on the generator's device.

    Args:
        scenes: B scenes on the generator's device.
        generator: what the caption leaves open comes from here; the same state draws the same
            pictures.
        shift: pixels by which the first object moves to the right (a distortion of known strength,
            for tests).
    """
    device, b = generator.device, len(scenes)
    axis = torch.arange(PIXELS, device=device) + 0.5
    px, py = axis[None, None, :], axis[None, :, None]  # (1, 1, W), (1, H, 1)
    picture = _ground(scenes, px, py, torch.rand(b, 4, generator=generator, device=device))
    noise = torch.rand(b, MAX_OBJECTS, 6, generator=generator, device=device)
    palette = torch.tensor(list(COLOURS.values()), device=device) / 127.5 - 1
    for i in range(MAX_OBJECTS):
        u = noise[:, i, :, None, None]  # (B, 6, 1, 1)
        low, high = _RADII.to(device)[scenes.size[:, i]].unbind(1)
        radius = (low + (high - low) * noise[:, i, 0])[:, None, None]
        centre = _CENTRES.to(device)[scenes.place[:, i]][..., None, None]  # (B, 2, 1, 1)
        cx, cy = centre[:, 0] + 8 * u[:, 1] - 4, centre[:, 1] + 8 * u[:, 2] - 4
        angle = (u[:, 3] - 0.5) * 0.5  # up to 14 degrees each way
        dx, dy = px - cx - (shift if i == 0 else 0.0), py - cy
        x, y = (
            (dx * angle.cos() + dy * angle.sin()) / radius,
            (dy * angle.cos() - dx * angle.sin()) / radius,
        )
        distance = _distance(scenes.shape[:, i, None, None], x, y) * radius  # (B, H, W), pixels
        cover = (0.5 - distance).clamp(0, 1) * scenes.present()[:, i, None, None]
        ink = _ink(
            scenes.texture[:, i, None, None],
            palette[scenes.colour[:, i]],
            x * radius,
            y * radius,
            u[:, 4],
            u[:, 5],
        )
        edge = (distance + 2.5).clamp(0, 1)[:, None] * 0.35  # a darker rim, about two pixels wide
        ink = ink - (ink + 1) * edge
        picture = picture + (ink - picture) * cover[:, None]
    return picture.clamp(-1, 1)


def _ground(scenes: Scenes, px: Tensor, py: Tensor, u: Tensor) -> Tensor:
    """(B, 3, H, W) backgrounds with their textures; u: (B, 4) random numbers."""
    palette = torch.tensor(list(GROUNDS.values()), device=u.device) / 127.5 - 1
    base = palette[scenes.ground][:, :, None, None] + 0.06 * (u[:, 0, None, None, None] - 0.5)
    phase, slope = u[:, 1, None, None] * 16, (u[:, 2, None, None] - 0.5)
    striped = torch.sin((px * slope + py + phase) * (2 * math.pi / 16)).mul(3).clamp(-1, 1)
    checked = (
        (torch.sin((px + phase) * (math.pi / 12)) * torch.sin((py + phase) * (math.pi / 12)))
        .mul(6)
        .clamp(-1, 1)
    )
    graded = (py + 0 * px) / PIXELS * 3 - 1.5
    kind = scenes.ground_texture[:, None, None]
    relief = (
        torch.where(kind == 1, striped, 0.0)
        + torch.where(kind == 2, checked, 0.0)
        + torch.where(kind == 3, graded, 0.0)
    )
    return base + 0.14 * relief[:, None]


def _ink(texture: Tensor, colour: Tensor, x: Tensor, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """(B, 3, H, W) colour of an object at the points (x, y), pixels from its centre, shaded from
    above; colour: (B, 3).
    """
    striped = torch.sin((x + y + 10 * u) * (2 * math.pi / 10)).mul(3).clamp(-1, 1)
    dotted = (
        (
            torch.cos((x + 9 * u) * (2 * math.pi / 9))
            + torch.cos((y + 9 * v) * (2 * math.pi / 9))
            - 0.9
        )
        .mul(3)
        .clamp(-1, 1)
    )
    mark = torch.where(
        texture == 1, striped * 0.5 + 0.5, torch.where(texture == 2, dotted * 0.5 + 0.5, 0.0)
    )[:, None]
    base = colour[:, :, None, None]
    dark = colour.mean(1) < -0.7  # marks on black are lighter, on everything else darker
    marked = torch.where(dark[:, None, None, None], base + 0.8, (base + 1) * 0.55 - 1)
    return base + (marked - base) * mark - 0.003 * y[:, None]
