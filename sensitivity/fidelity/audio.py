"""How far is a sound from bf16's?

A multi-resolution STFT distance: spectral convergence and log magnitude.

For magnitudes S of the sound and R of its reference, at each of three resolutions,

    |S - R|_F / |R|_F   +   mean |ln S - ln R|

averaged over the resolutions (Yamamoto, Song and Kim 2020, "Parallel WaveGAN", equations 4 to 6,
with their FFT sizes, hops and Hann windows, which they state at 24 kHz; at another rate they last
as long). The first term hears what is loud, the second what is quiet. It hears no phase, as ears
hardly do, and keeps the channels apart, so a sound that moves from left to right is far from where
it was.

Scale. Equal sounds are at 0. A sound that is louder by a factor a is at |1 - a| + |ln a|: 0.24 for
one decibel. Two independent noises of one spectrum are at sqrt(2 - pi / 2) + ln 2 = 1.35, since
their magnitudes are Rayleigh distributed: so far is a sound that has nothing in common with its
reference but its spectrum.

What nobody can hear does not count. Magnitudes have a floor: 60 dB below the loudest one of the
reference, where the loud masks the quiet and where bf16 sound, of 8 bits, is noise; or half a step
of 16-bit sound (2^-17, a full-scale sine being 0.5), if that is louder. The second mean is over the
places where one of the two is above it, so that the scale above holds for a tone nearly as for
noise. Silence is at a finite distance.

It is our own code because `auraloss`, which gives the same without a floor, has had no release
since April 2023, and torchaudio and torchmetrics have no such distance. On noise, which is loud
everywhere, it agrees with auraloss 0.4.0 within 1e-4 (LOG.md).

    audio_distance(sound, reference, sample_rate=24000)         # (B,)
"""

import torch
from torch import Tensor

RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
"""(FFT size, hop, window) in samples at `RATE`."""
RATE = 24_000
QUIETEST = 2.0**-17
MASKED = 1e-3  # -60 dB


def audio_distance(sounds: Tensor, references: Tensor, *, sample_rate: int) -> Tensor:
    """(B,) distances, fp32 on the CPU; NaN where a sound is.

    Args:
        sounds: (B, channels, samples) fp32.
        references: the same shape.
        sample_rate: samples a second.
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
    """At one resolution; sounds are (channels, samples)."""
    s, r = (_magnitudes(x, fft, hop, window) for x in (sound, reference))
    floor = max(QUIETEST, MASKED * float(r.max()))
    heard = (s > floor) | (r > floor) | s.isnan()
    s, r = s.clamp(min=floor), r.clamp(min=floor)
    logs = (s.log() - r.log()).abs()[heard]
    return float((s - r).norm() / r.norm()) + (float(logs.mean()) if len(logs) else 0.0)


def _magnitudes(sound: Tensor, fft: int, hop: int, window: int) -> Tensor:
    """(channels, bins, frames) of a sound (channels, samples); a sine of amplitude 1 peaks at 0.5."""
    shape = torch.hann_window(window)
    edges = "reflect" if sound.shape[-1] > fft // 2 else "constant"  # too short to be reflected
    return (
        torch.stft(
            sound, fft, hop, window, window=shape, center=True, pad_mode=edges, return_complex=True
        ).abs()
        / shape.sum()
    )
