"""What is there to look at? `Gallery`: prompts, and the files of what each list made of them.

    report.gallery.scenes[0].pictures["bf16"].file

Conventions as in `records`.
"""

from collections.abc import Mapping

from sensitivity.workflows.report._base import Part


class Picture(Part):
    """One picture or clip of one list.

    Attributes:
        file: name of its file in the folder of kept pictures.
        lpips: from bf16's; None for bf16 itself.
        per_frame: LPIPS of each frame that is kept; () for pictures.
        sound: name of the file of its sound; "" where there is none.
        spectrogram: name of the file of the picture of its sound; "" where there is none.
    """

    file: str
    lpips: float | None = None
    per_frame: tuple[float, ...] = ()
    sound: str = ""
    spectrogram: str = ""


class Scene(Part):
    """One prompt and what each list made of it.

    Attributes:
        prompt, seed: what was drawn.
        pictures: {name of a list: picture}; "bf16" is one of them, and the recipe's list another.
        flipped: names of lists that made another picture of it.
    """

    prompt: str
    seed: int
    pictures: Mapping[str, Picture]
    flipped: tuple[str, ...] = ()


class Gallery(Part):
    """Pictures that the search kept.

    Attributes:
        folder: where they lie.
        scenes: the recipe's worst prompt first.
        chosen: the name of the recipe's list in `Scene.pictures`; "" where its pictures are not
            there.
        frames: how many frames of each clip are kept, side by side in one file; 0 for pictures.
        floor: two pictures that bf16 made of one prompt, alone and in a batch; None: not kept.
    """

    folder: str = ""
    scenes: tuple[Scene, ...] = ()
    chosen: str = ""
    frames: int = 0
    floor: Scene | None = None
