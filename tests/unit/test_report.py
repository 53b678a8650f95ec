"""Reports: their numbers are those of the run, nothing is asked of the network, and every name is shown as text."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from asd_core import analysis, api, report
from asd_core.artifacts import Workspace, load_run
from asd_core.data import audio
from asd_core.data.manifest import scan
from asd_core.files import read_json, write_json
from asd_core.report import charts, content
from asd_core.report.document import Chart, ClipCard, Code, Document, Heading, Picture, Section, Table, Text
from asd_core.types import AsdError
from tests.app import example

ATTACK = '<img src=x onerror="alert(1)">'
RUN = "logmel-maha--workshop--quick--seed0"
OTHER = "logmel-knn--workshop--quick--seed0"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    example.build(folder)
    return folder


@pytest.fixture
def workspace(built: Path, tmp_path: Path) -> Workspace:
    """A copy that a test may break; the recordings are shared."""
    shutil.copytree(built / "workspace", tmp_path / "workspace")
    return Workspace(tmp_path / "workspace")


class Page(HTMLParser):
    """What a browser would find: tags with their attributes, and headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def section(document: Document, title: str) -> Section:
    return next(one for one in document.sections if one.title == title)


def tables(document: Document, title: str) -> list[Table]:
    return [block for block in section(document, title).blocks if isinstance(block, Table)]


def cards(document: Document, title: str) -> list[ClipCard]:
    return [block for block in section(document, title).blocks if isinstance(block, ClipCard)]


def texts(document: Document) -> str:
    return "\n".join(block.text for one in document.sections for block in one.blocks if isinstance(block, Text))


def test_tables_hold_the_figures_of_the_run(workspace):
    run = load_run(workspace, RUN)
    official, restricted = tables(report.build(workspace, run, clips=0), "Results by machine")
    for table, key, names, total in (
        (official, "official", ("auc_source", "auc_target", "pauc", "hmean"), "omega"),
        (restricted, "domain_restricted", ("auc_source_restricted", "auc_target_restricted", "pauc", "hmean_restricted"), "hmean"),
    ):  # fmt: skip
        machines = run.metrics["machines"]
        for row in table.rows[:-2]:
            entry = machines[row[0]]["00"]
            low, high = entry["interval"][names[-1]]
            assert row[1:] == (*(f"{100 * entry[name]:.2f}" for name in names), f"{50 * (high - low):.2f}")
        arithmetic, harmonic = table.rows[-2:]
        for place, name in enumerate(names, 1):
            mean = np.mean([100 * machines[row[0]]["00"][name] for row in table.rows[:-2]])
            assert arithmetic[place] == f"{mean:.2f}"
        overall = run.metrics[key]
        assert harmonic[1:5] == tuple(
            f"{100 * overall[name]:.2f}" for name in ("auc_source", "auc_target", "pauc", total)
        )
        assert harmonic[5] == f"{50 * (overall['interval'][1] - overall['interval'][0]):.2f}"
    assert "another metric set" in restricted.note


def test_thresholds_and_verdicts_are_those_of_the_run(workspace):
    run = load_run(workspace, RUN)
    alarms, verdicts = tables(report.build(workspace, run, clips=0), "At the threshold")
    expected = analysis.false_alarms(run).set_index(["machine", "domain"])
    for machine, threshold, *rates in alarms.rows:
        assert float(threshold) == pytest.approx(run.record["thresholds"][machine]["00"], abs=1e-4)
        for domain, told in zip(("all", "source", "target"), rates, strict=True):
            row = expected.loc[(machine, domain)]
            assert told == f"{100 * row['rate']:.1f} ({row['alarms']} of {row['clips']})"
    for machine, *figures in verdicts.rows:
        entry = run.metrics["machines"][machine]["00"]
        names = [f"{name}_{domain}" for domain in ("source", "target") for name in ("precision", "recall", "f1")]
        assert figures == [f"{100 * entry[name]:.2f}" for name in names]


def test_a_comparison_says_what_compare_says(workspace):
    run, other = load_run(workspace, RUN), load_run(workspace, OTHER)
    document = report.build(workspace, run, other, clips=0)
    found = analysis.compare_runs([run], [other])
    title = "Against logmel-knn, quick, seed 0"
    said = [block.text for block in section(document, title).blocks if isinstance(block, Text)]
    assert said == found["said"]
    (table,) = tables(document, title)
    omega = table.rows[-2]
    assert omega[0] == "Ω"
    assert float(omega[3].replace("−", "-")) == pytest.approx(100 * found["official"]["difference"], abs=0.005)
    assert [row[0] for row in table.rows[:-2]] == list(found["machines"])
    assert OTHER in report.to_html(document)


def test_runs_on_other_recordings_are_not_compared(workspace):
    record = read_json(workspace.run(OTHER) / "run.json")
    record["data"]["fingerprint"] = "changed"
    run = load_run(workspace, OTHER)
    run.record.update(record)
    with pytest.raises(AsdError, match="Only runs on the same clips"):
        report.build(workspace, load_run(workspace, RUN), run)


def test_it_asks_nothing_of_the_network_and_runs_nothing(workspace):
    document = report.build(workspace, load_run(workspace, RUN), load_run(workspace, OTHER), clips=2)
    text = report.to_html(document)
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "form", "base"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert (attributes.get("src") or "data:").startswith("data:")
        assert (attributes.get("href") or "#").startswith("#")
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    assert "url(" not in text
    assert "@import" not in text
    drawn = [one["src"] for one in page.all("img") if one["src"].startswith("data:image/svg+xml;base64,")]
    assert len(drawn) == len(load_run(workspace, RUN).record["machines"])
    for address in drawn:
        svg = base64.b64decode(address.partition(",")[2]).decode()
        assert "<script" not in svg
        assert "currentColor" in svg
        assert "prefers-color-scheme" in svg
        assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', svg))


def test_it_can_be_read_aloud(workspace):
    text = report.to_html(report.build(workspace, load_run(workspace, RUN), clips=2))
    page = Page(text)
    assert page.all("html")[0]["lang"] == "en"
    assert all(one["alt"] for one in page.all("img"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert {one["scope"] for one in page.all("th")} == {"col", "row"}
    assert len(page.all("caption")) == len(page.all("table"))
    names = {one["id"] for _, one in page.tags if "id" in one}
    assert {one["href"][1:] for one in page.all("a")} <= names


def test_names_from_files_are_shown_as_they_are(tmp_path):
    sounds = tmp_path / "sounds"
    rng = np.random.default_rng(0)
    for name, is_anomaly in example._names("fan", 2):
        told = name.replace("speed_1.wav", f"{ATTACK}_1.wav") if "/section_00_source_test" in name else name
        audio.write(sounds / "fan" / told, example._wave(rng, 90, is_anomaly, 0.2))
    data = scan(sounds, "workshop", "simulated")
    workspace = Workspace(tmp_path / "workspace")
    about = {"name": data.name, "kind": data.kind, "root": str(sounds)}
    write_json(workspace.dataset("workshop") / "dataset.json", about)
    run = load_run(workspace, example.add_run(workspace, data, "logmel-knn", 0.0))
    odd = {
        "title": f"Title {ATTACK}",
        "notices": [f"Notice {ATTACK}"],
        "config": run.record["config"] | {"idea": f"Idea {ATTACK}"},
    }
    run.record.update(odd)
    document = report.build(workspace, run)
    text = report.to_html(document)
    page = Page(text)
    assert all(one["src"].startswith("data:") for one in page.all("img"))
    assert page.text.count(ATTACK) >= 4  # title, notice, configuration and a clip
    assert f"Title {ATTACK}" in page.text
    assert any(ATTACK in card.name and any(ATTACK in line for line in card.lines) for one in document.sections for card in one.blocks if isinstance(card, ClipCard))  # fmt: skip
    assert report.to_pdf(document).startswith(b"%PDF-")


def test_without_labels_there_are_no_figures_of_merit(workspace, built):
    data = scan(built / "sounds", "workshop", "simulated")
    clips = tuple(clip for clip in data.clips if clip.machine == example.UNLABELLED)
    alone = type(data)(data.name, data.kind, data.root, clips)
    run = load_run(workspace, example.add_run(workspace, alone, "logmel-knn", 2.0, seed=5))
    assert run.metrics is None
    document = report.build(workspace, run)
    titles = [one.title for one in document.sections]
    assert titles == ["Summary", "Scores", "At the threshold", "Highest scores", "Configuration", "Provenance"]
    assert "carry no labels" in texts(document)
    assert [len(one.pictures) for one in cards(document, "Highest scores")] == [2] * 8
    page = Page(report.to_html(document))
    assert "Ω" not in page.text
    assert "AUC" not in page.text
    assert "Recall" not in page.text
    report.to_pdf(document)


def test_worst_clips_are_those_of_the_clip_table(workspace):
    run = load_run(workspace, RUN)
    table = api.clip_table(workspace, run)
    document = report.build(workspace, run)
    for title, outcome in (("Worst false alarms", "FP"), ("Missed anomalies", "FN")):
        own = table[table["outcome"] == outcome]
        shown = [card.name for card in cards(document, title)]
        assert set(shown) <= set(own["clip_id"])
        assert len(shown) == min(len(own), content.CLIPS)
    for card in cards(document, "Highest scores without labels"):
        assert card.name.startswith(example.UNLABELLED)
        assert [one.label.partition(",")[0] for one in card.pictures] == ["Near", "Far"]


def test_every_machine_in_turn_gives_its_worst():
    clips = pd.DataFrame({"clip_id": [f"a/{i}" for i in range(9)] + ["b/0", "b/1", "c/0"]})
    clips["machine"] = clips["clip_id"].str[0]
    assert list(content._dealt(clips, 3)["clip_id"]) == ["a/0", "b/0", "c/0"]
    assert list(content._dealt(clips, 6)["clip_id"]) == ["a/0", "a/1", "a/2", "b/0", "b/1", "c/0"]
    assert content._dealt(clips, 0).empty


def test_recordings_that_are_gone_are_named(workspace, tmp_path):
    about = read_json(workspace.dataset("workshop") / "dataset.json")
    shutil.copytree(about["root"], tmp_path / "sounds")
    write_json(workspace.dataset("workshop") / "dataset.json", about | {"root": str(tmp_path / "sounds")})
    run = load_run(workspace, RUN)
    (worst, *_) = cards(report.build(workspace, run), "Worst false alarms")
    (tmp_path / "sounds" / worst.name).unlink()
    # a clip's truth is read with its file: without it the clip stands among those without labels
    document = report.build(workspace, run, clips=100)
    gone = [card for one in document.sections for card in one.blocks if isinstance(card, ClipCard) and card.name == worst.name]  # fmt: skip
    assert [card.pictures for card in gone] == [()]
    assert any("No picture" in line and "is missing" in line for line in gone[0].lines)


def test_provenance_names_everything_needed_to_make_it_again(workspace):
    run = load_run(workspace, RUN)
    meta = read_json(run.folder / "meta.json")
    document = report.build(workspace, run, clips=0)
    page = Page(report.to_html(document))
    for told in (
        RUN,
        run.record["data"]["fingerprint"],
        meta["git"] or "unknown",
        f"numpy {meta['packages']['numpy']}",
    ):
        assert told in page.text
    assert "python -m asd_core run logmel-maha --data" in page.text
    (code,) = [block for block in section(document, "Configuration").blocks if isinstance(block, Code)]
    assert content.yaml.safe_load(code.text) == run.record["config"]


@pytest.mark.parametrize("change", ["transductive", "real", "notice"])
def test_what_must_be_said_is_said(workspace, change):
    run = load_run(workspace, RUN)
    run.record["transductive"] = change == "transductive"
    run.record["data"]["kind"] = "DCASE 2026" if change == "real" else "simulated"
    run.record["notices"] = ["Two clips were left out."] if change == "notice" else []
    document = report.build(workspace, run, clips=1)
    said = texts(document)
    assert ("Not for a running machine" in said) == (change == "transductive")
    assert ("invented machines" in said) == (change != "real")
    assert ("Two clips were left out." in said) == (change == "notice")
    assert len(tables(document, "At the threshold")) == (1 if change == "transductive" else 2)
    assert document.kind == run.record["data"]["kind"]
    page = Page(report.to_html(document))
    assert any(one.get("class", "").startswith("kind") for one in page.all("span"))


def test_seven_machines_stay_below_five_megabytes():
    rng = np.random.default_rng(0)
    edges = np.linspace(0, 1, 41)
    groups = [(domain, label) for domain in ("source", "target") for label in (0, 1)]
    counts = pd.concat(
        pd.DataFrame({"domain": d, "label": label, "low": edges[:-1], "high": edges[1:], "count": rng.integers(9, size=40)})
        for d, label in groups
    )  # fmt: skip
    rate = np.linspace(0, 1, 200)
    curves = {name: pd.DataFrame({"fpr": rate, "tpr": rate**0.3}) for name in ("source", "target", "all")}
    figures = [
        Chart(charts.scores_and_roc(counts, 0.5, curves, {name: name for name in curves}), "scores") for _ in range(7)
    ]
    noise = -70 + 20 * rng.standard_normal((256, 313))  # ten seconds; real sounds compress better
    pictures = tuple(Picture(name, charts.spectrogram_image(noise, -110, -30), name) for name in ("near", "far"))
    many = tuple(ClipCard(f"clip {number}", ("a line",), pictures) for number in range(30))
    document = Document("t", "s", "simulated", 0.0, (Section("Scores", tuple(figures)), Section("Clips", many)))
    assert len(report.to_html(document)) < 5e6
    assert len(report.to_pdf(document)) < 5e6


def test_the_pdf_has_bookmarks_alternative_texts_and_its_own_fonts():
    picture = Picture("Near", Image.new("RGB", (300, 192)), "Spectrogram of a clip")
    long = Table(
        "Figures", ("Machine", "Ω"), tuple((f"machine {number}", "97.25 ± 1.50") for number in range(90)), means=2
    )
    odd = Text("漢字 and 🔔 are not in the fonts, Ω ≤ − are", "warning")
    blocks = (Heading("Part"), long, odd, ClipCard("x" * 300, ("line",), (picture,)), Code("As it is", "a: 1\n" * 200))
    document = Document("A title", "s", "simulated", 0.0, (Section("First", blocks), Section("Second", ())))
    written = report.to_pdf(document)
    assert len(re.findall(rb"/Type /Page\b", written)) >= 4
    for part in (b"/Outlines", b"/Lang", b"/FontFile2", b"/Alt"):
        assert part in written
    assert b"/URI" not in written


def test_the_command_writes_both_forms(workspace, tmp_path, cli):
    html, pdf = tmp_path / "a.html", tmp_path / "a.pdf"
    given = ("--workspace", workspace.root, "--clips", 1)
    code, out, _ = cli("report", "--run", RUN, "--against", "logmel-knn", "--output", html, "--pdf", pdf, *given)
    assert code == 0
    assert out.split() == [str(html), str(pdf)]
    assert "Against logmel-knn" in html.read_text()
    assert pdf.read_bytes().startswith(b"%PDF-")
    for wrong, told in (("nobody", "no finished run or system"), (RUN, "cannot be compared with itself")):
        code, _, err = cli("report", "--run", RUN, "--against", wrong, "--output", html, *given)
        assert code == 1
        assert told in err
    assert "Against logmel-knn" in html.read_text(), "a failure must not touch what is there"


def test_a_pdf_alone_leaves_no_html(workspace, tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = cli("report", "--run", RUN, "--pdf", "only.pdf", "--workspace", workspace.root, "--clips", 0)
    assert (code, out.split()) == (0, ["only.pdf"])
    assert not (tmp_path / "report.html").exists()


def test_a_job_is_told_of_the_progress(workspace, tmp_path, cli):
    folder = tmp_path / "job"
    write_json(folder / "spec.json", {"id": "job", "title": "t", "key": "k", "arguments": [], "created": 0.0})
    code, _, err = cli(
        "report", "--run", RUN, "--output", tmp_path / "a.html", "--workspace", workspace.root, "--job", folder
    )
    assert code == 0, err
    assert json.loads((folder / "result.json").read_text())["state"] == "done"
