"""Which picture files go into the page, and how large may they be? `embed`.

    shown = embed(report.gallery, most_bytes=3_000_000)
    shown.images["0003-bf16.webp"].uri                # "data:image/webp;base64,..."

Scenes go in from the worst on, bf16 and the recipe of each first, then the other lists, as long as
there is room. A file that is missing, too large or damaged is not shown, and is named in
`shown.missing`.
"""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from sensitivity.core.outside_files import Bounds, read_bytes
from sensitivity.workflows.report.picture_records import Gallery

FILE = Bounds(max_bytes=4_000_000, max_values=0)
MOST_PIXELS = 40_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """One picture as the page holds it."""

    uri: str
    width: int
    height: int


@dataclass(kw_only=True, slots=True)
class Shown:
    """What the page shows.

    Attributes:
        images: {file: picture}.
        sounds: {file: data URI}.
        missing: files that are not there or damaged.
        left_out: how many files there was no room for.
        size: bytes of all data URIs.
    """

    images: dict[str, Embedded] = field(default_factory=dict)
    sounds: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    left_out: int = 0
    size: int = 0


def embed(gallery: Gallery, *, most_bytes: int) -> Shown:
    """The files of a gallery as data URIs, `most_bytes` of them at most."""
    shown, folder = Shown(), Path(gallery.folder)
    for name in dict.fromkeys(_wanted(gallery)):
        try:
            data = read_bytes(folder / name, FILE)
            size = (0, 0) if name.endswith(".wav") else _size(data)
        except (OSError, ValueError):
            shown.missing.append(name)
            continue
        kind = "audio/wav" if name.endswith(".wav") else "image/webp"
        uri = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        if shown.size + len(uri) > most_bytes:
            shown.left_out += 1
            continue
        shown.size += len(uri)
        if name.endswith(".wav"):
            shown.sounds[name] = uri
        else:
            shown.images[name] = Embedded(uri=uri, width=size[0], height=size[1])
    return shown


def _wanted(gallery: Gallery) -> Iterator[str]:
    """Files in the order in which they are wanted."""
    if gallery.floor is not None:
        yield from (picture.file for picture in gallery.floor.pictures.values())
    for first in (True, False):
        for scene in gallery.scenes:
            pair = ("bf16", gallery.chosen or next((n for n in scene.pictures if n != "bf16"), ""))
            for name, picture in scene.pictures.items():
                if (name in pair) is first:
                    yield picture.file
                    yield from (own for own in (picture.spectrogram, picture.sound) if own)


def _size(data: bytes) -> tuple[int, int]:
    """Width and height. Raises ValueError where it is no whole picture."""
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError("found a picture of too many pixels")
            image.load()
            return image.width, image.height
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from None


def readable(path: Path) -> Image.Image | None:
    """A kept picture; None where it is missing or damaged."""
    try:
        data = read_bytes(path, FILE)
        _size(data)
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as image:
            return image.convert("RGB")
    except (OSError, ValueError):
        return None
