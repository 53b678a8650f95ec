"""Planted evidence: is a short fault found where it was put, and does a score of the whole clip notice it at all?

Healthy simulated machines in steady factory noise. Each test clip gets, at a random time, either a click (a decaying
burst of white noise) or a tone in one frequency band. A local map is asked where its highest score lies; the nearest
neighbour by statistics of the whole clip is asked whether the clip exceeds the 90th percentile of training normals.
Levels and options were chosen with seed 0; what is reported is seed 2.

``python -m tests.planted`` prints the rates and draws assets/planted_evidence.png.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asd_core import pipeline
from asd_core.data.simulate import MACHINES
from asd_core.data.simulate.machines import Run
from asd_core.data.simulate.rooms import LEVEL
from asd_core.data.simulate.signals import coloured, tilt
from asd_core.pipeline.explain import Map, Place, clip_map, places
from asd_core.types import SAMPLE_RATE, SOURCE, EmbeddingSet
from asd_core.views import VIEWS

NAMES = ("fanSim", "gearboxSim", "ToyCarSim", "BlowerSim")
SECONDS = 10.0
TRAINING, HOSTS = 40, 25  # clips of each machine; every host gets every fault, one at a time
NOISE_DB = -7.0  # steady factory noise, relative to the machine
EDGE = 0.25  # s at either end of a clip that stay free
QUANTILE = 0.9  # of the scores of training normals: the threshold

WHERE = {"name": "logmel_patches"}
LOCAL = {"name": "localized", "window": 2, "stride": 1, "density": "matched"}
STATISTICS = {"name": "logmel_statistics"}
NEAREST = {"name": "knn", "metric": "euclidean", "k": 1, "standardise": True}  # configs/systems/logmel-knn.yaml


@dataclass(frozen=True)
class Fault:
    """Something short. Its level is that of its RMS over `seconds`, in dB: of a click relative to the RMS of the whole
    clip, of a tone relative to the RMS of the whole clip within the tone's band."""

    name: str
    seconds: float
    level: float


CLICK, TONE = Fault("click", 0.02, 1.0), Fault("tone", 0.25, 6.0)
NOTHING = Fault("nothing", 0.02, -np.inf)  # a click of no loudness: what chance and false alarms amount to


@dataclass(frozen=True)
class Trial:
    machine: str
    fault: Fault
    start: float  # s, where the fault was planted
    stop: float
    band: tuple[float, float] | None  # Hz, of a tone
    top: Place  # highest local score
    is_found: bool  # the top place is that of the fault
    flagged_locally: bool  # the aggregated local score exceeds its threshold
    flagged_globally: bool  # the nearest neighbour's score exceeds its threshold
    wave: np.ndarray = field(repr=False)  # (1, T)
    map: Map = field(repr=False)


def trials(
    seed: int = 2, machines: Sequence[str] = NAMES, faults: Sequence[Fault] = (CLICK, TONE, NOTHING)
) -> list[Trial]:
    """`HOSTS` trials per machine and fault."""
    views = VIEWS.create(WHERE), VIEWS.create(STATISTICS)
    layout = views[0].layout
    assert layout is not None
    done = []
    for machine in machines:
        rng = np.random.default_rng([seed, *machine.encode()])
        normal = [healthy(machine, rng) for _ in range(TRAINING)]
        hosts = [healthy(machine, rng) for _ in range(HOSTS)]
        planted = [(fault, *plant(host, fault, layout.edges, rng)) for fault in faults for host in hosts]
        waves = [wave for _, wave, _, _ in planted]
        scored = [
            pipeline.score(scorer, embedded(view, normal, SOURCE), embedded(view, waves, ""))
            for view, scorer in zip(views, (LOCAL, NEAREST), strict=True)
        ]
        flagged = [one.test > np.quantile(one.training, QUANTILE) for one in scored]
        evidence = scored[0].evidence["00"][0]
        pace = float(evidence.start[1] - evidence.start[0])
        for row, (fault, wave, start, band) in enumerate(planted):
            own = clip_map(evidence, row, np.arange(TRAINING).astype(str))
            (top,) = places(own, 1)
            assert top.stop is not None
            stop = start + fault.seconds
            in_time = top.start < stop + pace and top.stop > start - pace  # the right unit, or one beside it
            in_band = band is None or (top.low, top.high) == band
            verdicts = (in_time and in_band, bool(flagged[0][row]), bool(flagged[1][row]))
            done.append(Trial(machine, fault, start, stop, band, top, *verdicts, wave, own))
    return done


def healthy(machine: str, rng: np.random.Generator) -> np.ndarray:
    """(1, T) a normal clip: any setting of the source domain, speed, load and level a little different each time."""
    preset, samples = MACHINES[machine], round(SECONDS * SAMPLE_RATE)
    setting = preset.source[rng.integers(len(preset.source))]
    run = Run(
        speed=setting.speed * (1 + 0.015 * rng.standard_normal()),
        load=float(np.clip(setting.load + 0.08 * rng.standard_normal(), 0, 1)),
        specimen=int(rng.choice(setting.specimens)),
        variant=setting.variant,
    )
    sound = preset.model.sound(run, samples, rng)
    sound = sound / rms(sound) + 10 ** (NOISE_DB / 20) * coloured(rng, samples, tilt(0.5))
    return (LEVEL * 10 ** (rng.normal(0, 0.8) / 20) * sound)[None].astype(np.float32)


def plant(
    wave: np.ndarray, fault: Fault, edges: Sequence[float], rng: np.random.Generator
) -> tuple[np.ndarray, float, tuple[float, float] | None]:
    """A copy of a clip (1, T) with a fault, when that begins (s), and the band of a tone (Hz): any of those between
    `edges`, the tone in its middle half."""
    samples = round(fault.seconds * SAMPLE_RATE)
    t = np.arange(samples) / SAMPLE_RATE
    band = None
    added, reference = rng.standard_normal(samples) * np.exp(-5 * t / fault.seconds), rms(wave)
    if fault.name == "tone":
        f = int(rng.integers(len(edges) - 1))
        low, high = band = (edges[f], edges[f + 1])
        hertz = low + (high - low) * rng.uniform(0.25, 0.75)
        added = np.sin(2 * np.pi * hertz * t) * np.hanning(samples)
        spectrum, hertz_of = np.fft.rfft(wave[0]), np.fft.rfftfreq(wave.shape[1], 1 / SAMPLE_RATE)
        reference = rms(np.fft.irfft(np.where((hertz_of >= low) & (hertz_of < high), spectrum, 0)))
    start = rng.uniform(EDGE, SECONDS - EDGE - fault.seconds)
    first = round(start * SAMPLE_RATE)
    changed = wave.copy()
    changed[0, first : first + samples] += added * (reference * 10 ** (fault.level / 20) / rms(added))
    return changed, start, band


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def embedded(view, waves: Sequence[np.ndarray], domain: str) -> EmbeddingSet:
    """Views of clips as a run would keep them: patches in half precision."""
    x = np.stack([view(wave) for wave in waves])
    many = len(waves)
    ids, section, domains = np.arange(many).astype(str), np.full(many, "00"), np.full(many, domain)
    return EmbeddingSet(x.astype(np.float16) if x.ndim > 2 else x, ids, section, domains, grid=view.layout)


def rate(done: Sequence[Trial], of: str) -> float:
    return float(np.mean([getattr(trial, of) for trial in done]))


def draw(path: Path, shown: Sequence[Trial]) -> None:
    """One row per trial: the spectrogram, and the map of local scores, both with the true place framed."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from asd_core.data.spectrogram import spectrogram

    figure = Figure(figsize=(11, 3.1 * len(shown)), layout="constrained")
    for row, trial in zip(figure.subplots(len(shown), 2, sharex=True, squeeze=False), shown, strict=True):
        levels, where = spectrogram(trial.wave[0], "linear"), trial.map
        level = row[0].imshow(
            levels,
            extent=(0, SECONDS, 0, SAMPLE_RATE / 2000),
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=np.percentile(levels, 5),
        )
        figure.colorbar(level, ax=row[0], label="dBFS")
        pace = where.start[1] - where.start[0]
        middle = (where.start + where.stop) / 2  # units overlap: each is drawn where its neighbours leave it
        times = np.append(middle - pace / 2, middle[-1] + pace / 2)
        local = row[1].pcolormesh(times, where.edges / 1000, where.values.T, cmap="viridis", vmin=0)
        figure.colorbar(local, ax=row[1], label="local score")
        low, high = (0.0, SAMPLE_RATE / 2) if trial.band is None else trial.band
        for axes in row:
            corner, size = (trial.start - 0.03, low / 1000), (trial.stop - trial.start + 0.06, (high - low) / 1000)
            axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="white", linewidth=1.2, linestyle="--"))
            axes.set(ylabel="kHz", ylim=(0, SAMPLE_RATE / 2000))
        row[0].set_title(f"{trial.machine} (simulated): {trial.fault.name} of {trial.fault.level:.0f} dB", fontsize=10)
        row[1].set_title("distance to the nearest normal, over its local density", fontsize=10)
    for axes in row:
        axes.set_xlabel("seconds (dashed: where it was planted)")
    figure.savefig(path, dpi=100)


def main() -> None:
    done = trials()
    print("rates           place found   clip flagged by its   clip flagged by the statistics")
    print("                              aggregated map        of the whole clip")
    for fault in (CLICK, TONE, NOTHING):
        own = [trial for trial in done if trial.fault == fault]
        rates = [rate(own, of) for of in ("is_found", "flagged_locally", "flagged_globally")]
        print(f"{fault.name:8} {len(own):4}   {rates[0]:11.3f}   {rates[1]:19.3f}   {rates[2]:21.3f}")
    unheard = [trial for trial in done if trial.is_found and not trial.flagged_globally]
    path = Path(__file__).resolve().parent.parent / "assets" / "planted_evidence.png"
    draw(path, [next(trial for trial in unheard if trial.fault == fault) for fault in (CLICK, TONE)])
    print(f"Wrote {path}: of each fault the first that is found locally and not flagged by the whole clip.")


if __name__ == "__main__":
    main()
