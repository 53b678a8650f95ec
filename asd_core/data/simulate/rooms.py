"""Where the machines stand: a factory room, two microphones, and the noise of everything else in it.

The near microphone is an arm's length from the machine, the far one some metres away and closer to the other noise
sources, so that the far channel carries more noise by geometry alone. Impulse responses come from the image-source
method (pyroomacoustics), are computed once per machine and domain, and are applied by FFT.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft

from asd_core.data.simulate.signals import (
    coloured,
    partials,
    resonator,
    ring,
    series,
    smooth,
    strikes,
    tilt,
    turn,
)
from asd_core.types import SAMPLE_RATE

TAIL = 4000  # samples of impulse response kept: 0.25 s
LEVEL = 10 ** (-28 / 20)  # RMS of an ordinary clip in either channel: −28 dBFS


@dataclass(frozen=True)
class Site:
    """A place where a machine is recorded, and how noisy it is there."""

    near_snr: float  # dB, machine over noise at the near microphone on an ordinary clip
    colour: float = 0.5  # of the broadband noise: 0 white, 0.5 pink, 1 brown
    hum: float = 0.3  # amplitude of mains hum (50 Hz and harmonics) relative to the broadband noise
    neighbour: float = 17.0  # Hz: speed of another machine in the hall
    events: float = 0.5  # clanks per second
    room: tuple[float, float, float] = (9.0, 7.0, 4.0)  # m
    absorption: float = 0.35  # energy absorption of the walls


def factory(site: Site, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise as sent out by three sources: the hall's air, the neighbouring machine with mains hum, and clanks.

    Returns (3, T); together of RMS about 1.
    """
    air = 0.8 * coloured(rng, samples, tilt(site.colour)) * (1 + 0.15 * smooth(rng, samples, 1.0))
    rate = site.neighbour * (1 + 0.06 * rng.standard_normal())
    angle = turn(rng, rate, samples, 0.01)
    orders = np.arange(1, 41)
    other = series(angle, rate, partials(rng, 0.5 * np.where(orders % 6 == 0, 3.0, 0.6) / np.sqrt(orders), 0.4))
    other *= 0.35 * np.exp(0.5 * smooth(rng, samples, 0.5))
    mains = series(
        turn(rng, 50.0, samples, 0.0005), 50.0, partials(rng, site.hum * np.array([0.6, 1, 0.3, 0.5, 0, 0.3]))
    )
    clanks = np.zeros(samples)
    for _ in range(rng.poisson(site.events * samples / SAMPLE_RATE)):
        modes = [(f, 0.01, 1.0) for f in rng.uniform(400, 5000, 4)]
        strike = strikes(rng.uniform(0, samples, 1), rng.lognormal(0.0, 0.6), samples)
        clanks += ring(strike, 18.0 * resonator(modes))
    return np.stack([air, other + mains, clanks])


@dataclass(frozen=True)
class Acoustics:
    """Paths from the machine and the three noise sources to the two microphones."""

    spectra: np.ndarray  # (4 sources, 2 microphones, F) complex transfer functions at `length`
    length: int  # FFT length

    def hear(self, sources: np.ndarray) -> np.ndarray:
        """(4, TAIL + T) → (4, 2, T): what each source leaves at each microphone, the room already filled with sound."""
        heard = scipy.fft.irfft(scipy.fft.rfft(sources, self.length)[:, None] * self.spectra, self.length)
        return heard[..., TAIL : sources.shape[1]]


def impulse_responses(site: Site, rng: np.random.Generator) -> np.ndarray:
    """(4 sources, 2 microphones, TAIL): the machine, then hall air, neighbouring machine and clanks."""
    import pyroomacoustics

    size = np.array(site.room)
    machine = np.array([0.3, 0.4, 0.25]) * size + rng.uniform(-0.2, 0.2, 3)
    near = machine + np.array([0.35, 0.15, 0.25]) + rng.uniform(-0.05, 0.05, 3)
    far = np.array([0.53, 0.5, 0.36]) * size + rng.uniform(-0.3, 0.3, 3)
    others = np.array([[0.9, 0.85, 0.7], [0.85, 0.3, 0.3], [0.7, 0.9, 0.25]]) * size + rng.uniform(-0.3, 0.3, (3, 3))
    room = pyroomacoustics.ShoeBox(
        size, fs=SAMPLE_RATE, materials=pyroomacoustics.Material(site.absorption), max_order=10
    )
    for source in (machine, *others):
        room.add_source(source)
    room.add_microphone_array(np.stack([near, far], 1))
    threads = pyroomacoustics.constants.get("num_threads")
    pyroomacoustics.constants.set("num_threads", 1)  # its sums depend on how many threads share them
    try:
        room.compute_rir()
    finally:
        pyroomacoustics.constants.set("num_threads", threads)
    table = np.zeros((4, 2, TAIL))
    for microphone, row in enumerate(room.rir):
        for source, response in enumerate(row):
            kept = np.asarray(response, float)[:TAIL]
            table[source, microphone, : len(kept)] = kept
    return table


def acoustics(site: Site, reference: np.ndarray, samples: int, rng: np.random.Generator) -> Acoustics:
    """The paths at a site, with gains such that the `reference` sound has `LEVEL` and the site's near SNR.

    One gain per microphone (both recorders are set to the same level) and one for the noise as a whole (set at the near
    microphone; how much louder it is at the far one is up to the room).
    """
    length = scipy.fft.next_fast_len(samples + 2 * TAIL, real=True)
    spectra = scipy.fft.rfft(impulse_responses(site, rng), length)
    plain = Acoustics(spectra, length)
    quiet = replace(site, events=0.0)  # a chance clank must not set the level
    heard = plain.hear(np.vstack([reference[None], factory(quiet, len(reference), rng)]))
    machine = np.sqrt((heard[0] ** 2).mean(-1))  # (2,)
    noise = np.sqrt((heard[1:].sum(0) ** 2).mean(-1))
    gain = machine[0] / noise[0] * 10 ** (-site.near_snr / 20)
    spectra[1:] *= gain
    noise *= gain
    spectra *= (LEVEL / np.hypot(machine, noise))[None, :, None]
    return Acoustics(spectra, length)
