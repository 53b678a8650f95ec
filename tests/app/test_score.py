"""Dropped recordings: what is taken and what is refused, and the page around them. Files are hostile until checked."""

import io
import json
import shutil
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import soundfile

from asd_core import api, jobs
from asd_core.artifacts import Workspace
from asd_core.data import audio
from asd_core.pipeline import loose
from asd_core.types import SAMPLE_RATE, AsdError, Evidence
from pages.components import context
from tests.app.test_data import table, texts

RNG = np.random.default_rng(3)
RUN = "logmel-knn--workshop--quick--seed0"


def sound(
    seconds: float = 2.0, channels: int = 2, rate: int = SAMPLE_RATE, subtype: str = "PCM_16", kind: str = "WAV"
) -> bytes:
    wave = 0.1 * RNG.standard_normal((round(seconds * rate), channels))
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind, subtype=subtype)
    return file.getvalue()


def samples(values: np.ndarray, subtype: str = "FLOAT") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, values, SAMPLE_RATE, format="WAV", subtype=subtype)
    return file.getvalue()


def waves(workspace: Workspace, one: api.Upload) -> np.ndarray:
    return audio.read(api.clip(workspace, one.source, one.clip_id).path)


# what comes in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subtype", "kind"), [("PCM_16", "WAV"), ("PCM_U8", "WAV"), ("PCM_24", "WAV"), ("FLOAT", "WAV"), ("PCM_16", "FLAC")]
)
def test_every_encoding_is_kept_sample_for_sample(empty, subtype, kind):
    payload = sound(subtype=subtype, kind=kind)
    one = api.take_upload(empty, "x.wav", payload)
    expected, _ = soundfile.read(io.BytesIO(payload), dtype="float32")
    assert (waves(empty, one) == expected.T).all()
    assert (one.seconds, one.channels, one.notes) == (2.0, 2, ())


def test_the_same_content_is_kept_once_and_called_as_it_came_last(empty):
    payload = sound()
    first, second = (api.take_upload(empty, name, payload) for name in ("a.wav", "b.wav"))
    assert first.id == second.id
    assert api.uploads(empty)[first.id].name == "b.wav"


@pytest.mark.parametrize(
    "name",
    [
        "../../../etc/cron.d/evil.wav",
        "/etc/passwd",
        "..\\..\\windows\\system32\\x.wav",
        "C:\\x.wav",
        "\x00\x1b[31m\u202egnp.wav",
        "<script>alert(1)</script>.wav",
        "![x](http://evil.example/x.png).wav",
        "x" * 5000 + ".wav",
        "",
        "..",
    ],
)
def test_a_name_is_text_and_never_a_path(empty, name):
    one = api.take_upload(empty, name, sound())
    written = sorted(path.relative_to(empty.root).as_posix() for path in empty.root.rglob("*") if path.is_file())
    assert written == [f"uploads/{one.id}/clip.wav", f"uploads/{one.id}/upload.json"]
    assert one.name.isprintable()
    assert 0 < len(one.name) <= 120
    assert "/" not in one.name
    assert "\\" not in one.name


def header_promising(size: int) -> bytes:
    """A WAV of two seconds whose header announces `size` bytes of samples."""
    payload = bytearray(sound())
    at = payload.index(b"data")
    struct.pack_into("<I", payload, at + 4, size)
    struct.pack_into("<I", payload, 4, min(size + 36, 0xFFFFFFFF))
    return bytes(payload)


def flac_promising_hours() -> bytes:
    """A FLAC whose header announces 2³⁶ − 1 samples."""
    payload = bytearray(sound(kind="FLAC"))
    payload[21] |= 0x0F
    payload[22:26] = b"\xff\xff\xff\xff"
    return bytes(payload)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"", "is empty: 0 bytes"),
        (b"these are words, not sound\n" * 50, "cannot be read as sound"),
        (b"RIFF\x00\x00\x00\x00WAVE", "cannot be read as sound"),
        (sound()[:30], "cannot be read as sound"),
        (sound(kind="AIFF"), "is a AIFF file"),
        (samples(np.full((SAMPLE_RATE * 2, 2), np.nan)), "NaN or infinite"),
        (samples(np.full((SAMPLE_RATE * 2, 1), np.inf)), "NaN or infinite"),
        (samples(np.zeros((1, 2)), "PCM_16"), "lasts 0.000 s"),
        (samples(np.zeros((0, 2)), "PCM_16"), "lasts 0.000 s"),
        (sound(0.5), "lasts 0.500 s; scored are 1 to 300 s"),
        (sound(400, channels=1, rate=8000, subtype="PCM_U8"), "lasts 7 min"),
        (sound(2, rate=4000), "rate of 4000 Hz"),
        (sound(1.2, channels=40), "40 channels"),
        (flac_promising_hours(), "min by its header; allowed are 5 min"),
        (b"\x00" * 50_000_001, "50 MB"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused_leaves_nothing_behind(empty, payload, said):
    with pytest.raises(AsdError, match=said):
        api.take_upload(empty, "x.wav", payload)
    assert not empty.uploads.exists()


@pytest.mark.parametrize(("size", "said"), [(4_000_000_000, "announces 31,250.0 times as much"), (0xFFFFFFFF, "")])
def test_a_header_that_promises_gigabytes_costs_nothing(empty, size, said):
    """What is there is taken; 2³² − 1 is what recorders write that do not know the length yet."""
    tracemalloc.start()
    one = api.take_upload(empty, "x.wav", header_promising(size))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert one.seconds == 2.0
    assert said in " ".join(one.notes)
    assert bool(one.notes) == bool(said)
    assert most < 20e6


def test_other_rates_are_resampled_and_said(empty):
    t = np.arange(96_000 * 2) / 96_000
    file = io.BytesIO()
    soundfile.write(file, 0.5 * np.sin(2 * np.pi * 1000 * t), 96_000, format="WAV", subtype="PCM_24")
    one = api.take_upload(empty, "x.wav", file.getvalue())
    wave = waves(empty, one)
    assert wave.shape == (1, 2 * SAMPLE_RATE)
    spectrum = np.abs(np.fft.rfft(wave[0, SAMPLE_RATE // 2 : SAMPLE_RATE * 3 // 2]))
    assert spectrum.argmax() == 1000
    assert "Resampled from 96,000 Hz" in one.notes[0]
    assert "One channel" in one.notes[1]


def test_of_many_channels_the_first_two_are_taken_and_said(empty):
    payload = sound(channels=6)
    one = api.take_upload(empty, "x.wav", payload)
    expected, _ = soundfile.read(io.BytesIO(payload), dtype="float32")
    assert (waves(empty, one) == expected.T[:2]).all()
    assert one.notes[0].startswith("6 channels: the first is taken as near")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros((SAMPLE_RATE * 2, 2)), "silent"),
        (np.clip(3 * np.sin(np.arange(SAMPLE_RATE * 2) / 9)[:, None], -1, 1), "clipped"),
        (1e4 * np.sin(np.arange(SAMPLE_RATE * 2) / 9)[:, None], "exceeds full scale by 80 dB"),
    ],
)
def test_odd_levels_are_taken_with_a_word(empty, values, said):
    assert said in " ".join(api.take_upload(empty, "x.wav", samples(values)).notes)


def test_what_was_broken_is_made_anew_when_it_is_dropped_again(empty):
    one = api.take_upload(empty, "a.wav", payload := sound())
    for spoil in (lambda path: (path / "upload.json").write_text("{}"), lambda path: (path / "clip.wav").unlink()):
        spoil(empty.uploads / one.id)
        assert api.take_upload(empty, "a.wav", payload).id == one.id
        assert (empty.uploads / one.id / "clip.wav").is_file()
        assert list(api.uploads(empty)) == [one.id]


def test_a_broken_folder_is_passed_over(empty):
    one = api.take_upload(empty, "x.wav", sound())
    (empty.uploads / "0123456789abcdef").mkdir()
    (empty.uploads / "0123456789abcdef" / "upload.json").write_text("{ not json")
    assert list(api.uploads(empty)) == [one.id]


# scoring ---------------------------------------------------------------------------------------------------------


def test_scoring_is_refused_for_what_is_not_there(full):
    one = api.take_upload(full, "x.wav", sound())
    good = {"run_id": RUN, "machine": "fan", "section": "00", "upload_ids": [one.id]}
    odd = "../../etc/passwd"
    for change in ({"run_id": odd}, {"machine": odd}, {"section": "07"}, {"upload_ids": [odd]}, {"upload_ids": []}):
        with pytest.raises(AsdError):
            api.start_scoring(full, **(good | change))
    assert jobs.list_jobs(full.jobs) == []


def test_the_job_gets_our_names_only(full):
    one = api.take_upload(full, "--help; rm -rf ~ .wav", sound())
    key, job_id = api.start_scoring(full, RUN, "fan", "00", [one.id, one.id])
    job = api.job(full, job_id)
    assert job.arguments == (
        *("score", str(full.uploads / one.id / "clip.wav"), "--run", RUN, "--machine", "fan", "--section", "00"),
        *("--output", str(full.root / "scored" / key), "--workspace", str(full.root)),
    )
    kept = api.upload(full, one.id)
    assert (kept.machine, kept.data) == ("fan", "workshop")
    assert api.recorded_in(full, kept.source) == "workshop"
    assert api.scoring_job(full, key).id == job_id
    jobs.cancel(job.folder, force=True)


def change_record(workspace: Workspace, **changes: object) -> None:
    path = workspace.run(RUN) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    meta = json.loads((workspace.run(RUN) / "meta.json").read_text())
    meta["files"]["run.json"] = path.stat().st_size
    (workspace.run(RUN) / "meta.json").write_text(json.dumps(meta))


def test_what_is_hard_to_compare_is_said(full):
    (run,) = (run for run in api.runs(full) if run.record["run_id"] == RUN)
    one = api.take_upload(full, "x.wav", sound(2.0, channels=1))
    length, channels = api.comparison_notes(full, run, "fan", one)
    assert length == "It lasts 2.0 s, the machine's clips 0.5 s: compare with care."
    assert "two microphones" in channels


def test_transductive_systems_are_refused_before_the_job(full):
    change_record(full, transductive=True)
    one = api.take_upload(full, "x.wav", sound())
    with pytest.raises(AsdError, match="transductive: it ranks clips among all test clips"):
        api.start_scoring(full, RUN, "fan", "00", [one.id])


def test_mono_is_refused_for_a_system_that_needs_two_microphones(full):
    record = json.loads((full.run(RUN) / "run.json").read_text())
    record["config"]["branches"][0]["view"]["channel"] = "far"
    change_record(full, config=record["config"])
    one, two = (api.take_upload(full, f"{c}.wav", sound(channels=c)) for c in (1, 2))
    with pytest.raises(AsdError, match=r"1\.wav has one channel, and logmel-knn needs both microphones"):
        api.start_scoring(full, RUN, "fan", "00", [one.id, two.id])
    assert api.start_scoring(full, RUN, "fan", "00", [two.id])[1]


def judged(workspace: Workspace, *uploads: api.Upload) -> str:
    """What the job leaves behind, invented: the first recording is flagged, the others are not."""
    key, job_id = api.start_scoring(workspace, RUN, "fan", "00", [one.id for one in uploads])
    jobs.cancel(api.job(workspace, job_id).folder, force=True)
    count = len(uploads)
    scores = np.r_[50.0, np.full(count - 1, 1.0)]
    files = [str(workspace.uploads / one.id / "clip.wav") for one in uploads]
    scored = pd.DataFrame({"file": files, "machine": "fan", "score": scores, "threshold": 6.0})
    scored["decision"], scored["percentile"] = (scores > 6).astype(int), np.where(scores > 6, 100.0, 0.0)
    ids = [f"fan/train/section_00_source_train_normal_{i:04d}_speed_{i % 3 + 1}.wav" for i in range(5)]
    near = pd.DataFrame(
        {"clip_id": ids * count, "row": np.repeat(np.arange(count), 5), "rank": [1, 2, 3, 4, 5] * count}
    )
    near = near.assign(distance=0.1 * near["rank"], domain="source", attributes="speed_1", metric="cosine distance")
    values = RNG.random((count, 4, 2)).astype(np.float32)
    nothing = np.zeros(values.shape, np.int32)
    start = np.arange(4) / 2
    evidence = Evidence(values, nothing, nothing, start, start + 0.5, np.array([0.0, 1000.0, 8000.0]))
    local = loose.Local(evidence, np.array(ids), (0.0, 1.0, 0.9), True, True, "near")
    loose.keep(
        loose.Judged(scored, near.assign(branch="first"), {"first": local}),
        workspace.root / "scored" / key,
        RUN,
        "fan",
        "00",
    )
    return key


def test_results_are_read_and_deleted_with_their_recordings(full):
    one, two = api.take_upload(full, "a.wav", sound()), api.take_upload(full, "b.wav", sound())
    both, single = judged(full, one, two), judged(full, two)
    assert [found.key for found in api.scored(full)] == [single, both]
    found = api.scored(full)[1]
    assert list(found.table["upload"]) == [one.id, two.id]
    assert api.start_scoring(full, RUN, "fan", "00", [two.id, one.id]) == (both, "")
    heats = api.scored_heats(found, two.id)
    assert heats["first"].map.values.shape == (4, 2)
    assert heats["first"].unit.endswith("of the machine's test clips that are not flagged")
    assert api.scored_neighbours(found, two.id)["rank"].tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(AsdError, match="other recordings"):
        api.scored_heats(api.scored(full)[0], one.id)
    api.delete_scored(full, both)
    assert list(api.uploads(full)) == [two.id]  # the other result is of it
    three = api.take_upload(full, "c.wav", sound())
    _, job_id = api.start_scoring(full, RUN, "fan", "00", [two.id, three.id])
    api.delete_scored(full, single)
    assert two.id in api.uploads(full), "a job waits for it"
    api.cancel(full, job_id, force=True)
    single = judged(full, two, three)
    api.delete_scored(full, single)
    assert not api.uploads(full)
    with pytest.raises(AsdError, match="not there any more"):
        api.delete_scored(full, "..")


# the page --------------------------------------------------------------------------------------------------------


def test_nothing_trained_yet(open_app, empty):
    app = open_app(empty, "score")
    assert "none yet" in texts(app)
    assert not app.file_uploader


def test_nothing_dropped_yet(open_app, full):
    app = open_app(full, "score")
    assert app.button(key="score").disabled
    assert "simulated" in texts(app)
    assert not app.error
    assert not (full.root / "scored").exists()
    assert not full.uploads.exists(), "looking must not write"


def test_from_the_drop_to_the_job(open_app, full):
    app = open_app(full, "score", run=RUN, machine="valve")
    hostile = "![x](http://evil.example/x.png) <script>alert(1)</script> [a](b).wav"
    good = (hostile, sound(channels=1, rate=48_000), "audio/wav")
    app.file_uploader(key="dropped").set_value([good, ("b.wav", b"words", "audio/wav")]).run()
    said = texts(app)
    assert "Resampled from 48,000 Hz" in said
    assert "](http" not in said
    assert "<script>" not in said
    assert [("b.wav" in one.value, "cannot be read" in one.value) for one in app.error] == [(True, True)]
    app.button(key="score").click().run()
    assert not app.exception
    (job,) = jobs.list_jobs(full.jobs)
    assert job.arguments[0] == "score"
    assert job.arguments[5] == "valve"
    assert not any("evil" in word for word in job.arguments)
    jobs.cancel(job.folder, force=True)
    app.run()
    assert "cancelled" in texts(app)


def test_a_dropped_recording_can_be_deleted(open_app, full):
    earlier = api.take_upload(full, "earlier.wav", sound(channels=1))
    app = open_app(full, "score", run=RUN)
    app.file_uploader(key="dropped").set_value([("a.wav", sound(), "audio/wav")]).run()
    (one,) = [name for name in api.uploads(full) if name != earlier.id]
    assert "Dropped earlier and not scored (1)" in [box.label for box in app.expander]
    app.button(key=f"delete_{one}").click().run()
    assert not app.exception
    assert list(api.uploads(full)) == [earlier.id], "not kept again because the browser still holds the file"
    assert "a.wav was deleted" in texts(app).replace("\\", "")
    assert app.button(key="score").disabled
    app.button(key=f"delete_{earlier.id}").click().run()
    assert not api.uploads(full)
    assert not [box for box in app.expander if "not scored" in box.label]


def test_a_recording_in_use_is_not_deleted(open_app, full):
    payload = sound()
    one = api.take_upload(full, "a.wav", payload)
    judged(full, one)
    app = open_app(full, "score", run=RUN)
    app.file_uploader(key="dropped").set_value([("a.wav", payload, "audio/wav")]).run()
    app.button(key=f"delete_{one.id}").click().run()
    assert "It was scored: delete its results" in app.error[0].value
    two = api.take_upload(full, "b.wav", sound(channels=1))
    _, job_id = api.start_scoring(full, RUN, "fan", "00", [two.id])
    with pytest.raises(AsdError, match=r"b\.wav cannot be deleted\. A job is to score it"):
        api.delete_upload(full, two.id)
    api.cancel(full, job_id, force=True)
    api.delete_upload(full, two.id)
    assert list(api.uploads(full)) == [one.id]


def test_a_mono_file_for_two_microphones_blocks_the_button(open_app, full):
    record = json.loads((full.run(RUN) / "run.json").read_text())
    record["config"]["branches"][0]["view"]["channel"] = "far"
    change_record(full, config=record["config"])
    app = open_app(full, "score", run=RUN)
    app.file_uploader(key="dropped").set_value([("m.wav", sound(channels=1), "audio/wav")]).run()
    assert "needs both microphones" in app.warning[0].value
    assert app.button(key="score").disabled


def test_a_result_is_told_in_words_and_can_be_deleted(open_app, full):
    one, two = api.take_upload(full, "a.wav", sound()), api.take_upload(full, "b.wav", sound())
    key = judged(full, one, two)
    app = open_app(full, "score", scored=key)
    assert "sounds **unlike** the machine's normal clips" in texts(app)
    assert "100 % of the 15 normal training clips score at most this" in texts(app)
    assert app.get("plotly_chart")
    assert app.get("bidi_component")
    assert table(app, "Verdict")["Verdict"].tolist() == ["! flagged", "✓ not flagged"]
    assert len(table(app, "Distance")) == 5
    app = open_app(full, "score", scored=key, upload=two.id)
    assert "sounds like the machine's normal clips" in texts(app)
    app.button(key="delete").click().run()
    assert not app.exception
    assert not api.scored(full)
    assert not app.get("plotly_chart")


def test_a_result_outlives_its_run_and_its_recording(open_app, full):
    one = api.take_upload(full, "a.wav", sound())
    key = judged(full, one)
    (full.run(RUN) / "meta.json").unlink()
    app = open_app(full, "score", scored=key)
    assert "The run that gave this score is gone" in texts(app)
    shutil.rmtree(full.uploads / one.id)  # by hand
    app = open_app(full, "score", scored=key)
    assert "cannot be shown" in app.error[0].value
    assert "deleted recording" in table(app, "When")["Recordings"].item()


def test_nonsense_in_the_address(open_app, full):
    key = judged(full, api.take_upload(full, "a.wav", sound()), api.take_upload(full, "b.wav", sound()))
    odd = "../../etc/passwd"
    app = open_app(full, "score", scored=odd, upload=odd, run=odd, machine=odd)
    assert not app.error
    assert any("no result" in one.value for one in app.warning)
    app = open_app(full, "score", scored=key, upload=odd)
    assert any("recording" in one.value for one in app.warning)


def test_no_learning_library_is_loaded(full):
    key = judged(full, api.take_upload(full, "a.wav", sound()))
    code = (
        "import sys; sys.argv = ['app.py', '--workspace', sys.argv[1]]\n"
        "from streamlit.testing.v1 import AppTest; from pages.components import context\n"
        f"for page, asked in (('score', {{'scored': '{key}'}}), *(('data', {{'part': part}}) for part in "
        "('Clips by machine', 'Sound quality', 'Listen', 'Get data'))):\n"
        "    app = AppTest.from_file(str(context.PAGES / 'shell' / 'main.py'), default_timeout=60)\n"
        "    app.query_params.update(asked); app.switch_page(context.page(page)); app.run()\n"
        "    assert not app.exception and not app.error, (page, app.exception, app.error)\n"
        "loaded = {'torch', 'sklearn', 'librosa', 'faiss', 'umap', 'transformers'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(full.root)], cwd=context.PAGES.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
