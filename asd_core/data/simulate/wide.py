"""Machines that stand nowhere else: designs, rooms and faults drawn from wide ranges, for pre-training.

A design is one of the simulated kinds with its sizes drawn anew, or an `Assembly` of tones, hiss and strikes that is no
machine in particular. It runs in a few settings, healthy and with each of its faults; every such state is a class of
its own. The states of a design share their rooms, so that neither room nor noise tells them apart.

Nothing is drawn from `presets`: the twelve machines that systems are tried on keep their sizes, rooms and noises to
themselves. Their kinds and faults are the same, though, so a figure on them says less about strangers than a figure on
recordings does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.fft

from asd_core.data.simulate.machines import (
    Bearing,
    Drone,
    Fan,
    Gearbox,
    Model,
    Modes,
    Motor,
    Run,
    SewingHead,
    Slider,
    Valve,
)
from asd_core.data.simulate.rooms import LEVEL, TAIL, Site, factory, impulse_responses
from asd_core.data.simulate.signals import coloured, partials, passages, resonator, ring, series, smooth, strikes, turn
from asd_core.types import SAMPLE_RATE

PLACES = 2  # rooms of a design
SEVERITY = (0.35, 1.2)  # of a fault: drawn once, so that a state sounds alike in all its clips
PEAK = 0.85  # where the recorder's limiter ends, as in `write.render`

Draw = Callable[[np.random.Generator], tuple[Model, float]]


@dataclass(frozen=True)
class Assembly:
    """Whatever hums, hisses and knocks; speed = turns per second of what drives it.

    Tones are a Fourier series over the turn with a random envelope; hiss has a random smooth spectrum and swells a few
    times per turn; strikes come a few times per turn and ring in random modes. Each fault changes one of them: a tone
    more, another balance of the hiss, deeper swells, harder strikes, strikes from somewhere else, an unsteady speed.
    """

    faults: tuple[str, ...] = ("tone", "balance", "swell", "hard strikes", "rattle", "unsteady")

    def sound(self, run: Run, samples: int, rng: np.random.Generator) -> np.ndarray:
        tone, balance, swell, hard, rattle, unsteady = (run.amount(fault) for fault in self.faults)
        part = run.tolerances()
        envelope = np.arange(1, part.integers(40, 80)) ** -part.uniform(0.2, 1.5)
        envelope *= np.exp(0.8 * part.standard_normal(len(envelope))) * (part.random(len(envelope)) < part.random())
        tones = partials(part, envelope / np.sqrt((envelope**2).sum() / 2 + 1e-3), 0.05)
        tones[part.integers(2, 40)] += 0.9 * tone
        levels = part.uniform(-14, 14, 12) + 7 * balance * part.standard_normal(12)  # dB
        often, depth = part.integers(1, 9), part.uniform(0.0, 0.5)
        per_turn, force = part.choice([0.5, 1, 2, 3, 5, 7.3]), part.random() ** 2
        response, loose = (resonator(_modes(part, count)) for count in (4, 3))
        shares = part.dirichlet((1.5, 1.5, 1.0)) * (0.7 + 0.6 * np.array([run.load, 1 - run.load, run.load]))

        angle = turn(rng, run.speed, samples, 0.003 + 0.03 * unsteady)
        hiss = coloured(rng, samples, _humps(levels)) * (1 + 0.1 * smooth(rng, samples, 3.0))
        hiss *= 1 + (depth + 0.5 * swell) * np.cos(2 * np.pi * often * angle)
        at, slow = passages(per_turn * angle), passages(0.5 * per_turn * angle + 0.3)
        knocks = ring(strikes(at, (force + hard) * np.exp(0.2 * rng.standard_normal(len(at))), samples), response)
        knocks += ring(strikes(slow, rattle * np.exp(0.3 * rng.standard_normal(len(slow))), samples), loose)
        return shares @ np.stack([series(angle, run.speed, tones), hiss, 12 * knocks])


def _humps(levels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A spectrum through these levels (dB), evenly spaced on a logarithmic axis from 60 Hz to 8 kHz."""
    places = np.linspace(np.log2(60), np.log2(SAMPLE_RATE / 2), len(levels))
    return lambda f: 10 ** (np.interp(np.log2(np.maximum(f, 1)), places, levels) / 20)


def _modes(rng: np.random.Generator, count: int, low: float = 300.0, high: float = 6500.0) -> Modes:
    frequencies = np.exp(rng.uniform(np.log(low), np.log(high), count))
    rows = np.stack([frequencies, np.exp(rng.uniform(np.log(0.008), np.log(0.06), count)), rng.uniform(0.3, 1, count)])
    return tuple(map(tuple, rows.T.tolist()))


def _ducts(rng: np.random.Generator) -> tuple[Modes, ...]:
    return tuple(tuple((f, 4 * damping, w) for f, damping, w in _modes(rng, 3, 250, 4000)) for _ in range(2))


def _fan(rng: np.random.Generator) -> tuple[Fan, float]:
    reference = float(np.exp(rng.uniform(np.log(15), np.log(140))))
    fan = Fan(int(rng.integers(3, 14)), reference, rng.uniform(0.3, 1.2), _ducts(rng))
    return fan, reference


def _motor(rng: np.random.Generator) -> tuple[Motor, float]:
    reference = rng.uniform(40, 220)
    contacts = tuple((float(np.exp(rng.uniform(6.2, 8.3))), rng.uniform(0.8, 1.6)) for _ in range(3))
    cogs = int(rng.integers(3, 10)), int(rng.integers(6, 16)), rng.uniform(1, 8)
    motor = Motor(*cogs, reference, rng.uniform(0.2, 0.9), rng.uniform(0.2, 0.9), contacts, _modes(rng, 3))
    return motor, reference


def _drone(rng: np.random.Generator) -> tuple[Drone, float]:
    reference = rng.uniform(60, 160)
    rotor = Fan(int(rng.integers(2, 5)), reference, rng.uniform(0.5, 1.2), _ducts(rng))
    return Drone(int(rng.integers(2, 7)), rotor), reference


def _valve(rng: np.random.Generator) -> tuple[Valve, float]:
    patterns = []
    for _ in range(3):
        times = np.sort(rng.uniform(0, 0.95, 2 * int(rng.integers(1, 4))))
        patterns.append(tuple((float(a), float(b)) for a, b in times.reshape(-1, 2)))
    return Valve(tuple(patterns), _modes(rng, 3, 800)), rng.uniform(0.8, 4.0)


def _gearbox(rng: np.random.Generator) -> tuple[Gearbox, float]:
    gears = tuple((int(rng.integers(13, 36)), int(rng.integers(30, 75))) for _ in range(3))
    return Gearbox(gears, _modes(rng, 3)), rng.uniform(6, 45)


# kind: model and reference speed (Hz); what leads to as many different sounds is drawn as often
KINDS: dict[str, tuple[float, Draw]] = {
    "assembly": (4.0, lambda rng: (Assembly(), float(np.exp(rng.uniform(np.log(3), np.log(120)))))),
    "bearing": (
        2.0,
        lambda rng: (Bearing(int(rng.integers(6, 16)), rng.uniform(0.12, 0.32), _modes(rng, 3, 700)), rng.uniform(6, 50)),
    ),
    "fan": (1.5, _fan),
    "gearbox": (1.5, _gearbox),
    "slider": (1.0, lambda rng: (Slider(rng.uniform(300, 2000), rng.uniform(0.05, 0.4), _modes(rng, 3)), rng.uniform(0.6, 3))),
    "valve": (1.0, _valve),
    "motor": (2.0, _motor),
    "sewing": (1.0, lambda rng: (SewingHead(rng.uniform(5, 14), _modes(rng, 4)), rng.uniform(4, 18))),
    "drone": (0.5, _drone),
}  # fmt: skip


@dataclass(frozen=True)
class State:
    """How a design is run: one class."""

    speed: float  # Hz
    load: float
    variant: int
    fault: str = ""
    severity: float = 0.0


@dataclass(frozen=True)
class Design:
    kind: str
    model: Model
    specimen: int
    states: tuple[State, ...]
    sites: tuple[Site, ...]


def draw_design(rng: np.random.Generator, settings: int = 2, faults: int = 3) -> Design:
    """One design with `settings` ways of running it, each healthy and with up to `faults` of its faults."""
    odds = np.array([share for share, _ in KINDS.values()])
    kind = str(rng.choice(list(KINDS), p=odds / odds.sum()))
    model, reference = KINDS[kind][1](rng)
    states = []
    for _ in range(settings):
        healthy = State(reference * rng.uniform(0.75, 1.3), rng.uniform(0.1, 0.9), int(rng.integers(3)))
        ills = rng.permutation(model.faults)[:faults].tolist()
        states += [healthy, *(State(healthy.speed, healthy.load, healthy.variant, fault, rng.uniform(*SEVERITY)) for fault in ills)]  # fmt: skip
    return Design(kind, model, int(rng.integers(2**31)), tuple(states), tuple(_site(rng) for _ in range(PLACES)))


def _site(rng: np.random.Generator) -> Site:
    room = (rng.uniform(4, 14), rng.uniform(3.5, 9), rng.uniform(2.5, 5.5))
    return Site(
        0.0, rng.uniform(0, 1), rng.uniform(0, 0.8), rng.uniform(8, 40), rng.uniform(0, 1.5), room, rng.uniform(0.15, 0.6)
    )  # fmt: skip


@dataclass(frozen=True)
class Recorded:
    """What the microphones of a design's sites hear, machine and noise apart, as 16-bit samples."""

    clips: np.ndarray  # (states, clips, 2, T) int16: the machine alone, of RMS about `LEVEL` when healthy
    noise: np.ndarray  # (PLACES, 2, T) int16: the rest of the hall, of RMS `LEVEL` in each channel


def record(design: Design, clips: int, samples: int, rng: np.random.Generator) -> Recorded:
    """`clips` takes of every state, the sites taken in turn. Speed, load and level wander from take to take."""
    length = scipy.fft.next_fast_len(samples + 2 * TAIL, real=True)
    spectra = [scipy.fft.rfft(impulse_responses(site, rng), length) for site in design.sites]

    def hear(sources: np.ndarray, paths: np.ndarray) -> np.ndarray:
        """(S, TAIL + T), (S, 2, F) → (2, T)"""
        heard = (scipy.fft.rfft(sources, length)[:, None] * paths).sum(0)
        return scipy.fft.irfft(heard, length)[..., TAIL : TAIL + samples]

    def take(state: State) -> np.ndarray:
        run = Run(
            state.speed * (1 + 0.012 * rng.standard_normal()),
            float(np.clip(state.load + 0.06 * rng.standard_normal(), 0, 1)),
            design.specimen,
            state.variant,
            state.fault,
            state.severity * rng.uniform(0.85, 1.15),
        )
        return design.model.sound(run, TAIL + samples, rng) * 10 ** (rng.normal(0, 0.8) / 20)

    healthy = take(design.states[0])[None]
    gains = [LEVEL / np.sqrt((hear(healthy, paths[:1]) ** 2).mean(-1, keepdims=True) + 1e-12) for paths in spectra]
    found = np.empty((len(design.states), clips, 2, samples), np.int16)
    for row, state in enumerate(design.states):
        for number in range(clips):
            place = number % len(spectra)
            found[row, number] = _pcm(gains[place] * hear(take(state)[None], spectra[place][:1]))
    noise = np.empty((len(spectra), 2, samples), np.int16)
    for place, (site, paths) in enumerate(zip(design.sites, spectra, strict=True)):
        heard = hear(factory(site, TAIL + samples, rng), paths[1:])
        noise[place] = _pcm(heard * LEVEL / np.sqrt((heard**2).mean(-1, keepdims=True) + 1e-12))
    return Recorded(found, noise)


def _pcm(x: np.ndarray) -> np.ndarray:
    return np.round(PEAK * np.tanh(x / PEAK) * 32767).astype(np.int16)
