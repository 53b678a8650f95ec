"""Simulated machines: the layout, that equal seeds give equal bytes, and that the physics can be measured."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest

from asd_core.data import audio
from asd_core.data.manifest import attribute_text, parse_name, scan
from asd_core.data.simulate import MACHINES, SIZES, simulate
from asd_core.data.simulate.machines import Bearing, Run
from asd_core.data.simulate.rooms import TAIL, factory
from asd_core.data.simulate.signals import coloured, passages, ring, strikes, tilt, turn
from asd_core.data.simulate.write import SEVERITIES, TRUTH, _acoustics, _run, plan, render
from asd_core.types import ANOMALY, NORMAL, SOURCE, TARGET, TEST, TRAIN, AsdError, Cancelled

TINY = SIZES["tiny"]


def contents(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "set"
    simulate(folder, "tiny")
    return folder


def test_the_layout_scans_without_problems(root: Path) -> None:
    data = scan(root)
    assert (data.kind, data.name, data.problems) == ("simulated", "tiny", ())
    assert data.machines == sorted(TINY.machines)
    for row in data.counts().to_dict("records"):
        assert (row["train_source"], row["train_target"]) == (TINY.train_source, TINY.train_target)
        quarters = [row[f"test_{domain}_{label}"] for domain in (SOURCE, TARGET) for label in ("normal", "anomaly")]
        if MACHINES[row["machine"]].labelled:
            assert (quarters, row["test_unlabelled"]) == ([TINY.test_each] * 4, 0)
        else:
            assert (quarters, row["test_unlabelled"]) == ([0] * 4, 4 * TINY.test_each)
    for clip in data.clips:
        header = audio.info(clip.path)
        assert (header.sample_rate, header.channels) == (16_000, 2)
        assert header.seconds == pytest.approx(TINY.seconds(MACHINES[clip.machine]))


def test_levels_leave_headroom(root: Path) -> None:
    for clip in scan(root).clips:
        wave = audio.read(clip.path)
        assert np.abs(wave).max() < 0.9
        level = 20 * np.log10(np.sqrt((wave**2).mean(1)))
        assert ((level > -40) & (level < -12)).all(), clip.clip_id


def test_the_attribute_table_says_what_the_names_say(root: Path) -> None:
    for machine in TINY.machines:
        with (root / machine / "attributes_00.csv").open() as file:
            header, *rows = csv.reader(file)
        listed = {row[0] for row in rows}
        assert header[0] == "file_name"
        for name, *words in rows:
            path = root / name
            assert path.is_file()
            clip, truth = parse_name(machine, path)
            assert tuple(zip(words[::2], words[1::2], strict=True)) == (truth or clip).attributes
        named = [clip for clip in scan(root).of(machine) if MACHINES[machine].labelled or clip.split == TRAIN]
        assert listed == {clip.clip_id for clip in named}


def test_truth_of_evaluation_machines_stands_apart(root: Path) -> None:
    with (root / TRUTH).open() as file:
        rows = list(csv.DictReader(file))
    machines = [name for name in TINY.machines if not MACHINES[name].labelled]
    data = scan(root)
    assert [row["file_name"] for row in rows] == [c.clip_id for name in machines for c in data.of(name, TEST)]
    groups = [(row["domain"], int(row["label"])) for row in rows]
    for group in [(SOURCE, NORMAL), (SOURCE, ANOMALY), (TARGET, NORMAL), (TARGET, ANOMALY)]:
        assert groups.count(group) == TINY.test_each * len(machines)
    assert not any(data.is_labelled(name) for name in machines)
    assert groups != sorted(groups)  # the numbering tells nothing


def test_equal_seeds_give_equal_bytes_in_one_process_or_two(root: Path, tmp_path: Path) -> None:
    name = "fanSim"
    simulate(tmp_path / "two", "tiny", [name], processes=2)
    simulate(tmp_path / "other", "tiny", [name], seed=1)
    first = contents(root / name)
    assert contents(tmp_path / "two" / name) == first
    other = contents(tmp_path / "other" / name)
    assert not any(other[key] == value for key, value in first.items() if key.endswith(".wav") and key in other)


def test_interrupted_and_repeated_is_as_if_never_interrupted(root: Path, tmp_path: Path) -> None:
    def stop(fraction: float, message: str, **values: float) -> None:
        if fraction > 0.7:
            raise Cancelled

    names = ["fanSim", "gearboxSim"]
    with pytest.raises(Cancelled):
        simulate(tmp_path / "set", "tiny", names, progress=stop)
    assert scan(tmp_path / "set").machines == ["fanSim"]
    kept = (tmp_path / "set" / "fanSim" / "attributes_00.csv").stat().st_mtime_ns
    seen: list[float] = []
    simulate(tmp_path / "set", "tiny", names, progress=lambda fraction, message, **_: seen.append(fraction))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert (tmp_path / "set" / "fanSim" / "attributes_00.csv").stat().st_mtime_ns == kept
    for name in names:
        assert contents(tmp_path / "set" / name) == contents(root / name)
    assert not list((tmp_path / "set").glob(".*"))


def test_other_peoples_folders_are_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(AsdError, match="not empty"):
        simulate(tmp_path / "mine", "tiny")
    before = contents(root)
    with pytest.raises(AsdError, match="holds another data set"):
        simulate(root, "tiny", seed=7)
    simulate(tmp_path / "set", "tiny", ["fanSim"])
    (tmp_path / "set" / "gearboxSim" / "train").mkdir(parents=True)
    with pytest.raises(AsdError, match="was not simulated"):
        simulate(tmp_path / "set", "tiny")
    with pytest.raises(AsdError, match="Allowed: tiny"):
        simulate(tmp_path / "x", "huge")
    with pytest.raises(AsdError, match="has no machine"):
        simulate(tmp_path / "x", "tiny", ["fan"])
    assert contents(root) == before


@pytest.mark.parametrize("name", MACHINES)
def test_plan_at_full_scale(name: str) -> None:
    machine, size = MACHINES[name], SIZES["full"]
    takes = plan(machine, size, 0)
    assert len(takes) == 1200
    assert len({(take.split, take.file_name) for take in takes}) == 1200
    for domain in (SOURCE, TARGET):
        ill = [take for take in takes if take.domain == domain and take.label == ANOMALY]
        assert {(take.fault, take.severity) for take in ill} == {
            (fault, severity) for fault in machine.model.faults for severity in SEVERITIES
        }
    assert all(not take.fault for take in takes if take.label == NORMAL)
    assert not any(take.fault and take.fault.split()[0] in take.file_name for take in takes)


def test_attributes_follow_the_conventions_of_the_real_machines() -> None:
    def shown(name: str, domain: str) -> set[str]:
        return {attribute_text(setting.attributes) for setting in MACHINES[name].settings(domain)}

    assert shown("fanSim", SOURCE) == shown("fanSim", TARGET) == {"spd_1", "spd_2", "spd_3"}
    disjoint = {"gearboxSim": (6, 3), "ToyCarEmuSim": (18, 4), "BlowerSim": (4, 2), "SanderSim": (6, 9)}
    disjoint["ToyDroneSim"] = (8, 2)
    for name, counts in disjoint.items():
        source, target = shown(name, SOURCE), shown(name, TARGET)
        assert (len(source), len(target)) == counts
        assert not source & target
    for name in set(MACHINES) - {"fanSim", *disjoint}:
        assert shown(name, SOURCE) == shown(name, TARGET) == {"noAttribute"}
    assert "car_A1_spd_1_mic_2_mic_1" in shown("ToyCarEmuSim", TARGET)


def spectrum(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (Hz) and the magnitudes of a Hann-windowed wave."""
    return np.fft.rfftfreq(len(wave), 1 / audio.SAMPLE_RATE), np.abs(np.fft.rfft(wave * np.hanning(len(wave))))


def strongest(wave: np.ndarray, expected: float, within: float = 0.1) -> float:
    """Frequency in Hz of the strongest line within ± `within` (relative) of `expected` Hz."""
    frequency, magnitude = spectrum(wave)
    near = abs(frequency / expected - 1) < within
    return float(frequency[near][magnitude[near].argmax()])


@pytest.mark.parametrize(("name", "order"), [("fanSim", 7), ("ToyCarSim", 6), ("gearboxSim", 19)])
def test_tones_stand_at_the_speed_of_the_setting(name: str, order: int) -> None:
    machine = MACHINES[name]
    setting = machine.source[0]
    run = _run(machine, setting, 0, seed=0, load=0.0)
    sound = machine.model.sound(run, 32_000, np.random.default_rng(1))
    assert strongest(sound, order * setting.speed) == pytest.approx(order * setting.speed, rel=0.02)


def test_recorded_fan_turns_as_its_attribute_says() -> None:
    machine = MACHINES["fanSim"]
    for take in plan(machine, TINY, 0)[:6]:
        frequency, magnitude = spectrum(render("fanSim", TINY, 0, take)[0])
        candidates = np.arange(20.0, 36.0, 0.05)  # Hz
        comb = np.log(np.interp(candidates[:, None] * 7 * np.arange(1, 7), frequency, magnitude)).sum(1)
        # speeds vary by 1.5 % from clip to clip
        assert candidates[comb.argmax()] == pytest.approx(take.setting.speed, rel=0.06)


def test_low_voltage_slows_the_motor() -> None:
    model = MACHINES["ToyCarSim"].model
    found = []
    for severity in (0.0, 1.0):
        run = Run(130.0, 0.0, 5, fault="low voltage", severity=severity)
        found.append(strongest(model.sound(run, 32_000, np.random.default_rng(2)), 6 * 130.0, 0.15))
    assert found[1] / found[0] == pytest.approx(0.92, abs=0.02)


@pytest.mark.parametrize("fault", Bearing().faults)
def test_bearing_faults_strike_at_the_ball_pass_rates(fault: str) -> None:
    model, speed = Bearing(), 25.0
    orders = {
        "outer race": model.balls / 2 * (1 - model.ratio),
        "inner race": model.balls / 2 * (1 + model.ratio),
        "ball": (1 - model.ratio**2) / model.ratio,
    }

    def envelope_line(severity: float) -> float:
        """Strength of the passing rate in the envelope of the resonances, over its surroundings."""
        sound = model.sound(Run(speed, 0.5, 3, fault=fault, severity=severity), 128_000, np.random.default_rng(3))
        power = np.convolve(np.diff(sound) ** 2, np.ones(16) / 16, "same")
        frequency, magnitude = spectrum(power - power.mean())
        offset = abs(frequency / (orders[fault] * speed) - 1)
        return float((magnitude[offset < 0.01] ** 2).mean() / np.median(magnitude[offset < 0.25] ** 2))

    assert envelope_line(1.5) > 3 * envelope_line(0.0)


@pytest.mark.parametrize("name", MACHINES)
def test_the_far_microphone_hears_more_noise(name: str) -> None:
    machine, samples = MACHINES[name], 32_000
    for domain in (SOURCE, TARGET):
        rng = np.random.default_rng(0)
        setting = machine.settings(domain)[0]
        sound = machine.model.sound(_run(machine, setting, setting.specimens[0], 0), TAIL + samples, rng)
        sources = np.vstack([sound[None], factory(machine.site(domain), TAIL + samples, rng)])
        heard = _acoustics(name, domain, samples, 0).hear(sources)
        near, far = 10 * np.log10((heard[0] ** 2).mean(-1) / (heard[1:].sum(0) ** 2).mean(-1))
        assert far < near - 2.5
        assert -3 < near < 20


@pytest.mark.parametrize("name", MACHINES)
def test_every_fault_changes_the_sound_and_severity_grows_the_change(name: str) -> None:
    machine = MACHINES[name]
    setting = machine.source[0]
    for fault in machine.model.faults:

        def sound(severity: float, fault: str = fault) -> np.ndarray:
            run = _run(machine, setting, setting.specimens[0], 0, fault=fault, severity=severity)
            return machine.model.sound(run, 16_000, np.random.default_rng(4))

        healthy = sound(0.0)
        assert np.isfinite(healthy).all()
        assert np.isfinite(sound(1.5)).all()
        assert 0.1 < healthy.std() < 4
        assert np.abs(sound(1.0) - healthy).max() > 0


def test_signal_blocks() -> None:
    rng = np.random.default_rng(0)
    assert coloured(rng, 50_000, tilt(0.5)).std() == pytest.approx(1, abs=0.1)
    angle = turn(rng, 10.0, 16_000, 0.0)
    assert np.diff(passages(angle)) == pytest.approx(1600)
    pulses = strikes(np.array([10.25, 99.0]), np.array([1.0, 2.0]), 100)
    assert pulses[[10, 11]].tolist() == [0.75, 0.25]
    assert pulses.sum() == 1.0  # the second would need a sample beyond the end
    assert ring(np.eye(1, 8)[0], np.array([1.0, 0.5])).tolist() == pytest.approx([1, 0.5, 0, 0, 0, 0, 0, 0])
