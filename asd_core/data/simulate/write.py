"""Recording the simulated machines: which clips there are, rendering one, and writing them in the 2026 layout."""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TypeVar

import joblib
import numpy as np
import soundfile

from asd_core.data import audio
from asd_core.data.manifest import attribute_text
from asd_core.data.simulate.machines import Run
from asd_core.data.simulate.presets import MACHINES, SIZES, Machine, Setting, Size
from asd_core.data.simulate.rooms import TAIL, Acoustics, acoustics, factory
from asd_core.files import digest, read_json, write_json, write_text
from asd_core.types import ANOMALY, NORMAL, SOURCE, TARGET, TEST, TRAIN, AsdError, Progress, no_progress

T = TypeVar("T")

VERSION = 1
"""Raise it with every change that alters a sample: folders of another version are refused, not mixed."""

SEVERITIES = (0.25, 0.5, 1.0)
MARK = "simulation.json"  # in a machine's folder: the specification it was made from
ABOUT = "dataset.json"
TRUTH = "eval_truth.csv"  # beside the machine folders, where no scan of them looks
SMALL = 600.0  # s of sound; less is rendered in this process, which is sooner than starting others


@dataclass(frozen=True)
class Take:
    """One clip to be recorded."""

    split: str
    file_name: str
    domain: str
    label: int
    setting: Setting
    fault: str = ""
    severity: float = 0.0


def generator(seed: int, *names: str) -> np.random.Generator:
    """An independent random stream for a name; the same on every machine, whatever was drawn elsewhere."""
    key = hashlib.blake2b("/".join(names).encode(), digest_size=16).digest()
    return np.random.default_rng([seed, *np.frombuffer(key, "<u4").tolist()])


def plan(machine: Machine, size: Size, seed: int) -> list[Take]:
    """All clips of a machine: settings shared out evenly, faults × severities too, both in random order."""
    rng = generator(seed, machine.name, "plan")
    takes = []
    for domain, count in ((SOURCE, size.train_source), (TARGET, size.train_target)):
        for number, setting in enumerate(_shared_out(machine.settings(domain), count, rng)):
            name = f"section_00_{domain}_{TRAIN}_normal_{number:04d}_{attribute_text(setting.attributes)}.wav"
            takes.append(Take(TRAIN, name, domain, NORMAL, setting))
    test = []
    for domain, label in product((SOURCE, TARGET), (NORMAL, ANOMALY)):
        settings = _shared_out(machine.settings(domain), size.test_each, rng)
        ills = _shared_out(tuple(product(machine.model.faults, SEVERITIES)), size.test_each, rng)
        for number, (setting, (fault, severity)) in enumerate(zip(settings, ills, strict=True)):
            word = "anomaly" if label == ANOMALY else "normal"
            name = f"section_00_{domain}_{TEST}_{word}_{number:04d}_{attribute_text(setting.attributes)}.wav"
            ill = (fault, severity) if label == ANOMALY else ("", 0.0)
            test.append(Take(TEST, name, domain, label, setting, *ill))
    if not machine.labelled:  # shuffled, and then the names tell nothing
        test = [test[i] for i in rng.permutation(len(test))]
        test = [replace(take, file_name=f"section_00_{i:04d}.wav") for i, take in enumerate(test)]
    return takes + test


def _shared_out(kinds: tuple[T, ...], count: int, rng: np.random.Generator) -> list[T]:
    """`count` items, every kind as often as any other (±1, by lot), in random order."""
    first = rng.permutation(len(kinds))
    return [kinds[first[i % len(kinds)]] for i in rng.permutation(count)]


@lru_cache(maxsize=32)
def _acoustics(name: str, domain: str, samples: int, seed: int) -> Acoustics:
    machine = MACHINES[name]
    rng = generator(seed, name, domain, "room")
    setting = machine.source[len(machine.source) // 2]
    # four seconds hold a few cycles of the slowest machine; both domains are set by the same source setting
    reference = machine.model.sound(_run(machine, setting, setting.specimens[0], seed), 4 * audio.SAMPLE_RATE, rng)
    return acoustics(machine.site(domain), reference, samples, rng)


def _run(machine: Machine, setting: Setting, specimen: int, seed: int, **changes: float | str) -> Run:
    individual = int(generator(seed, machine.name, "specimen", str(specimen)).integers(2**31))
    values = {"speed": setting.speed, "load": setting.load, **changes}
    return Run(specimen=individual, variant=setting.variant, **values)  # type: ignore[arg-type]


def render(name: str, size: Size, seed: int, take: Take) -> np.ndarray:
    """One clip, (2, T) float64 within ±0.85: near and far microphone."""
    machine = MACHINES[name]
    samples = round(size.seconds(machine) * audio.SAMPLE_RATE)
    rng = generator(seed, name, take.split, take.file_name)
    run = _run(
        machine,
        take.setting,
        int(rng.choice(take.setting.specimens)),
        seed,
        speed=take.setting.speed * (1 + 0.015 * rng.standard_normal()),
        load=float(np.clip(take.setting.load + 0.08 * rng.standard_normal(), 0, 1)),
        fault=take.fault,
        severity=float(machine.ease * take.severity * rng.uniform(0.85, 1.15)),
    )
    sources = np.empty((4, TAIL + samples))
    sources[0] = machine.model.sound(run, TAIL + samples, rng)
    sources[1:] = factory(machine.site(take.domain), TAIL + samples, rng)
    sources *= 10 ** (rng.normal(0, (0.8, 1.2, 2.0, 2.0)) / 20)[:, None]  # dB: the day's levels
    heard = _acoustics(name, take.domain, samples, seed).hear(sources).sum(0)
    heard *= 10 ** (rng.normal(0, (0.5, 0.5)) / 20)[:, None]  # dB: recording gains
    return 0.85 * np.tanh(heard / 0.85)  # a recorder's limiter: nothing clips, ordinary levels are left alone


def pcm(name: str, size: Size, seed: int, take: Take) -> tuple[Take, np.ndarray]:
    """The clip as 16-bit samples (2, T): what travels between processes and into the file."""
    return take, np.round(render(name, size, seed, take) * 32767).astype(np.int16)


def simulate(
    root: Path,
    size: str = "demo",
    machines: list[str] | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
    processes: int | None = None,
) -> None:
    """Record simulated machines into `root`, which becomes a data set of the 2026 layout.

    Equal arguments give equal bytes, whatever `processes` is (default: one per core for large sets). A machine's folder
    is complete or absent; finished ones are left as they are, so repeating the call continues.

    Args:
        size: a name of `SIZES`.
        machines: some of the size's machines; all by default.

    Raises:
        AsdError: unknown size or machine, too little disk, or a folder that holds something else.
    """
    if size not in SIZES:
        raise AsdError(f'There is no size "{size}". Allowed: {", ".join(SIZES)}.')
    amount = SIZES[size]
    names = list(amount.machines if machines is None else machines)
    for name in names:
        if name not in amount.machines:
            raise AsdError(f'Size "{size}" has no machine "{name}". Allowed: {", ".join(amount.machines)}.')
    about = {"name": size, "kind": "simulated", "size": size, "seed": seed, "version": VERSION}
    _claim(root, about)
    missing = [name for name in names if not _is_finished(root / name, _specification(name, amount, seed))]
    _check_space(root, sum(_bytes(name, amount) for name in missing))
    write_json(root / ABOUT, about)
    for position, name in enumerate(missing):
        _record_machine(root, name, amount, seed, processes, _Part(progress, position, len(missing), name))
    write_text(root / TRUTH, _truth_table([n for n in amount.machines if (root / n).is_dir()], amount, seed))
    progress(1.0, f"{len(names)} simulated machines are in {root}")


@dataclass(frozen=True)
class _Part:
    """Progress of one of several machines."""

    progress: Progress
    position: int
    count: int
    name: str

    def __call__(self, fraction: float) -> None:
        self.progress((self.position + fraction) / self.count, f"simulating {self.name}")


def _record_machine(root: Path, name: str, size: Size, seed: int, processes: int | None, report: _Part) -> None:
    """Write one machine into a hidden folder and rename it when it is complete."""
    machine = MACHINES[name]
    takes = plan(machine, size, seed)
    partial = root / f".{name}.part"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        # until the end the splits have names under which no scan would find them
        for split in (TRAIN, TEST):
            (partial / f".{split}").mkdir(parents=True)
        for done, (take, samples) in enumerate(_rendered(name, size, seed, takes, processes)):
            _write_wav(partial / f".{take.split}" / take.file_name, samples)
            report((done + 1) / len(takes))
        write_text(partial / "attributes_00.csv", _attribute_table(machine, takes))
        write_json(partial / MARK, {"specification": _specification(name, size, seed), "version": VERSION})
        for split in (TRAIN, TEST):
            (partial / f".{split}").rename(partial / split)
        partial.rename(root / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rendered(
    name: str, size: Size, seed: int, takes: list[Take], processes: int | None
) -> Iterator[tuple[Take, np.ndarray]]:
    """(take, samples) of every clip in order, rendered here or by several processes."""
    if processes is None:
        processes = joblib.cpu_count() if len(takes) * size.seconds(MACHINES[name]) > SMALL else 1
    work = (joblib.delayed(pcm)(name, size, seed, take) for take in takes)
    return joblib.Parallel(n_jobs=processes, return_as="generator", batch_size=8)(work)


def _write_wav(path: Path, samples: np.ndarray) -> None:
    soundfile.write(path, samples.T, audio.SAMPLE_RATE, subtype="PCM_16", format="WAV")


def _specification(name: str, size: Size, seed: int) -> str:
    """A digest of everything that decides a machine's bytes."""
    machine = MACHINES[name]
    amount = [size.train_source, size.train_target, size.test_each, size.seconds(machine)]
    return digest([VERSION, seed, amount, asdict(machine), type(machine.model).__name__])


def _is_finished(folder: Path, specification: str) -> bool:
    if not folder.exists():
        return False
    mark = folder / MARK
    if not mark.is_file():
        raise AsdError(f"{folder} is there but was not simulated. Choose another folder, or move it away.")
    if read_json(mark).get("specification") != specification:
        raise AsdError(
            f"{folder} was simulated with other settings or by another version. "
            f"Delete it to make it anew, or choose another folder."
        )
    return True


def _claim(root: Path, about: dict[str, object]) -> None:
    """Refuse a folder that holds something else than this very data set."""
    if root.exists() and not root.is_dir():
        raise AsdError(f"{root} is a file. Choose a folder.")
    described = root / ABOUT
    if described.is_file():
        found = read_json(described)
        if not isinstance(found, dict) or any(found.get(key) != value for key, value in about.items()):
            raise AsdError(
                f"{root} holds another data set ({found}); this one would be {about}. "
                f"Choose another folder, or delete it."
            )
    elif root.is_dir() and any(not path.name.startswith(".") for path in root.iterdir()):
        raise AsdError(f"{root} is not empty and was not made by the simulator. Choose a new or empty folder.")


def _bytes(name: str, size: Size) -> int:
    clips = size.train_source + size.train_target + 4 * size.test_each
    return round(clips * (size.seconds(MACHINES[name]) * audio.SAMPLE_RATE * 4 + 4096))


def _check_space(root: Path, needed: int) -> None:
    place = root.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed * 1.02 > free:
        raise AsdError(
            f"The simulated machines need {needed / 1e6:.0f} MB, {place} has {free / 1e6:.0f} MB left. "
            f"Free some space, choose another folder, or a smaller size ({', '.join(SIZES)})."
        )


def _attribute_table(machine: Machine, takes: list[Take]) -> str:
    """``attributes_00.csv``: file_name,d1p,d1v,… for every clip whose attributes may be known."""
    shown = [take for take in takes if machine.labelled or take.split == TRAIN]
    pairs = max(len(take.setting.attributes) for take in shown)
    header = ["file_name", *(f"d{i + 1}{letter}" for i in range(pairs) for letter in "pv")]
    rows = [
        [f"{machine.name}/{take.split}/{take.file_name}", *(word for pair in take.setting.attributes for word in pair)]
        for take in shown
    ]
    return _csv([header, *rows])


def _truth_table(names: list[str], size: Size, seed: int) -> str:
    """What the names of the evaluation machines' test clips hide: file_name,domain,label (1 = anomaly)."""
    rows: list[list[object]] = [["file_name", "domain", "label"]]
    for name in names:
        if not MACHINES[name].labelled:
            takes = (take for take in plan(MACHINES[name], size, seed) if take.split == TEST)
            rows += [[f"{name}/{TEST}/{take.file_name}", take.domain, take.label] for take in takes]
    return _csv(rows)


def _csv(rows: list[list[object]] | list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
