"""How is an LPIPS written? One way everywhere, in which a small one is not lost.

    lpips_words(0.01634)                                   # "0.0163"
    lpips_words(3.8e-05)                                   # "3.8e-05"
    interval_words(0.01634, (0.0101, 0.0262))              # "0.0163 [0.0101, 0.0262]"

This module computes with numbers only, and imports nothing: the help of commands reaches it.
"""

Interval = tuple[float, float]


def lpips_words(value: float) -> str:
    """An LPIPS as text: four decimals, two digits where these would lose it, and "0" for 0."""
    return f"{value:.4f}" if abs(value) >= 1e-3 else f"{value:.2g}"


def interval_words(value: float, interval: Interval) -> str:
    """An LPIPS with its interval."""
    return f"{lpips_words(value)} {bounds_words(interval)}"


def bounds_words(interval: Interval | None) -> str:
    """An interval of an LPIPS: "[0.0101, 0.0262]"; "" where there is none."""
    return "" if interval is None else f"[{lpips_words(interval[0])}, {lpips_words(interval[1])}]"


def summary_words(
    *, typical: float, typical_ci95: Interval, mean: float, mean_ci95: Interval, flips: str
) -> str:
    """The three things that are said of a score: typical and mean LPIPS, and flips."""
    return (
        f"typical LPIPS {interval_words(typical, typical_ci95)}, mean"
        f" {interval_words(mean, mean_ci95)}, {flips}"
    )


def flips_words(flips: int, prompts: int) -> str:
    """How many prompts became another picture: "1 of 24 flipped"."""
    return f"{flips} of {prompts} flipped"
