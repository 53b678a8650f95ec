"""The data page in every state: no data, recordings gone, not checked, checked, out of date, unlabelled, odd addresses."""

import os
import shutil

import pytest

from asd_core import api, jobs
from asd_core.data import audio, doctor
from tests.app import example
from tests.app.test_pages import place

PARTS = ("Clips by machine", "Sound quality", "Listen", "Get data")


def texts(app) -> str:
    kinds = ("title", "header", "markdown", "caption", "info", "warning", "error", "success")
    return "\n".join(one.value for kind in kinds for one in app.get(kind))


def table(app, *columns: str):
    """The table with these columns."""
    return next(one.value for one in app.dataframe if set(columns) <= set(one.value.columns))


@pytest.fixture
def own(full, built, tmp_path) -> api.Workspace:
    """With recordings that a test may change."""
    shutil.copytree(built / "sounds", tmp_path / "sounds")
    path = full.dataset("workshop") / "dataset.json"
    path.write_text(path.read_text().replace(str(built / "sounds"), str(tmp_path / "sounds")))
    return full


def check(workspace: api.Workspace) -> None:
    """What the job does."""
    arguments = api.check_arguments(workspace, "workshop")
    doctor.keep(doctor.examine(api.data_set(workspace, "workshop").root), workspace.dataset("workshop") / "check")
    assert arguments[3] == str(workspace.dataset("workshop") / "check")


def test_no_data_is_an_invitation(open_app, empty, monkeypatch):
    for module in ("asd_core.api.recordings", "asd_core.data.manifest"):
        monkeypatch.setattr(f"{module}.REPOSITORY", empty.root)  # where the known data sets would be
    app = open_app(empty, "data")
    assert "no recordings" in texts(app)
    assert app.button(key="simulate")
    assert "data download dcase2026" in "\n".join(one.value for one in app.code)
    app.button(key="simulate").click().run()
    (job,) = jobs.list_jobs(empty.jobs)
    assert job.arguments[:2] == ("data", "simulate")


@pytest.mark.parametrize("part", PARTS)
def test_every_part(open_app, full, part):
    app = open_app(full, "data", part=part, machine="fan")
    assert not app.error
    assert not app.warning
    assert "simulated" in texts(app)


def test_counts_of_labelled_and_unlabelled_machines(open_app, full):
    app = open_app(full, "data", machine="fan")
    machines = table(app, "Ratio").set_index("Machine")
    assert machines.loc["fan", ["Train source", "Train target", "○ source", "× target", "Unlabelled"]].tolist() == [
        *(12, 3, 4, 4, 0)
    ]
    assert machines.loc[example.UNLABELLED, "Unlabelled"] == 8
    assert "12 source and 3 target clips" in texts(app)
    counts = table(app, "Attributes", "Train source").set_index("Attributes")
    assert counts.loc["speed_9", ["Train source", "Train target"]].tolist() == [0, 3]


def test_not_checked_then_checked_then_out_of_date(open_app, own, tmp_path):
    app = open_app(own, "data", part="Sound quality")
    assert "A check opens every recording and takes about" in texts(app)
    app.button(key="check").click().run()
    (job,) = jobs.list_jobs(own.jobs)
    assert list(job.arguments) == api.check_arguments(own, "workshop")
    assert app.button(key="check").disabled
    jobs.cancel(job.folder, force=True)
    quiet = tmp_path / "sounds" / "fan" / "train" / "section_00_source_train_normal_0000_speed_1.wav"
    audio.write(quiet, 0 * audio.read(quiet))
    check(own)
    app = open_app(own, "data", part="Sound quality", machine="fan")
    assert "checked" in texts(app)
    assert "silent" in set(table(app, "What to do")["Finding"])
    app = open_app(own, "data", part="Sound quality", rule="silent")
    assert table(app, "File or machine")["File or machine"].unique().tolist() == [f"fan/train/{quiet.name}"]
    assert place(app, "clip") == f"fan/train/{quiet.name}", "it can be heard beside the table"
    assert app.button(key="next").disabled
    assert set(table(app, "Correlation")["Machine"]) == set(api.data_set(own, "workshop").machines)
    os.utime(quiet, ns=(1, 1))
    assert "Files have changed since the check" in texts(open_app(own, "data", part="Sound quality"))


def test_misnamed_files_are_told(open_app, own, tmp_path):
    (tmp_path / "sounds" / "fan" / "train" / "![x](http:evil.example) <script>.wav").touch()
    app = open_app(own, "data")
    assert any("1 file was passed over" in one.label for one in app.expander)
    assert "evil.example" in table(app, "File and reason")["File and reason"].item()
    assert "evil.example" not in texts(app)


def test_recordings_gone(open_app, own, tmp_path):
    (tmp_path / "sounds").rename(tmp_path / "elsewhere")
    app = open_app(own, "data")
    assert len(app.error) == 1
    assert "is not a folder" in app.error[0].value


@pytest.mark.parametrize("part", [*PARTS, "../../etc/passwd"])
def test_nonsense_in_the_address(open_app, full, part):
    odd = "../../etc/passwd"
    app = open_app(full, "data", part=part, data=odd, machine=odd, clip=odd, rule=odd)
    assert not app.error
    assert any("data set" in one.value for one in app.warning)


def test_the_list_filters_and_follows_the_address(open_app, full):
    app = open_app(full, "data", part="Listen", machine="fan")
    assert len(table(app, "Clip", "Domain")) == 15
    app.text_input(key="train_text").set_value("SPEED_9").run()
    assert set(table(app, "Clip", "Domain")["Domain"]) == {"target"}
    app.text_input(key="train_text").set_value("no such").run()
    assert "No training clip fits" in texts(app)
    wanted = "fan/train/section_00_target_train_normal_0001_speed_9.wav"
    app = open_app(full, "data", part="Listen", machine="fan", clip=wanted)
    assert "section\\_00\\_target\\_train\\_normal\\_0001" in texts(app)


def test_what_is_sent_stays_small():
    """A page of the list at full size: 200 clips with long names."""
    from pages import data
    from pages.components import pictures

    name = "ToyCarEmulated/train/section_00_source_train_normal_0000_car_A1_spd_28V_mic_1_noise_1.wav"
    address = pictures.thumbnail_url("dcase2026", name, "0" * 16)
    assert data.PER_PAGE * (len(address) + len(name)) < 100_000
