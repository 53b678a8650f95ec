"""Do generated clips sound at the speed they were asked for, and what do they look like?

``python -m tests.generated_clips --workspace W`` after ``generate --data demo``, in that workspace, prints the speeds
and draws assets/generated.png. For each clip of the simulated fans, the shaft speed whose blade-pass harmonics stand highest above the spectrum around
them is searched from 18 to 40 Hz, in recorded and in generated clips alike; the simulator says what it should be.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.signal import welch

from asd_core.artifacts import Workspace, read_table
from asd_core.data import audio
from asd_core.data.manifest import open_dataset
from asd_core.data.simulate.machines import Fan
from asd_core.data.spectrogram import spectrogram, ticks
from asd_core.files import read_json
from asd_core.synthesis.conditions import Condition
from asd_core.types import SAMPLE_RATE, TRAIN

SPEEDS = {"1": 23.0, "2": 28.0, "3": 33.0}  # Hz, by the attribute spd
PICTURED = ("fanSim", "sliderSim", "valveSim", "gearboxSim")
CANDIDATES = np.arange(18.0, 40.0, 0.05)
HARMONICS = np.arange(1, 5)
TOLERANCE = 0.05  # of the speed; recorded clips scatter by 1.5 %, the next speed is 18 % away


def speed_of(wave: np.ndarray, blades: int) -> tuple[float, float]:
    """Hz: the candidate whose blade-pass harmonics stand highest, in mean decibels, above their surroundings (Welch's
    spectrum, 3.9 Hz apart); and dB: how far a line of the whole clip's spectrum (0.2 Hz) stands above them there."""
    size = 4096
    _, power = welch(wave, SAMPLE_RATE, nperseg=size)
    welchs, whole = (
        10 * np.log10(power + 1e-15),
        20 * np.log10(np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) + 1e-9),
    )

    def height(spectrum: np.ndarray, frequency: float, step: float, around: float, near: float) -> float:
        centre, wide, narrow = round(frequency / step), round(around / step), max(round(near / step), 0)
        own = spectrum[centre - narrow : centre + narrow + 1].max()
        return float(own - np.median(spectrum[centre - wide : centre + wide + 1]))

    step = SAMPLE_RATE / size
    heights = [
        np.mean([height(welchs, blades * speed * k, step, 60.0, 0.0) for k in HARMONICS]) for speed in CANDIDATES
    ]
    best = float(CANDIDATES[int(np.argmax(heights))])
    line = np.mean([height(whole, blades * best * k, SAMPLE_RATE / len(wave), 60.0, 3.0) for k in HARMONICS])
    return best, float(line)


def draw(path: Path, shown: list[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """Recorded clips above, generated ones of the same conditions below (title, (T,), (T,)); one scale per pair."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(shown), 4.6), layout="constrained")
    axes = figure.subplots(2, len(shown), squeeze=False)
    for column, (title, *waves) in enumerate(shown):
        levels = [spectrogram(wave) for wave in waves]
        low, high = np.percentile(levels[0], (5, 99.9))
        for row, (what, values) in enumerate(zip(("recorded", "generated"), levels, strict=True)):
            axis = axes[row, column]
            extent = (0, len(waves[row]) / SAMPLE_RATE, 0, 1)
            axis.imshow(values, origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=high, extent=extent)
            axis.set_title(f"{title}, {what}", fontsize=9)
            axis.set_yticks(*zip(*ticks("mel"), strict=True), fontsize=7)
            axis.tick_params(axis="x", labelsize=7)
    figure.savefig(path, dpi=110)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="demo")
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--machine", default="fanSim")
    asked = parser.parse_args()
    blades = Fan().blades
    recorded: dict[str, list[tuple[float, float]]] = {}
    for clip in open_dataset(asked.data).of(asked.machine, TRAIN):
        text = Condition.of(clip).text
        if "|target|" in text or len(recorded.get(text, [])) < 8:
            recorded.setdefault(text, []).append(speed_of(audio.read(clip.path)[0], blades))
    generated: dict[str, list[tuple[float, float]]] = {}
    for meta in Workspace(asked.workspace).root.glob("tasks/generate/*/meta.json"):
        if read_json(meta)["spec"]["machine"] == asked.machine:
            table = read_table(meta.parent / "candidates.parquet")
            for clip, text in zip(table["clip"], table["condition"], strict=True):
                wave = audio.read(meta.parent / clip.rpartition("/")[2])[0]
                generated.setdefault(text, []).append(speed_of(wave, blades))
    shown = []
    for machine in PICTURED:
        for meta in sorted(Workspace(asked.workspace).root.glob("tasks/screen/*/meta.json")):
            if read_json(meta)["spec"]["machine"] == machine:
                table = read_table(meta.parent / "kept.parquet")
                made = Workspace(asked.workspace).task("generate", read_json(meta)["inputs"][0])
                clip, text = table["clip"].iloc[-1], table["condition"].iloc[-1]
                known = [c for c in open_dataset(asked.data).of(machine, TRAIN) if Condition.of(c).text == text]
                pair = (audio.read(path)[0] for path in (known[0].path, made / clip.rpartition("/")[2]))
                shown.append((text.replace("|00|", " ").replace("|", " "), *pair))
                break
    draw(Path(__file__).resolve().parent.parent / "assets" / "generated.png", shown)
    for title, found in (("recorded", recorded), ("generated", generated)):
        for text, speeds in sorted(found.items()):
            wanted = SPEEDS[dict(Condition.parse(text).attributes)["spd"]]
            speed, line = np.array(speeds).T
            right = np.mean(np.abs(speed / wanted - 1) < TOLERANCE)
            print(
                f"{title} {text}: asked {wanted} Hz, median {np.median(speed):.2f} Hz, within 5 % {right:.0%} of "
                f"{len(speed)}; lines stand {np.median(line):.0f} dB high"
            )


if __name__ == "__main__":
    main()
