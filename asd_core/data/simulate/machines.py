"""The simulated machines: how each makes its sound, and what its faults do to it.

A model is a frozen dataclass of design parameters with ``sound(run, samples, rng)`` → (T,) float64. A healthy
machine at its reference speed sounds at an RMS of the order of 1; the rooms scale it. A fault acts through its cause
(an extra pulse per passage, a slower shaft, a leaking seat) and never through the finished spectrum.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from asd_core.data.simulate.signals import (
    band,
    coloured,
    partials,
    passages,
    resonator,
    ring,
    series,
    smooth,
    strikes,
    tilt,
    turn,
)
from asd_core.types import SAMPLE_RATE

Modes = tuple[tuple[float, float, float], ...]
"""Structural resonances: (frequency in Hz, damping ratio, weight)."""


@dataclass(frozen=True, slots=True)
class Run:
    """How a machine is run while one clip is recorded."""

    speed: float  # Hz: turns, strokes or cycles per second
    load: float  # 0 idle … 1 full
    specimen: int  # seed of the tolerances of this individual machine
    variant: int = 0  # which design: gear set, nozzle, grit, car body
    fault: str = ""  # "" for a healthy machine
    severity: float = 0.0  # 0 … 1

    def amount(self, fault: str) -> float:
        """Severity of this fault, 0 where the machine has another one or none."""
        return self.severity if fault == self.fault else 0.0

    def tolerances(self) -> np.random.Generator:
        """Draws the same tolerances for every clip of this specimen."""
        return np.random.default_rng((self.specimen, self.variant))


class Model(Protocol):
    @property
    def faults(self) -> tuple[str, ...]: ...

    def sound(self, run: Run, samples: int, rng: np.random.Generator) -> np.ndarray: ...


def housing(part: np.random.Generator, modes: Modes, spread: float = 0.03) -> np.ndarray:
    """Impulse response of a housing whose modes differ a little between specimens (relative `spread`)."""
    table = np.array(modes)
    table[:, 0] *= 1 + spread * part.standard_normal(len(table))
    table[:, 2] *= 1 + 3 * spread * part.standard_normal(len(table))
    return resonator(table)


@dataclass(frozen=True)
class Bearing:
    """A ball bearing on a driven shaft; speed = shaft turns per second.

    With n balls, ball-to-pitch diameter ratio r and no contact angle, per turn of the shaft the balls pass a point of
    the outer race n(1−r)/2 times and of the inner race n(1+r)/2 times, the cage turns (1−r)/2 times, and a defect on a
    ball meets a race (1−r²)/r times. Every passage over a defect strikes the housing, which rings at its modes. The
    load zone is below: a defect that turns through it (inner race, ball) strikes in swells. Balls slip a little, so
    the strikes are not strictly periodic.
    """

    balls: int = 9
    ratio: float = 0.23
    modes: Modes = ((1350, 0.03, 1.0), (2700, 0.025, 0.9), (4600, 0.03, 0.6))
    faults: tuple[str, ...] = ("outer race", "inner race", "ball")

    def sound(self, run: Run, samples: int, rng: np.random.Generator) -> np.ndarray:
        part = run.tolerances()
        response = housing(part, self.modes)
        waviness = 0.25 * part.random()  # healthy races are not perfectly round either
        angle = turn(rng, run.speed, samples, 0.004)
        cage = angle * (1 - self.ratio) / 2
        shaft = series(angle, run.speed, partials(part, 0.7 / np.arange(1, 9)))
        loudness = (run.speed / 25) * (0.6 + 0.6 * run.load)
        rolling = coloured(rng, samples, tilt(0.35)) + ring(coloured(rng, samples, tilt(0.0)), response)
        rolling *= loudness * (0.55 + 0.12 * np.cos(2 * np.pi * cage))
        outer, inner, ball = (run.amount(kind) for kind in self.faults)
        per_turn = self.balls / 2
        trains = (
            (per_turn * (1 - self.ratio), waviness + 2.6 * outer, np.ones(samples)),
            (per_turn * (1 + self.ratio), 0.5 * waviness + 3.2 * inner, 0.5 + 0.5 * np.cos(2 * np.pi * angle)),
            ((1 - self.ratio**2) / self.ratio, 3.2 * ball, 0.5 + 0.5 * np.cos(2 * np.pi * cage)),
        )
        hits = np.zeros(samples)
        for order, depth, swell in trains:
            if depth:
                slip = 0.01 * order * run.speed * np.cumsum(smooth(rng, samples, 20.0)) / SAMPLE_RATE
                at = passages(order * angle + slip)
                uneven = np.exp(0.25 * rng.standard_normal(len(at)))
                hits += strikes(at, depth * uneven * swell[at.astype(int)], samples)
        return shaft + rolling + loudness * ring(hits, 2.5 * response)


@dataclass(frozen=True)
class Fan:
    """A bladed rotor in a duct; speed = rotor turns per second.

    The pressure field that turns with the rotor is a Fourier series over one turn: equal blades leave only multiples
    of the blade count (blade-pass tones), unequal ones also the orders between. Turbulence is broadband. Loudness
    grows with speed^2.5 in amplitude (Lighthill's law for dipole sources is the 6th power in energy, fans measure
    nearer to the 5th). `variant` picks the duct or nozzle.
    """

    blades: int = 7
    reference: float = 28.0  # Hz: the speed at which its loudness is 1
    tones: float = 0.8  # amplitude of the first blade-pass tone
    ducts: tuple[Modes, ...] = (((420, 0.12, 1.0), (1150, 0.1, 0.7), (2900, 0.12, 0.5)),)
    faults: tuple[str, ...] = ("imbalance", "damaged blade", "blocked flow")

    def sound(self, run: Run, samples: int, rng: np.random.Generator) -> np.ndarray:
        imbalance, damage, blocked = (run.amount(kind) for kind in self.faults)
        part = run.tolerances()
        duct = housing(part, self.ducts[run.variant % len(self.ducts)])
        speed = run.speed * (1 + 0.03 * blocked)  # moving less air, the motor runs up
        angle = turn(rng, speed, samples, 0.004)
        orders = np.arange(1, 8 * self.blades + 1)
        passing = orders % self.blades == 0
        amplitudes = np.where(passing, self.tones * self.blades / orders, 0.035 * self.tones)
        amplitudes = amplitudes * (1 - 0.35 * blocked * passing)
        field_ = partials(part, amplitudes)
        field_[:2] += imbalance * np.array([0.8, 0.3])  # the shaft shakes the mounting once per turn
        field_ -= 0.16 * self.tones * damage * np.exp(-orders / (4 * self.blades))  # one blade sheds a pulse every turn
        tones = series(angle, speed, field_) * (1 + 0.45 * imbalance * np.cos(2 * np.pi * angle))
        flow = coloured(rng, samples, tilt(0.75))
        flow = 0.6 * flow + 0.5 * ring(coloured(rng, samples, tilt(0.0)), duct)
        flow *= 0.6 + 0.4 * run.load + 0.1 * smooth(rng, samples, 2.0)
        # recirculation: coarse eddies at the inlet, coming and going a few times a second
        surge = coloured(rng, samples, band(260, 0.9)) * (1 + 0.7 * smooth(rng, samples, 5.0))
        return (speed / self.reference) ** 2.5 * (tones + flow + 0.55 * blocked * surge)


@dataclass(frozen=True)
class Gearbox:
    """One gear stage; speed = input shaft turns per second, `variant` = the gear set (pinion and wheel teeth).

    Teeth mesh pinion-teeth times per input turn; the mesh tone and its harmonics carry amplitude and phase modulation
    at both shaft rates, seen as sidebands. A cracked tooth gives way once per turn of its gear: a dip of stiffness (the
    mesh phase lags for a moment) and a knock on the casing. Wear rounds the profile: higher mesh harmonics, stronger
    sidebands and more friction noise.
    """

    gears: tuple[tuple[int, int], ...] = ((19, 41),)
    casing: Modes = ((820, 0.04, 1.0), (1900, 0.03, 0.8), (3600, 0.03, 0.6))
    faults: tuple[str, ...] = ("cracked tooth", "wear")

    def sound(self, run: Run, samples: int, rng: np.random.Generator) -> np.ndarray:
        crack, wear = (run.amount(kind) for kind in self.faults)
        pinion, wheel = self.gears[run.variant % len(self.gears)]
        part = run.tolerances()
        response = housing(part, self.casing)
        angle = turn(rng, run.speed, samples, 0.004)
        driven = angle * pinion / wheel
        eccentric = (0.12 + 0.06 * part.random(2)) * (1 + 1.2 * wear)
        phases = part.random(2)
        swing = eccentric[0] * np.cos(2 * np.pi * (angle + phases[0]))
        swing += eccentric[1] * np.cos(2 * np.pi * (driven + phases[1]))
        past = (angle + phases[0]) % 1.0 * pinion  # teeth since the cracked one met the wheel
        give = crack * np.exp(-((past - 1.0) ** 2))
        mesh = np.array([1.0, 0.55, 0.35, 0.2, 0.12, 0.08]) * (0.5 + 0.5 * run.load)
        mesh[1:] *= 1 + 0.9 * wear
        tones = series(pinion * angle + 0.08 * swing - 0.25 * give, pinion * run.speed, partials(part, mesh, 0.12))
        tones *= (1 + swing) * (1 - 0.5 * give)
        at = passages(angle + phases[0])
        knocks = strikes(at, crack * np.exp(0.3 * rng.standard_normal(len(at))), samples)
        friction = 0.35 * coloured(rng, samples, tilt(0.5)) + 0.35 * ring(coloured(rng, samples, tilt(0.0)), response)
        friction *= (1 + 0.6 * wear) * (1 + 0.5 * wear * swing)
        return (run.speed / 20) * (tones + friction + ring(knocks, 11.0 * response))


@dataclass(frozen=True)
class Slider:
    """A carriage driven to and fro on a rail; speed = strokes per second (one stroke = there and back).

    The carriage speeds up, runs and slows down (trapezoidal speed, `dwell` of each half stroke at rest). Friction noise
    follows its speed, so does the pitch of the drive; it knocks where it stops. A rough patch of the rail rasps
    whenever the carriage passes that place, in both directions. A sticking one jerks: the rail squeals and lets go.
    """

    drive: float = 900.0  # Hz: pitch of the drive at full speed
    dwell: float = 0.2
    rail: Modes = ((640, 0.05, 1.0), (1700, 0.04, 0.8), (3900, 0.03, 0.7))
    faults: tuple[str, ...] = ("rough rail", "sticking")

    def sound(self, run: Run, samples: int, rng: np.random.Generator) -> np.ndarray:
        rough, stick = (run.amount(kind) for kind in self.faults)
        part = run.tolerances()
        response = housing(part, self.rail)
        half = 2 * turn(rng, run.speed, samples, 0.01)  # half strokes
        phase = half % 1.0
        ramp = 0.15
        moving = np.clip(np.minimum(phase, 1 - self.dwell - phase) / ramp, 0, 1)  # speed, 1 = full
        place = np.clip(phase / (1 - self.dwell), 0, 1)  # along the rail, there …
        place = np.where(half % 2.0 < 1.0, place, 1 - place)  # … and back
        friction = 0.5 * coloured(rng, samples, tilt(0.4)) + 0.8 * ring(coloured(rng, samples, tilt(0.0)), response)
        friction *= moving**1.2 * (0.7 + 0.5 * run.load) * (1 + 0.12 * smooth(rng, samples, 15.0))
        pitch = self.drive * run.speed / 0.9
        drive_angle = np.cumsum(pitch * moving) / SAMPLE_RATE
        whine = moving * series(drive_angle, pitch, partials(part, [0.5, 0.3, 0.18, 0.1]))
        patch = 0.2 + 0.6 * part.random()  # where this rail is rough, and by how much even a sound one is
        rasp = np.exp(-(((place - patch) / 0.06) ** 2)) * moving * (0.15 * part.random() + 1.7 * rough)
        grinding = rasp * coloured(rng, samples, band(4200, 0.7))
        stops = passages(half + self.dwell)
        knock = strikes(stops, (0.8 + 0.5 * run.load) * np.exp(0.2 * rng.standard_normal(len(stops))), samples)
        squeal = np.zeros(samples)
        if stick:
            starts = passages(half - 0.25 - 0.4 * part.random())
            jerks = rng.random(len(starts)) < 0.35 + 0.6 * stick  # it does not stick on every pass
            jerks[rng.integers(len(starts))] = True
            starts = starts[jerks]
            knock += strikes(starts, stick * np.exp(0.3 * rng.standard_normal(len(starts))), samples)
            note = resonator([(part.uniform(1900, 2600), 0.002, 1.0)])
            squeal = ring(strikes(starts, stick, samples), 24 * note)
        return run.speed / 0.9 * (friction + whine + grinding) + ring(knock, 14.0 * response) + squeal


@dataclass(frozen=True)
class Valve:
    """A solenoid valve switched in a fixed pattern; speed = pattern cycles per second, `variant` = the pattern.

    The armature clicks as it opens and, softer, as it closes; gas hisses while it is open. Faults: a late opening (the
    armature hesitates), a weak click (low force, also duller), a double click (it bounces), a leak (hiss while shut).
    """

    patterns: tuple[tuple[tuple[float, float], ...], ...] = (((0.0, 0.22), (0.4, 0.55)),)
    """Of a cycle: (opens at, shuts at), each in parts of the cycle."""
    body: Modes = ((1500, 0.02, 1.0), (3300, 0.02, 0.9), (5600, 0.025, 0.6))
    faults: tuple[str, ...] = ("late", "weak", "double click", "leak")

    def sound(self, run: Run, samples: int, rng: np.random.Generator) -> np.ndarray:
        late, weak, double, leak = (run.amount(kind) for kind in self.faults)
        part = run.tolerances()
        response = housing(part, self.body)
        dull = housing(part, tuple((0.6 * f, 2 * d, w) for f, d, w in self.body))
        cycle = turn(rng, run.speed, samples, 0.002)
        hard, soft, gate = np.zeros(samples), np.zeros(samples), np.zeros(samples)
        for opens, shuts in self.patterns[run.variant % len(self.patterns)]:
            for begin, force in ((opens, 1.0), (shuts, 0.55)):
                at = passages(cycle - begin)
                at = at + 0.002 * SAMPLE_RATE * rng.standard_normal(len(at))
                struck = force * (0.8 + 0.4 * run.load) * np.exp(0.12 * rng.standard_normal(len(at)))
                hit = rng.random(len(at)) < 0.7  # an ailing valve fails on most switchings, not on all
                at = at + hit * late * SAMPLE_RATE * rng.uniform(0.02, 0.14, len(at)) * (force == 1)
                hard += strikes(at, struck * (1 - 0.75 * weak * hit), samples)
                soft += strikes(at, struck * 0.5 * weak * hit, samples)
                bounce = at + SAMPLE_RATE * rng.uniform(0.012, 0.035, len(at))
                hard += strikes(bounce, struck * double * hit * rng.uniform(0.4, 0.9, len(at)), samples)
                gate += strikes(at, 1.0 if force == 1 else -1.0, samples)
        flow = np.cumsum(gate)
        flow = np.clip(flow - flow.min(), 0, 1)
        flow = ring(flow, np.full(160, 1 / 160))  # 10 ms to build up
        hiss = coloured(rng, samples, band(4500, 1.2)) * (
            0.5 * flow * (0.6 + 0.4 * run.load) + 0.22 * leak * (1 - flow)
        )
        coil = 0.05 * series(turn(rng, 100.0, samples, 0.0), 100.0, partials(part, [1.0, 0.5, 0.3, 0.2, 0.1]))
        return ring(hard, 24.0 * response) + ring(soft, 24.0 * dull) + hiss + coil


@dataclass(frozen=True)
class Motor:
    """A small motor driving something through gears, as in a toy car, a toothbrush or a sander; speed = motor turns/s.

    Whine: the commutator order and its harmonics, and the mesh of the motor's pinion. Contact: broadband noise of
    wheels, bristles or grit with the colour of the `variant`, swelling once per turn of the driven wheel. Faults: an
    eccentric wheel (swells, and the motor labours once per turn), a bent shaft (shakes at the motor's own rate and
    modulates the mesh), low voltage (slower, softer, and unsteady).
    """

    commutator: int = 6  # torque ripples per motor turn
    pinion: int = 10
    ratio: float = 5.2  # motor turns per turn of the driven wheel
    reference: float = 130.0  # Hz: the speed at which its loudness is 1
    mesh: float = 0.6
    whine: float = 0.5
    contacts: tuple[tuple[float, float], ...] = ((900, 1.4),)
    """Of each variant: centre (Hz) and half width (octaves) of the contact noise."""
    body: Modes = ((760, 0.05, 1.0), (2100, 0.04, 0.8), (4400, 0.05, 0.5))
    faults: tuple[str, ...] = ("eccentric wheel", "bent shaft", "low voltage")

    def sound(self, run: Run, samples: int, rng: np.random.Generator) -> np.ndarray:
        eccentric, bent, low = (run.amount(kind) for kind in self.faults)
        part = run.tolerances()
        response = housing(part, self.body)
        rate = run.speed * (1 - 0.08 * low) * (1 - 0.04 * run.load)
        wander = 0.006 * (1 + 1.5 * low)
        angle = turn(rng, rate, samples, wander)
        wheel = angle / self.ratio + part.random()
        swell = (0.1 + 0.9 * eccentric) * np.cos(2 * np.pi * wheel)
        angle = angle + 0.06 * self.ratio * eccentric / (2 * np.pi) * np.sin(2 * np.pi * wheel)
        shaft = np.zeros(4 * self.commutator)
        shaft[0], shaft[1] = 0.1 + 0.7 * bent, 0.05 + 0.4 * bent
        shaft[self.commutator - 1 :: self.commutator] = self.whine / np.arange(1, 5)
        whine = series(angle, rate, partials(part, shaft))
        shake = 1 + (0.06 + 0.6 * bent) * np.cos(2 * np.pi * angle)
        teeth = series(self.pinion * angle, self.pinion * rate, partials(part, self.mesh / np.arange(1, 7)))
        centre, octaves = self.contacts[run.variant % len(self.contacts)]
        contact = coloured(rng, samples, band(centre * (1 + 0.05 * part.standard_normal()), octaves))
        contact = 0.7 * contact + 0.5 * ring(coloured(rng, samples, tilt(0.0)), response)
        contact *= (0.5 + 0.5 * run.load) * (1 + 0.12 * smooth(rng, samples, 8.0))
        return (rate / self.reference) ** 1.5 * (whine + teeth * shake * (1 + 0.5 * swell) + contact * (1 + swell))


@dataclass(frozen=True)
class SewingHead:
    """A sewing machine; speed = stitches per second.

    Per stitch the needle bar knocks at its lowest point, the hook catches the thread half a turn later, and the feed
    dog lands; a motor hums through a belt. Faults: a loose hook (it rattles after the catch), a bent needle (a scrape
    on the way in), a slipping belt (stitches come irregularly, the belt squeaks).
    """

    belt: float = 9.0  # motor turns per stitch
    head: Modes = ((520, 0.05, 0.8), (1450, 0.03, 1.0), (3100, 0.03, 0.8), (5200, 0.03, 0.5))
    faults: tuple[str, ...] = ("loose hook", "bent needle", "slipping belt")

    def sound(self, run: Run, samples: int, rng: np.random.Generator) -> np.ndarray:
        loose, bent, slip = (run.amount(kind) for kind in self.faults)
        part = run.tolerances()
        response = housing(part, self.head)
        crank = turn(rng, run.speed, samples, 0.012 * (1 + 4 * slip))
        hits = np.zeros(samples)
        for place, force in ((0.0, 1.0), (0.5 + 0.02 * part.standard_normal(), 0.7), (0.72, 0.45)):
            at = passages(crank - place)
            hits += strikes(at, force * np.exp(0.2 * rng.standard_normal(len(at))), samples)
        catch = passages(crank - 0.5)
        for delay in (0.008, 0.017):  # s
            at = catch + SAMPLE_RATE * delay * rng.uniform(0.7, 1.3, len(catch))
            hits += strikes(at, loose * rng.uniform(0.2, 1.0, len(at)), samples)
        motor = self.belt * run.speed
        hum = series(self.belt * crank, motor, partials(part, [0.6, 0.4, 0.3, 0.25, 0.15, 0.1, 0.1, 0.05]))
        scrape = np.exp(-((((crank + 0.12) % 1.0 - 0.06) / 0.04) ** 2)) * coloured(rng, samples, band(5200, 0.5))
        squeak = series(self.belt * crank * 11.3, motor * 11.3, np.array([1.0, 0.5]))
        squeak *= np.maximum(smooth(rng, samples, 6.0), 0)
        cloth = 0.3 * coloured(rng, samples, tilt(0.4)) * (0.6 + 0.6 * run.load)
        sound = hum + cloth + 0.9 * bent * scrape + 0.35 * slip * squeak
        return run.speed / 10 * sound + ring(hits, 10.0 * response)


@dataclass(frozen=True)
class Drone:
    """Several small rotors that never turn at quite the same speed, so that their tones beat; speed = rotor turns/s.

    A fault sits in one of the rotors.
    """

    rotors: int = 4
    rotor: Fan = field(default_factory=lambda: Fan(blades=2, reference=110.0, tones=0.9))

    @property
    def faults(self) -> tuple[str, ...]:
        return self.rotor.faults[:2]  # nothing blocks a free rotor

    def sound(self, run: Run, samples: int, rng: np.random.Generator) -> np.ndarray:
        part = run.tolerances()
        total = np.zeros(samples)
        for number in range(self.rotors):
            trim = 1 + 0.02 * part.standard_normal() + 0.01 * rng.standard_normal()  # the pilot holds it in the air
            ill = number == 0
            one = Run(
                speed=run.speed * trim,
                load=run.load,
                specimen=int(part.integers(2**31)),
                variant=run.variant,
                fault=run.fault if ill else "",
                severity=1.6 * run.severity if ill else 0.0,
            )
            total += self.rotor.sound(one, samples, rng)
        return total / np.sqrt(self.rotors)
