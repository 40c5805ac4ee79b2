"""The picture of a front, from the recipe JSON that a search wrote.

    uv run sensitivity search --model tiny-flux --budget 50 --json docs/data/front.json
    uv run --group docs python docs/make_front.py     # writes docs/images/front.png

Speedups are predicted, LPIPS is measured, and the axes say so. The line is what all trials together
say about the members of the front; the points with bars are typical LPIPS of the held-out prompts
with 95 % intervals. (Of a recipe of an earlier schema they are means.)
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).parent
DATA, PICTURE = DOCS / "data" / "front.json", DOCS / "images" / "front.png"
BLUE, ORANGE, GREY = "#1f5fa8", "#d1651a", "#5a6270"
THIN = {"arrowstyle": "-", "color": ORANGE, "lw": 0.6, "relpos": (1, 0.5)}
METADATA = {"Software": None}  # the same file from the same numbers


def draw(recipe: dict[str, Any], path: Path) -> None:
    """Write the picture."""
    front = sorted(
        (m["latency"]["speedup"], m["lpips"] if m.get("typical") is None else m["typical"])
        for m in recipe["front"]
    )
    compared = recipe["verified"]["compared"]
    shortlist = set(recipe["choice"]["shortlist"])
    named = next(
        row for row in compared if row["lpips_held_out"] == recipe["fidelity"]["lpips"]["mean"]
    )
    figure, axes = plt.subplots(figsize=(8.2, 4.3), dpi=150, layout="constrained")
    axes.plot(
        *zip(*front, strict=True),
        color=GREY,
        lw=1.2,
        marker="o",
        ms=3.5,
        zorder=2,
        label="front of the search: estimate from all trials",
    )
    by_hand = [r for r in compared if not r["name"].startswith("trial ")]
    searched = [r for r in compared if r["name"] in shortlist]
    _points(axes, by_hand, ORANGE, "s", "lists made by hand, held-out prompts, 95 % interval")
    _points(axes, searched, BLUE, "o", "found by the search, held-out prompts, 95 % interval")
    axes.plot(
        named["speedup"],
        _value(named),
        marker="*",
        ms=17,
        mec="white",
        color=BLUE,
        ls="",
        zorder=5,
        label="named by the search",
    )
    beside = min(row["speedup"] for row in by_hand) - 0.02
    for height, row in enumerate(sorted(by_hand, key=_value)):
        axes.annotate(
            row["name"],
            (row["speedup"], _value(row)),
            xytext=(beside, 0.045 + height * 0.009),
            color=ORANGE,
            fontsize=9,
            va="center",
            ha="right",
            arrowprops=THIN,
        )
    latency = recipe["latency"]
    axes.set_xlabel(f"speedup over bf16, predicted for {latency['target'].upper()}")
    typical = "typical " if "typical" in named else ""
    axes.set_ylabel(f"{typical}LPIPS against bf16, measured")
    axes.set_xlim(0.995, 0.02 + max(row["speedup"] for row in by_hand + searched))
    axes.set_ylim(-0.001, 1.4 * max(_interval(row)[1] for row in by_hand + searched))
    axes.set_title(
        f"{recipe['model']['id']}, NVFP4: {recipe['search']['trials']} trials on 2 CPU cores",
        fontsize=11,
        loc="left",
    )
    axes.grid(color="#e3e6ea", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8.5, loc="upper left")
    figure.savefig(path, metadata=METADATA)


def _points(axes: Any, rows: list[dict[str, Any]], color: str, marker: str, label: str) -> None:
    """Held-out LPIPS with their intervals."""
    values = [_value(row) for row in rows]
    low = [_value(row) - _interval(row)[0] for row in rows]
    high = [_interval(row)[1] - _value(row) for row in rows]
    axes.errorbar(
        [row["speedup"] for row in rows],
        values,
        yerr=[low, high],
        fmt=marker,
        ms=5,
        color=color,
        ecolor=color,
        elinewidth=0.9,
        capsize=2.5,
        alpha=0.9,
        zorder=3,
        label=label,
    )


def _value(row: dict[str, Any]) -> float:
    """A verified list's typical LPIPS; of an earlier schema the mean."""
    return float(row.get("typical", row["lpips_held_out"]))


def _interval(row: dict[str, Any]) -> tuple[float, float]:
    low, high = row.get("typical_ci95", row["ci95"])
    return low, high


if __name__ == "__main__":
    draw(json.loads(DATA.read_text(encoding="utf-8")), PICTURE)
