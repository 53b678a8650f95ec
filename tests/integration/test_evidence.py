"""Evidence, from recordings to what is said of a clip; and whether planted faults are found where they are."""

import json

import numpy as np
import pytest

from asd_core import api
from asd_core.artifacts import Workspace, how_again
from asd_core.data.manifest import scan
from asd_core.types import SAMPLE_RATE
from tests import planted
from tests.conftest import asd

SYSTEM = """
name: three-ways
title: Three ways to look
idea: Places in time and frequency, whole clips, and a scorer that cannot tell.
family: Tests
branches:
  - {name: local, view: {name: logmel_patches}, scorer: {name: localized, stride: 1, window: 2}}
  - {name: whole, view: {name: logmel_statistics}, scorer: {name: knn, metric: euclidean, standardise: true}}
  - {name: silent, view: {name: logmel_statistics}, scorer: {name: mahalanobis}}
fusion: {name: weighted, normalise: ztrain, weights: [2, 1, 1]}
"""


@pytest.fixture(scope="module")
def street(tmp_path_factory, tiny_data):
    folder = tmp_path_factory.mktemp("evidence")
    (folder / "three-ways.yaml").write_text(SYSTEM)
    machines = ("--machines", "fanSim", "--machines", "ToyCarSim")
    where = ("--data", tiny_data, "--workspace", folder / "workspace")
    result = asd("run", folder / "three-ways.yaml", *where, *machines, "--device", "cpu")
    assert result.returncode == 0, result.stderr
    return folder / "workspace"


def test_a_run_is_explained_clip_by_clip(street, tiny_data):
    (run,) = api.runs(Workspace(street))
    data = scan(tiny_data)
    training = {clip.clip_id for machine in run.record["machines"] for clip in data.of(machine, "train")}
    for clip_id in run.scores.query("split == 'test'")["clip_id"]:
        told = api.results.explanation(Workspace(street), run, clip_id)
        assert sum(stream.contribution for stream in told.streams) == pytest.approx(told.score - told.usual, abs=1e-9)
        local, whole, silent = told.branches
        values = np.sort(local.map.values, axis=None)[::-1]
        most = int(np.ceil(0.1 * len(values)))  # the scorer's own aggregate of what is shown
        assert values[:most].mean() == pytest.approx(local.score, rel=1e-5)
        assert whole.map.values.item() == pytest.approx(whole.score, rel=1e-6)
        assert (whole.places[0].start, whole.places[0].stop) == (0, None)
        assert silent.map is None
        matches = {place.match for place in (*local.places, *whole.places)}
        assert matches <= {one for one in training if one.startswith(told.machine)}


def test_a_recipe_of_ones_own_is_run_again_from_its_file(street):
    (run,) = api.runs(Workspace(street))
    assert f" run {street.parent / 'three-ways.yaml'} --data " in how_again(run)


def test_the_command_finds_what_the_reader_reads(street):
    (run,) = api.runs(Workspace(street))
    clip_id = run.scores.query("split == 'test'")["clip_id"].iloc[-1]
    result = asd("explain", clip_id, "--run", "three-ways", "--json", "--workspace", street)
    assert result.returncode == 0, result.stderr
    said, told = json.loads(result.stdout), api.results.explanation(Workspace(street), run, clip_id)
    assert said["score"] == told.score
    assert [place["start"] for place in said["branches"][0]["places"]] == [p.start for p in told.branches[0].places]
    assert "judges a clip as a whole" in said["branches"][2]["why_no_evidence"]


@pytest.mark.parametrize("fault", [planted.CLICK, planted.TONE], ids=lambda fault: fault.name)
def test_faults_have_the_stated_level_and_are_nowhere_else(fault):
    rng = np.random.default_rng(0)
    wave = planted.healthy("fanSim", rng)
    edges = (0.0, 1000.0, 2000.0, 8000.0)
    changed, start, band = planted.plant(wave, fault, edges, rng)
    added = (changed - wave)[0].astype(float)
    inside = slice(round(start * SAMPLE_RATE), round((start + fault.seconds) * SAMPLE_RATE))
    reference = wave[0].astype(float)
    if band is not None:
        hertz, spectrum = np.fft.rfftfreq(len(reference), 1 / SAMPLE_RATE), np.fft.rfft(reference)
        reference = np.fft.irfft(np.where((hertz >= band[0]) & (hertz < band[1]), spectrum, 0))
        power = np.abs(np.fft.rfft(added)) ** 2
        assert power[(hertz >= band[0]) & (hertz < band[1])].sum() > 0.99 * power.sum()
    level = 20 * np.log10(planted.rms(added[inside]) / planted.rms(reference))
    assert level == pytest.approx(fault.level, abs=0.05)
    outside = np.delete(added, np.arange(inside.start - 1, inside.stop + 1))
    assert not outside.any()


def test_planted_faults_are_found_where_they_are():
    """Where a score of the whole clip misses at least half of them."""
    trials = planted.trials()
    faults = [trial for trial in trials if trial.fault != planted.NOTHING]
    assert len(faults) == 200
    assert planted.rate(faults, "is_found") >= 0.95
    assert planted.rate(faults, "flagged_globally") <= 0.5
    by_chance = planted.rate([trial for trial in trials if trial.fault == planted.NOTHING], "is_found")
    assert by_chance < 0.1  # an unchanged clip has its highest score somewhere else
