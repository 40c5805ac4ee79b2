"""Small pipelines of many architectures, as folders of config files alone:

`save_toy("wan", folder)`.

Each is built from diffusers' own classes with a few features in each layer, so that the same folder
runs with and without weights. Names are the keys of `TOYS` and `TEMPLATES`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers

from sensitivity.spec.study_spec import ModelSection, StudySpec

from support.toy_parts import Toy
from support.toy_pictures import (
    auraflow,
    chroma,
    flux,
    flux2,
    lumina2,
    pixart,
    qwen,
    sana,
    sd3,
    sdxl,
    zimage,
)
from support.toy_templates import ernie, hidream, kandinsky5, krea2, longcat, ovis, qwen21
from support.toy_videos import allegro, cogvideox, hunyuan, latte, ltx, mochi, wan

TOYS: dict[str, Callable[[], Toy]] = {
    toy.__name__: toy
    for toy in (
        flux,
        sd3,
        pixart,
        sdxl,
        wan,
        sana,
        cogvideox,
        lumina2,
        zimage,
        hunyuan,
        flux2,
        mochi,
        qwen,
        chroma,
        ltx,
        auraflow,
        latte,
        allegro,
    )
}

TEMPLATES: dict[str, Callable[[], Toy]] = {
    toy.__name__: toy for toy in (krea2, longcat, qwen21, kandinsky5, hidream, ovis, ernie)
}
"""Toys for tests of tokenizers and templates, which other tests of all `TOYS` leave out."""


def save_toy(name: str, folder: Path, steps: int = 3) -> StudySpec:
    """Write the config files of a toy without weights, and make a study of it."""
    pipeline, tokenizers, parts, settings = (TOYS | TEMPLATES)[name]()
    index: dict[str, Any] = {"_class_name": pipeline, "_diffusers_version": diffusers.__version__}
    for part, value in parts.items():
        if isinstance(value, bool | list):
            index[part] = value
        elif isinstance(value, tuple):
            index[part] = ["transformers", value[0]]
            value[1].save_pretrained(folder / part)
        else:
            index[part] = ["diffusers", type(value).__name__]
            value.save_config(folder / part)
    index |= {part: ["transformers", value] for part, value in tokenizers.items()}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    component = "unet" if "unet" in parts else "transformer"
    model = ModelSection(path=folder, component=component, vae_tiling=name == "allegro")
    return StudySpec(name=name, model=model, settings={"num_inference_steps": steps, **settings})
