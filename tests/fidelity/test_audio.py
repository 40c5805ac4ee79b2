"""The spectral distance of sounds follows its definition: equal sounds are at 0, louder ones where
the formula says, and what nobody hears does not count.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sensitivity.fidelity.audio import RESOLUTIONS, audio_distance

RATE = 24_000


def noise(seed: int, *, clips: int = 2, seconds: float = 0.5) -> Tensor:
    """White noise in stereo, (clips, 2, samples)."""
    return 0.1 * torch.randn(
        clips, 2, int(seconds * RATE), generator=torch.Generator().manual_seed(seed)
    )


def tone(hertz: float, amplitude: float = 0.5) -> Tensor:
    """A sine in mono, (1, 1, samples)."""
    return amplitude * torch.sin(2 * math.pi * hertz * torch.arange(RATE // 2) / RATE)[None, None]


def by_definition(sound: np.ndarray, reference: np.ndarray) -> float:
    """The formula in float64, one sound (channels, samples), loud everywhere so that no floor
    matters.
    """
    total = 0.0
    for fft, hop, window in RESOLUTIONS:
        taper = np.zeros(fft)
        start = (fft - window) // 2
        taper[start : start + window] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)

        def magnitudes(
            x: np.ndarray, fft: int = fft, hop: int = hop, taper: np.ndarray = taper
        ) -> np.ndarray:
            padded = np.pad(x, ((0, 0), (fft // 2, fft // 2)), mode="reflect")
            frames = np.lib.stride_tricks.sliding_window_view(padded, fft, axis=-1)[:, ::hop]
            return np.abs(np.fft.rfft(frames * taper)) / taper.sum()

        s, r = magnitudes(sound), magnitudes(reference)
        total += np.linalg.norm(s - r) / np.linalg.norm(r) + np.abs(np.log(s) - np.log(r)).mean()
    return total / len(RESOLUTIONS)


def test_it_is_the_definition() -> None:
    """On noise, where every place is heard, the distance is the paper's formula, for each clip by
    itself.
    """
    a, b = noise(1), noise(2)
    b = a + 0.3 * b
    expected = [
        by_definition(x, y) for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True)
    ]
    assert audio_distance(a, b, sample_rate=RATE).tolist() == pytest.approx(expected, rel=1e-3)


def test_equal_sounds_are_at_zero() -> None:
    """Whatever the sound is, silence included, it is at distance 0 from itself."""
    for sound in (noise(1), tone(440), torch.zeros(1, 2, 5000)):
        assert audio_distance(sound, sound.clone(), sample_rate=RATE).tolist() == [0.0] * len(sound)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.122, 3.0])
def test_a_louder_sound_is_where_the_formula_says(factor: float) -> None:
    """Scaled by a, noise is at |1 - a| + |ln a|; so is, within a tenth, a tone, though most places
    of its spectrum are silent.
    """
    expected = abs(1 - factor) + abs(math.log(factor))
    assert audio_distance(factor * noise(1), noise(1), sample_rate=RATE).tolist() == pytest.approx(
        [expected] * 2, rel=1e-3
    )
    assert audio_distance(
        factor * tone(1000, 0.2), tone(1000, 0.2), sample_rate=RATE
    ).tolist() == pytest.approx([expected], rel=0.1)


def test_sounds_with_only_their_spectrum_in_common() -> None:
    """Two independent noises are at sqrt(2 - pi / 2) + ln 2, since their magnitudes are Rayleigh
    distributed.
    """
    found = audio_distance(noise(1, seconds=2), noise(2, seconds=2), sample_rate=RATE)
    assert found.tolist() == pytest.approx([math.sqrt(2 - math.pi / 2) + math.log(2)] * 2, rel=0.01)


def test_damage_grows_with_its_strength() -> None:
    """More noise, a stronger low-pass and a larger detuning are each farther away."""
    clean = noise(1) + tone(440)
    for weaker, stronger in (
        (clean + 0.01 * noise(3), clean + 0.1 * noise(3)),
        (
            torch.nn.functional.avg_pool1d(clean, 3, 1, 1),
            torch.nn.functional.avg_pool1d(clean, 9, 1, 4),
        ),
        (noise(1) + tone(445), noise(1) + tone(500)),
    ):
        near, far = (audio_distance(sound, clean, sample_rate=RATE) for sound in (weaker, stronger))
        assert bool((near > 0).all())
        assert bool((near < far).all())


def test_what_nobody_hears_does_not_count() -> None:
    """Noise 100 dB below a tone is masked; noise 30 dB below it is not."""
    clean = tone(1000)
    assert (
        audio_distance(clean + 1e-5 * noise(1, clips=1)[:, :1], clean, sample_rate=RATE).item()
        < 1e-3
    )
    assert (
        audio_distance(clean + 0.1 * noise(1, clips=1)[:, :1], clean, sample_rate=RATE).item() > 0.5
    )


def test_silence_is_at_a_finite_distance() -> None:
    """A stream that went silent, and one that should be silent, are far away, and finitely so."""
    silence = torch.zeros(2, 2, RATE // 2)
    for found in (
        audio_distance(silence, noise(1), sample_rate=RATE),
        audio_distance(noise(1), silence, sample_rate=RATE),
    ):
        assert bool(found.isfinite().all())
        assert bool((found > 1.35).all())


def test_channels_are_heard_apart() -> None:
    """A sound that changed sides is as far as another sound."""
    sound = noise(1)
    assert bool((audio_distance(sound.flip(1), sound, sample_rate=RATE) > 1.2).all())


def test_not_a_number_is_passed_on() -> None:
    """NaN in one clip is NaN for that clip alone."""
    broken = noise(1)
    broken[1, 0, 100] = torch.nan
    assert audio_distance(broken, noise(1), sample_rate=RATE).isnan().tolist() == [False, True]


def test_windows_last_as_long_at_any_rate() -> None:
    """Two tones 60 Hz apart are told from one by the longest window: at half the rate as well,
    where windows of as many samples would last twice as long.
    """

    def pair(rate: int) -> tuple[Tensor, Tensor]:
        t = torch.arange(rate) / rate
        one = 0.2 * torch.sin(2 * math.pi * 1000 * t)[None, None]
        return one + 0.02 * torch.sin(2 * math.pi * 1060 * t)[None, None], one

    found = [audio_distance(*pair(rate), sample_rate=rate).item() for rate in (24_000, 12_000)]
    assert found[0] == pytest.approx(found[1], rel=0.05)


def test_a_sound_shorter_than_a_window_has_a_distance() -> None:
    """A few samples are enough."""
    short = noise(1)[..., :64]
    assert audio_distance(short, short, sample_rate=RATE).tolist() == [0.0, 0.0]
    assert bool((audio_distance(2 * short, short, sample_rate=RATE) > 0.5).all())
