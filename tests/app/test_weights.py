"""The page about published checkpoints, in every state a file can be in."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from asd_core import api, config, jobs, weights
from asd_core.backbones import pretrained
from asd_core.files import write_json
from pages.components import context

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"
CATALOGUE = """
checkpoints:
- {name: small_beats, title: Small BEATs, family: beats, file: small.pt, link: "https://x.org/s", page: "https://x.org",
   licence: MIT, trained_on: noise, dcase2026: check the list}
- {name: small_eat, title: Small EAT, family: eat, file: eat.safetensors, url: "https://x.org/e", page: "https://x.org",
   bytes: 633064, licence: MIT, trained_on: noise, dcase2026: check the list}
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASD_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue of two checkpoints whose files are in tests/golden."""
    (tmp_path / "weights.yaml").write_text(CATALOGUE)
    monkeypatch.setattr(weights, "CATALOGUE", tmp_path / "weights.yaml")
    monkeypatch.setattr(weights, "used_by", lambda: {"small_eat": ["logmel-knn"]})


def texts(app) -> str:
    kinds = ("title", "header", "markdown", "caption", "info", "warning", "error", "code")
    return "\n".join(one.value for kind in kinds for one in app.get(kind))


def states(app) -> list[str]:
    return [value.split()[1] for value in app.dataframe[0].value["State"]]


def keys(app) -> list[str]:
    return [button.key for button in app.button]


def test_nothing_is_here_yet(open_app, empty, place):
    app = open_app(empty, "weights")
    assert not app.error
    assert states(app) == ["absent"] * len(weights.catalogue())
    assert "trained on the normal clips at hand" in texts(app)
    assert not empty.root.exists(), "looking must not write"
    assert not place.exists()


def test_every_checkpoint_of_the_catalogue_can_be_shown(open_app, empty):
    for one in weights.catalogue().values():
        app = open_app(empty, "weights", checkpoint=one.name)
        assert [header.value for header in app.header] == [one.title]
        assert one.dcase2026 in texts(app)
        assert f"python -m asd_core weights import FILE --as {one.name}" in texts(app)
        assert ("fetch" in keys(app)) == (one.url is not None)


def test_nonsense_in_the_address(open_app, full):
    odd = "../../etc/passwd"
    app = open_app(full, "weights", checkpoint=odd, job=odd)
    assert not app.error
    assert "checkpoint" in app.warning[0].value


def test_a_broken_catalogue(open_app, empty, small):
    weights.CATALOGUE.write_text("checkpoints: [{name: x}]")
    app = open_app(empty, "weights")
    assert "not a valid catalogue" in app.error[0].value


def test_the_needed_one_comes_first_and_is_fetched_by_one_job(open_app, full, small):
    app = open_app(full, "weights")
    assert [header.value for header in app.header] == ["Small EAT"]
    assert "Needed by: logmel-knn" in texts(app)
    app.button(key="fetch").click().run()
    assert not app.exception
    (job,) = jobs.list_jobs(full.jobs)
    assert job.arguments == ("weights", "fetch", "small_eat")
    again = open_app(full, "weights")  # another tab, or this one refreshed
    assert again.button(key="fetch").disabled
    assert "Fetch Small EAT" in texts(again)
    assert "fetch" not in keys(open_app(full, "weights", checkpoint="small_beats"))
    jobs.cancel(job.folder, force=True)


def test_files_in_each_state(open_app, full, small, place):
    place.mkdir()
    shutil.copyfile(GOLDEN / "beats_tiny.pt", place / "small.pt")
    (place / "eat.safetensors").write_bytes(b"too short")
    app = open_app(full, "weights", checkpoint="small_eat")
    assert states(app) == ["unverified", "damaged"]
    assert "expected: 633,064" in app.error[0].value
    assert {"fetch", "verify"} <= set(keys(app))
    app = open_app(full, "weights", checkpoint="small_beats")
    assert "put there by hand" in app.info[0].value
    app.button(key="verify").click().run()
    (job,) = jobs.list_jobs(full.jobs)
    assert job.arguments == ("weights", "verify", "small_beats")
    jobs.cancel(job.folder, force=True)
    assert weights.verify("small_beats", pretrained.read).state == "present"
    app = open_app(full, "weights", checkpoint="small_beats")
    assert states(app) == ["present", "damaged"]
    assert weights.find("small_beats").name in texts(app)
    assert api.checkpoints()[0].sha256 in texts(app)


PICTURE = "![p](http://127.0.0.1:9/p.png) <img src=x> :red[x] $x$ [a](http://b)"


def markup(text: str) -> list[str]:
    """What of a text is still Markdown: characters of markup without a backslash before them."""
    return re.findall(r"(?<!\\)(?:\\\\)*[!\[\]<>$*_`~|#&]|(?<!\\):[\w/]", text)


def test_names_inside_a_file_are_shown_as_they_are(open_app, empty, small, place):
    place.mkdir()
    stored = torch.load(GOLDEN / "beats_tiny.pt", weights_only=True)
    stored["model"][PICTURE] = torch.zeros(1)
    torch.save(stored, place / "small.pt")
    assert PICTURE in weights.verify("small_beats", pretrained.read).problem
    shown = open_app(empty, "weights", checkpoint="small_beats").error[0].value
    assert "p.png" in shown
    assert markup(shown) == []


def test_messages_of_jobs_and_addresses_are_shown_as_they_are(open_app, empty, small):
    for created, state in enumerate(("failed", "interrupted")):  # the newest about a checkpoint is shown
        spec = {"id": state, "title": PICTURE, "key": "x", "arguments": ["weights", "small_beats"], "created": created}
        write_json(empty.jobs / state / "spec.json", spec)
        write_json(empty.jobs / state / "result.json", {"state": state, "message": PICTURE, "ended": 2.0})
        app = open_app(empty, "weights", checkpoint="small_beats", job=state)
        shown = (app.error if state == "failed" else app.info)[0].value
        assert "p.png" in shown
        assert markup(shown) == []
        assert any("p.png" in one.value and not markup(one.value.strip("*")) for one in app.markdown)
    warned = open_app(empty, "weights", checkpoint=PICTURE).warning[0].value
    assert "p.png" in warned
    assert markup(warned) == []


def test_the_page_loads_no_learning_library(full):
    code = (
        "import sys; sys.argv = ['app.py', '--workspace', sys.argv[1]]\n"
        "from streamlit.testing.v1 import AppTest; from pages.components import context\n"
        "app = AppTest.from_file(str(context.PAGES / 'shell' / 'main.py'), default_timeout=60)\n"
        "app.switch_page(context.page('weights')); app.run(); assert not app.exception\n"
        "assert not {'torch', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(full.root)], cwd=config.CONFIGS.parent, check=True, capture_output=True
    )
    assert (context.PAGES / "weights.py").is_file()
