"""A small report with names that try to break out of a page, and pictures for it.

report = hostile_report(folder)
render_page(report)                       # must show `HOSTILE` as text, wherever it stands
"""

from pathlib import Path

import numpy as np
from PIL import Image

from sensitivity.workflows.report.picture_records import Gallery, Picture, Scene
from sensitivity.workflows.report.records import (
    Comparison,
    Group,
    Layer,
    Model,
    Pair,
    Report,
    Reproduction,
    Shape,
    Snippet,
    Time,
    Trial,
    Unseen,
)
from sensitivity.workflows.report.verdict_records import (
    Against,
    Damage,
    Judged,
    Kept,
    Verdict,
    Worst,
)

HOSTILE = (
    "<script>alert(1)</script> \"'` &amp; </script><!-- \u202eRTL\u2066 \u2028 ${x} {{7*7}}"
    " <img src=x onerror=alert(2)> |cell| $math$"
)
WINNER = "trial 2"


def hostile_report(folder: Path, *, frames: int = 0, blocks: int = 4, trials: int = 6) -> Report:
    """A report of a model of `blocks` blocks x 3 roles and so many trials.

    Args:
        folder: where its two pictures are written.
        frames: of each clip; 0 for pictures.
        blocks, trials: how many.
    """
    layers = tuple(_layer(i) for i in range(3 * blocks))
    return Report(
        title=HOSTILE,
        model=Model(name=HOSTILE, id=HOSTILE, pipeline="FluxPipeline", linears=len(layers)),
        verdict=_verdict(layers),
        recipe={"name": HOSTILE, "layers": {layer.fqn: layer.format for layer in layers}},
        recipe_file='a "b".json',
        snippets=(
            Snippet(consumer="torchao", form=HOSTILE, text=f"# {HOSTILE}", notes=(HOSTILE,)),
            Snippet(consumer="comfyui", form="json", notes=(HOSTILE,)),
        ),
        gallery=_gallery(folder, frames),
        trials=tuple(_trial(i, len(layers)) for i in range(trials)),
        groups=tuple(
            Group(name=HOSTILE, members=((), (i,)), gains_ms=(0.0, 1.0)) for i in range(len(layers))
        ),
        formats=("bf16", "nvfp4"),
        layers=layers,
        time=Time(
            shapes=(
                Shape(
                    m=4608,
                    k=3072,
                    n=12288,
                    linears=3,
                    calls=24,
                    bf16_ms=2.0,
                    recipe_ms=1.0,
                    best_ms=0.9,
                    formats="3 nvfp4",
                    why=HOSTILE,
                    launch_bound=True,
                ),
            ),
            other_ms=3.0,
            host=HOSTILE,
            note=HOSTILE,
        ),
        trust=(
            Comparison(
                title=HOSTILE,
                first=f"LPIPS {HOSTILE}",
                second=HOSTILE,
                text=HOSTILE,
                pairs=(
                    Pair(name=HOSTILE, first=0.01, second=0.012, second_ci=(0.01, 0.02)),
                    Pair(name="b", first=0.02, second=0.019),
                ),
            ),
        ),
        unseen=(Unseen(what=HOSTILE, why=HOSTILE, names=(HOSTILE,)),),
        reproduction=Reproduction(
            search={"study": "s", "formats": "nvfp4", "budget": "6", "target": HOSTILE},
            pictures={HOSTILE: HOSTILE},
            environment={HOSTILE: HOSTILE},
        ),
        gaps={"pictures": HOSTILE},
    )


def _layer(i: int) -> Layer:
    block, role = divmod(i, 3)
    states = {0: "refused", 4: "never called", 8: "fixed"}
    return Layer(
        fqn=f"blocks.{block}.{HOSTILE if i == 1 else f'role{role}'}",
        block=f"blocks.{block}",
        role=f"blocks.{HOSTILE if role == 1 else f'role{role}'}",
        m=4608,
        k=3072,
        n=12288,
        calls=8,
        format="bf16" if i % 2 or i in states else "nvfp4",
        state=states.get(i, "free"),
        why=HOSTILE if i in states else "",
        damage=None if i in states else 0.01 * (i + 1),
        saved_ms=None if i in states else 0.5 - 0.1 * role,
    )


def _verdict(layers: tuple[Layer, ...]) -> Verdict:
    damage = Damage(
        typical=0.0095,
        typical_ci95=(0.0067, 0.0134),
        mean=0.0158,
        mean_ci95=(0.0088, 0.0282),
        flips=1,
        prompts=24,
    )
    quantized = sum(layer.format == "nvfp4" for layer in layers)
    return Verdict(
        name=HOSTILE,
        trial=2,
        speedup=1.269,
        speedup_interval90=(1.2, 1.32),
        bf16_s=0.0957,
        quantized_s=0.0754,
        origin="predicted",
        target="b200",
        damage=damage,
        worst=Worst(prompt=HOSTILE, lpips=0.0602),
        judges=(Judged(name=HOSTILE, mean=38.3, unit="dB", higher_is_better=True),),
        net="tiny",
        noise_floor=3.8e-05,
        another_seed=0.242,
        flip_rule="LPIPS of 0.12 or more",
        quantized=quantized,
        linears=len(layers),
        formats={"nvfp4": quantized},
        bf16_bytes=15_400_000,
        quantized_bytes=11_700_000,
        against=(
            Against(
                name="rule of thumb",
                speedup=1.452,
                damage=damage,
                ratio=0.45,
                ratio_ci95=(0.3, 0.6),
            ),
            Against(name=HOSTILE, speedup=1.4, damage=Damage(mean=0.04)),
        ),
        kept=(Kept(pattern=HOSTILE, count=3, reason=HOSTILE),),
        rule=HOSTILE,
        caveat=HOSTILE,
    )


def _trial(i: int, groups: int) -> Trial:
    """Trial 2 is what the verdict is of; trial 1 is a baseline with a hostile name."""
    chosen = "".join("0" if g % 2 or g in (0, 4, 8) else "1" for g in range(groups))
    return Trial(
        name={1: HOSTILE}.get(i, f"trial {i}"),
        number=i if i != 1 else None,
        kind="baseline" if i == 1 else "proposal",
        seconds=0.09 - 0.005 * i,
        speedup=1 + 0.1 * i,
        typical=0.004 * (i + 1),
        mean=0.008 * (i + 1),
        own_typical=0.004 * (i + 1),
        own_ci95=(0.003 * (i + 1), 0.006 * (i + 1)),
        quantized=i,
        took_s=20.0,
        on_front=i != 1,
        choice=chosen if i == 2 else "1" * (i % groups) + "0" * (groups - i % groups),
        hypervolume=(i + 1) / 6,
    )


def _gallery(folder: Path, frames: int) -> Gallery:
    folder.mkdir(parents=True, exist_ok=True)
    for name, shade in (("a.webp", 60), ("b.webp", 90)):
        pixels = np.full((16, 16 * (frames or 1), 3), shade, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name, "WEBP", lossless=True)
    pictures = {
        "bf16": Picture(file="a.webp"),
        WINNER: Picture(file="b.webp", lpips=0.0602, per_frame=tuple(0.01 for _ in range(frames))),
        HOSTILE: Picture(file="gone.webp", lpips=0.2),
    }
    scene = Scene(prompt=HOSTILE, seed=5, pictures=pictures, flipped=(WINNER, HOSTILE))
    floor = Scene(
        prompt=HOSTILE,
        seed=1,
        pictures={
            "in a batch": Picture(file="a.webp"),
            "alone": Picture(file="b.webp", lpips=3.8e-05),
        },
    )
    return Gallery(folder=str(folder), scenes=(scene,), chosen=WINNER, frames=frames, floor=floor)
