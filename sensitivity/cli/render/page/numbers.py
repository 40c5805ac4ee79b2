"""How do numbers read on the page? Each with a unit, none cut to nothing.

lpips(3.8e-05), lpips(0.01567)      # "0.000038", "0.0157"
milliseconds(2.5)                   # "2.50 ms"
"""

from collections.abc import Sequence

UNKNOWN = "–"


def lpips(value: float | None) -> str:
    """A damage with three digits, or two where it is tiny, never in powers of ten."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    text = f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.2g}"
    return _plain(text)


def speedup(value: float | None) -> str:
    """A factor: "1.323×"."""
    return UNKNOWN if value is None else f"{value:.3f}×"


def milliseconds(value: float | None) -> str:
    """Milliseconds with three digits."""
    return UNKNOWN if value is None else f"{_plain(f'{value:.3g}')} ms"


def seconds(value: float | None) -> str:
    """Seconds, or milliseconds below one."""
    if value is None:
        return UNKNOWN
    return milliseconds(value * 1e3) if value < 1 else f"{value:.3g} s"


def share(value: float | None) -> str:
    """A part of a whole in per cent."""
    if value is None:
        return UNKNOWN
    return f"{value:.1%}" if value < 0.1 else f"{value:.0%}"


def memory(value: int) -> str:
    """Bytes in the unit that fits."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value} B"


def interval(values: Sequence[float] | None, digits: int | None = None) -> str:
    """An interval: "[0.0065, 0.0381]"; "" where there is none."""
    if values is None:
        return ""
    low, high = (lpips(v) if digits is None else f"{v:.{digits}f}" for v in values)
    return f"[{low}, {high}]"


def _plain(text: str) -> str:
    """A number in the %g form without an exponent."""
    if "e" not in text:
        return text
    mantissa, exponent = text.split("e")
    digits = len(mantissa.replace("-", "").replace(".", "")) - 1
    return f"{float(text):.{max(0, digits - int(exponent))}f}"
