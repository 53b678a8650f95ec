"""Embeddings on disk: nothing is lost, nothing unsafe is read, and patches stay there until they are used."""

import dataclasses
import errno
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asd_core import config
from asd_core.artifacts import MIXED, Run, how_again, read_embeddings, read_rows, write_embeddings, writing_rows
from asd_core.files import write_text
from asd_core.pipeline.embedding import Rows, embed, embed_parts
from asd_core.pipeline.tasks import embeddings_file
from asd_core.scorers.localized import Localized
from asd_core.types import SAMPLE_RATE, AsdError, Clip, EmbeddingSet, Grid

SHAPES = {"vector": (6,), "bands": (3, 4, 6), "patches": (9, 4, 6)}
GRID = Grid(0.16, (20.0, 300.1, 1000.0, 3000.0, 8000.0))


def embeddings(kind, n=5, **more) -> EmbeddingSet:
    dtype = np.float16 if kind == "patches" else np.float32
    x = np.random.default_rng(0).normal(size=(n, *SHAPES[kind])).astype(dtype)
    ids = np.array([f"fan/train/ü {i}.wav" for i in range(n)])
    domains = np.array(["source"] * (n - 1) + ["target"])
    return EmbeddingSet(x, ids, np.full(n, "00"), domains, **more)


def assert_same(one: EmbeddingSet, other: EmbeddingSet) -> None:
    for field in dataclasses.fields(EmbeddingSet):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b, field.name)
        else:
            assert a == b, field.name


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"attributes": np.array(["", "vel_4", "vel_4", "loc_A", ""]), "grid": GRID},
        {"steps": np.array([9, 3, 9, 1, 7])},
    ],
    ids=["plain", "attributes and grid", "steps"],
)
def test_round_trip(tmp_path, kind, more):
    given = embeddings(kind, **more)
    write_embeddings(tmp_path / "e.npz", given)
    found = read_embeddings(tmp_path / "e.npz")
    assert_same(given, found)
    assert isinstance(found.x, np.memmap) == (kind != "vector")
    assert_same(given[np.array([3, 0])], found[np.array([3, 0])])


def test_consecutive_rows_are_not_copied():
    given = embeddings("patches", n=6, steps=np.array([9, 3, 9, 1, 7, 2]))
    for rows in (slice(1, 4), np.array([False, True, True, True, False, False])):
        found = given[rows]
        assert_same(found, given[np.array([1, 2, 3])])
        assert np.shares_memory(found.x, given.x)
    scattered = np.array([True, False, True, False, False, False])
    assert_same(given[scattered], given[np.array([0, 2])])
    assert len(given[np.zeros(6, dtype=bool)]) == 0


def test_a_run_is_made_again_by_its_system_and_a_fusion_from_its_file(tmp_path):
    about = {"system": "a b", "data": {"name": "demo"}, "profile": "quick", "seed": 3}
    run = Run(tmp_path / "runs" / "r", about)
    assert how_again(run) == "python -m asd_core run 'a b' --data demo --profile quick --seeds 3"
    assert " --data 'my data' " in how_again(run, "my data")
    file = str(tmp_path / "systems" / "fusion-1.yaml")
    fusion = Run(run.folder, about | {"system": "fusion-1", "members": ["x", "y"]})
    assert how_again(fusion) == f"python -m asd_core run {file} --data demo --profile quick --seeds 3"
    fusion.record["profile"] = MIXED
    assert "--profile full" in how_again(fusion)
    config.load_profile("full")
    from_file = Run(run.folder, about | {"system": "fusion-1"})
    assert file not in how_again(from_file)
    write_text(Path(file), "name: fusion-1")
    assert file in how_again(from_file), "a run of that file has no members"
    elsewhere = Run(run.folder, about | {"system": "fusion-1", "file": "/else where/mine.yaml"})
    assert "run '/else where/mine.yaml' --data" in how_again(elsewhere)


def test_writing_again_replaces(tmp_path):
    """Also while somebody still looks at what was there."""
    first, second = embeddings("patches"), embeddings("patches", n=2)
    write_embeddings(tmp_path / "e.npz", first)
    open_still = read_embeddings(tmp_path / "e.npz")
    write_embeddings(tmp_path / "e.npz", second)
    assert_same(read_embeddings(tmp_path / "e.npz"), second)
    np.testing.assert_array_equal(open_still.x, first.x)


def test_a_scorer_sees_no_difference(tmp_path):
    given = embeddings("patches", n=12)
    write_embeddings(tmp_path / "e.npz", given)
    found = read_embeddings(tmp_path / "e.npz")
    np.testing.assert_array_equal(Localized().fit(found).score(found), Localized().fit(given).score(given))


@pytest.mark.parametrize("kept", [20, 200])
def test_truncated_patches_are_refused(tmp_path, kept):
    write_embeddings(tmp_path / "e.npz", embeddings("patches"))
    file = tmp_path / "e.npy"
    file.write_bytes(file.read_bytes()[:kept])  # in the header, in the data
    with pytest.raises(AsdError, match=r"e\.npy cannot be read safely .* Delete its folder"):
        read_embeddings(tmp_path / "e.npz")


def test_pickled_patches_are_refused(tmp_path):
    write_embeddings(tmp_path / "e.npz", embeddings("patches"))
    np.save(tmp_path / "e.npy", np.array([print, {}], dtype=object), allow_pickle=True)
    with pytest.raises(AsdError, match="cannot be read safely"):
        read_embeddings(tmp_path / "e.npz")
    np.savez(tmp_path / "e.npz", x=np.array([print], dtype=object))
    with pytest.raises(AsdError, match="cannot be read safely"):
        read_embeddings(tmp_path / "e.npz")


@pytest.mark.parametrize(
    ("name", "damage"), [("e.npz", "cut"), ("e.npz", "emptied"), ("e.npz", "a byte"), ("e.npy", "emptied")]
)
def test_damaged_arrays_are_refused(tmp_path, name, damage):
    """Of the size they should have, too: that is all `is_done` looks at."""
    write_embeddings(tmp_path / "e.npz", embeddings("patches"))
    payload = bytearray((tmp_path / name).read_bytes())
    payload[payload.index(b"NUMPY") + 20] ^= 0xFF  # in the header of the first array
    (tmp_path / name).write_bytes({"cut": payload[:100], "emptied": b"", "a byte": payload}[damage])
    with pytest.raises(AsdError, match=rf"{name} cannot be read safely .* Delete"):
        read_embeddings(tmp_path / "e.npz")


MEASURE = """
import sys
from pathlib import Path
from asd_core.artifacts import read_embeddings

def resident():  # kB
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])

before = resident()
clips = read_embeddings(Path(sys.argv[1]))
assert clips.x.nbytes > 1e9
float(clips.x[500, :, 3].sum())
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_reading_a_gigabyte_of_patches_does_not_load_it(tmp_path):
    n = 1400
    patches = np.lib.format.open_memmap(tmp_path / "e.npy", "w+", np.float16, (n, 62, 8, 768))  # a sparse file
    del patches
    small = embeddings("vector", n)
    words = {name: getattr(small, name) for name in ("clip_ids", "sections", "domains")}
    np.savez(tmp_path / "e.npz", **words)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "e.npz")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 20_000  # kB


# ---------------------------------------------------------------- how they come together


def recorded(folder, *seconds) -> list[Clip]:
    clips, rng = [], np.random.default_rng(0)
    for i, length in enumerate(seconds):
        path = folder / f"{i}.wav"
        soundfile.write(path, 0.1 * rng.normal(size=(round(length * SAMPLE_RATE), 2)), SAMPLE_RATE)
        clips.append(Clip(f"fan/train/{i}.wav", path, "fan", "train", "00", "source"))
    return clips


def test_clips_of_different_length_in_one_machine(tmp_path):
    clips = recorded(tmp_path, 1.0, 2.5, 0.7)
    view = {"name": "logmel_patches"}
    found = embed(clips, view, None)["view"]
    alone = [embed([clip], view, None)["view"] for clip in clips]
    assert all(one.steps is None for one in alone)
    lengths = [one.x.shape[1] for one in alone]
    assert lengths[2] < lengths[0] < lengths[1]
    assert list(found.steps) == lengths
    assert found.x.shape[1] == lengths[1]
    assert found.x.dtype == np.float16
    for row, one, length in zip(found.x, alone, lengths, strict=True):
        np.testing.assert_array_equal(row[:length], one.x[0])
        assert not row[length:].any()
    write_embeddings(tmp_path / "e.npz", found)
    assert_same(read_embeddings(tmp_path / "e.npz"), found)


@pytest.mark.parametrize("seconds", [(0.7, 1.0, 2.5, 1.0), (1.0, 1.0, 1.0)], ids=["longer and longer", "alike"])
def test_patches_that_are_written_as_they_come_are_the_same(tmp_path, seconds):
    clips = recorded(tmp_path, *seconds)
    view = {"name": "logmel_patches"}
    parts = {"train": clips[:1], "test": clips[1:]}
    written = embed_parts(parts, view, None, folder=tmp_path / "task")
    for part, own in parts.items():
        held = embed(own, view, None)["view"]
        found = written[part]["view"]
        assert isinstance(found.x, np.memmap)
        assert_same(found, held)
        path = embeddings_file(tmp_path / "task", part, "view")
        write_embeddings(path, found, with_rows=False)
        assert_same(read_embeddings(path), held)


def test_nothing_is_left_of_patches_that_could_not_be_written(tmp_path):
    def write() -> None:
        with writing_rows(tmp_path / "e.npz", 3) as rows:
            rows.append(np.ones((4, 2), dtype=np.float16))
            rows.append(np.ones((6, 2), dtype=np.float16))
            raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(AsdError, match="The disk is full"):
        write()
    assert not list(tmp_path.iterdir())


def test_patches_of_many_clips_take_no_memory(tmp_path):
    row = np.ones((62, 8, 96), dtype=np.float32)
    tracemalloc.start()
    try:
        with writing_rows(tmp_path / "e.npz", 300) as file:
            rows = Rows(300, "patches", file)
            for _ in range(300):
                rows.append(row)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * row.nbytes
    assert read_rows(tmp_path / "e.npz").shape == (300, *row.shape)


@pytest.mark.parametrize(("kind", "dtype"), [("vector", np.float32), ("bands", np.float32), ("patches", np.float16)])
def test_rows_are_what_was_appended(kind, dtype):
    given = np.random.default_rng(0).normal(size=(7, *SHAPES[kind])).astype(np.float32)
    rows = Rows(7, kind)
    for row in given:
        rows.append(row)
    assert rows.x.dtype == dtype
    np.testing.assert_array_equal(rows.x, given.astype(dtype))
    assert rows.valid_steps() is None


def test_patches_are_in_memory_once():
    row = np.ones((62, 8, 96), dtype=np.float32)
    tracemalloc.start()
    try:
        rows = Rows(200, "patches")
        for _ in range(200):
            rows.append(row)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.05 * rows.x.nbytes
