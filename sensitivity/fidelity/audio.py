"""How far is a sound from bf16's? `audio_distance`, a multi-resolution STFT distance.

For magnitudes S of the sound and R of its reference, at each of three resolutions,

    |S - R|_F / |R|_F   +   mean |ln S - ln R|

averaged over the resolutions. Source: Yamamoto, Song and Kim 2020, "Parallel WaveGAN", equations 4
to 6, with their FFT sizes, hops and Hann windows, which they state at 24 kHz. At another rate the
windows last as long.

The first term (spectral convergence) hears what is loud, the second (log magnitude) what is quiet.
Phase does not count, since ears hardly hear it. Channels are kept apart, so a sound that moves from
left to right is far from where it was.

Scale. Equal sounds are at 0. A sound that is louder by a factor a is at |1 - a| + |ln a|: 0.24 for
one decibel. Two independent noises of one spectrum are at sqrt(2 - pi / 2) + ln 2 = 1.35, since
their magnitudes are Rayleigh distributed. A sound that has only its spectrum in common with its
reference is that far.

Floor. What nobody can hear does not count. Magnitudes have a floor 60 dB below the loudest one of
the reference: there the loud masks the quiet, and bf16 sound, of 8 bits, is noise. The floor is
half a step of 16-bit sound (2^-17, a full-scale sine being 0.5) if that is louder. The second mean
is over the places where one of the two is above the floor, so that the scale holds for a tone
nearly as for noise. Silence is at a finite distance.

Why our own code. `auraloss` has the same distance without a floor and no release since April 2023;
torchaudio and torchmetrics have none. On noise, which is loud everywhere, ours agrees with auraloss
0.4.0 within 1e-4 (LOG.md).

    audio_distance(sound, reference, sample_rate=24000)         # (B,)
"""

import torch
from torch import Tensor

RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
"""(FFT size, hop, window) in samples at `RATE`."""
RATE = 24_000
"""Samples a second that `RESOLUTIONS` are stated for."""
QUIETEST = 2.0**-17
"""Half a step of 16-bit sound."""
MASKED = 1e-3
"""Magnitude that is masked, relative to the loudest one: -60 dB."""


def audio_distance(sounds: Tensor, references: Tensor, *, sample_rate: int) -> Tensor:
    """The distance of each sound from its reference.

    Args:
        sounds: (B, channels, samples) fp32.
        references: The same shape.
        sample_rate: Samples a second.

    Returns:
        (B,) fp32 on the CPU; NaN for a sound that has NaN.
    """
    resolutions = [
        tuple(max(4, round(size * sample_rate / RATE)) for size in sizes) for sizes in RESOLUTIONS
    ]
    rows = [
        [_spectral_distance(s, r, *sizes) for sizes in resolutions]
        for s, r in zip(sounds, references, strict=True)
    ]
    return torch.tensor(rows).mean(1)


def _spectral_distance(sound: Tensor, reference: Tensor, fft: int, hop: int, window: int) -> float:
    """The distance at one resolution; sounds are (channels, samples)."""
    s, r = (_magnitudes(x, fft, hop, window) for x in (sound, reference))
    floor = max(QUIETEST, MASKED * float(r.max()))
    heard = (s > floor) | (r > floor) | s.isnan()
    s, r = s.clamp(min=floor), r.clamp(min=floor)
    logs = (s.log() - r.log()).abs()[heard]
    return float((s - r).norm() / r.norm()) + (float(logs.mean()) if len(logs) else 0.0)


def _magnitudes(sound: Tensor, fft: int, hop: int, window: int) -> Tensor:
    """The magnitudes (channels, bins, frames) of a sound (channels, samples).

    A sine of amplitude 1 peaks at 0.5.
    """
    shape = torch.hann_window(window)
    edges = "reflect" if sound.shape[-1] > fft // 2 else "constant"  # too short to be reflected
    return (
        torch.stft(
            sound, fft, hop, window, window=shape, center=True, pad_mode=edges, return_complex=True
        ).abs()
        / shape.sum()
    )
