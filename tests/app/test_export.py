"""The Export page: thresholds, comparisons, and packages of unknown origin, which are read in memory and refused early."""

import io
import time
import zipfile

import pytest
import yaml

from asd_core import api
from asd_core.artifacts import begin, finish, load_run, write_table
from asd_core.export import validator
from asd_core.export.submission import pack
from tests.app import example
from tests.app.test_pages import build, fill_in, texts

META = "task2/A_B_task2_1/A_B_task2_1.meta.yaml"


def findings(app):
    return [one.value for one in app.dataframe if "Finding" in one.value][-1]  # the last tab is that of uploads


def failed(app) -> list[str]:
    table = findings(app)
    return list(table.loc[table["Result"].str.startswith("✗"), "Finding"])


def check_upload(open_app, workspace, payload: bytes, against: str = api.EVALUATION_SET, name: str = "package.zip"):
    app = open_app(workspace, "export", tab="Check a package")
    app.selectbox(key="against").set_value(against)
    app.file_uploader(key="existing").upload(name, payload, "application/zip").run()
    assert not app.exception, [one.value for one in app.exception]
    return app


def package(open_app, workspace, run_id: str, institute: str = "LU") -> api.BuiltPackage:
    app = fill_in(open_app(workspace, "export"), institute)
    app.multiselect(key="export_runs").set_value([run_id]).run()
    build(app)
    return api.packages(workspace)[0]


def test_rule_threshold_and_share_stand_side_by_side(open_app, full):
    app = open_app(full, "export")
    app.multiselect(key="export_machines").set_value([*example.LABELLED, example.UNLABELLED]).run()
    shown = app.dataframe[0].value
    assert set(shown["Rule"]) == {"percentile, q 0.9"}
    run = load_run(full, app.multiselect(key="export_runs").value[0])
    told = api.flagged(run).set_index("machine")["share"]
    assert dict(zip(shown["Machine"], shown["Flagged"], strict=True)) == pytest.approx((100 * told).to_dict())


@pytest.mark.parametrize(("decision", "word"), [(0, "no clip"), (1, "every clip")])
def test_decisions_without_information_are_called_so(open_app, full, decision, word):
    run = api.runs(full)[0]
    scores = run.scores
    tested = (scores["machine"] == example.UNLABELLED) & (scores["split"] == "test")
    scores.loc[tested, "decision"] = decision
    begin(run.folder)
    write_table(run.folder / "scores.parquet", scores)
    finish(run.folder)
    app = open_app(full, "export")
    app.multiselect(key="export_runs").set_value([run.record["run_id"]]).run()
    assert f"System 1 flags {word} of {example.UNLABELLED}" in " ".join(one.value for one in app.warning)


def test_any_earlier_package_can_be_compared(open_app, full):
    ids = [run.record["run_id"] for run in api.runs(full)]
    first = package(open_app, full, ids[0])
    time.sleep(0.02)  # packages are told apart by their time
    second = package(open_app, full, ids[1], institute="Other")
    app = open_app(full, "export", tab="Packages")
    key = f"compare_kept_{second.sha256[:12]}"
    assert app.selectbox(key=key).value is None, "no package of that name came before it"
    app.selectbox(key=key).set_value(first.sha256).run()
    changes = next(one.value for one in app.dataframe if "Rank correlation" in one.value)
    assert list(changes["Machine"]) == [example.UNLABELLED]
    assert (changes["Other score"] == changes["Clips in both"]).all()


def test_a_fused_system_is_exported_like_any_other(open_app, full):
    runs = {run.record["system"]: run for run in api.runs(full)}
    picked = [runs["logmel-maha"], runs["logmel-knn"]]
    run_id = api.save_fusion(full, picked, "fusion-1", "ztrain", [0.7, 0.3], "Weights set by hand.")
    made = package(open_app, full, run_id)
    assert set(api.check_package(made.path, made.expected)["ok"]) <= {"pass", "warn"}
    archive = zipfile.ZipFile(made.path)
    name = next(name for name in archive.namelist() if name.endswith(".meta.yaml"))
    described = yaml.safe_load(archive.read(name))["system"]["description"]
    assert described["ensemble_method_subsystem_count"] == 2
    assert "test labels: weights of the fusion" in described["development_data_usage"]


def test_an_uploaded_package_is_compared_with_what_was_chosen(open_app, full):
    made = package(open_app, full, api.runs(full)[0].record["run_id"])
    payload = made.path.read_bytes()
    before = sorted(path for path in full.root.rglob("*") if path.is_file())
    app = check_upload(open_app, full, payload, "workshop")
    assert not app.error
    assert failed(app) == []
    app = check_upload(open_app, full, payload)
    assert any("is missing" in one for one in failed(app)), "these are not the machines of the challenge"
    cut = check_upload(open_app, full, payload[: len(payload) // 2], "workshop")
    assert any("cannot be opened" in one for one in failed(cut))
    assert sorted(path for path in full.root.rglob("*") if path.is_file()) == before, "nothing is written"


def test_names_with_scripts_are_shown_as_text(open_app, full):
    odd = "task2/<img src=x onerror=alert(1)>/[a](javascript:alert(1)).csv"
    app = check_upload(open_app, full, pack({odd: b"x"}), name="<script>.zip")
    assert any("<img src=x onerror=alert(1)>" in one for one in failed(app)), "in a table, which draws text"
    assert "onerror" not in texts(app)
    assert "javascript" not in texts(app)


def zipped(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def folders(number: int) -> bytes:
    return zipped({f"d{i}/": b"" for i in range(number)})


HOSTILE = {
    "bomb": (lambda: zipped({"task2/zeros.csv": bytes(20 * 2**20)}), "times its size"),
    "many small bombs": (
        lambda: zipped({f"task2/{i}": bytes(2**20) for i in range(80)}),
        "unpacks to more than 64 MiB",
    ),
    "folders without end": (lambda: folders(validator.MAX_ENTRIES + 1), "files and folders"),
    "a zip in a zip": (lambda: pack({"task2/A_B_task2_1/inner.zip": folders(3)}), "does not belong here"),
    "brackets without end": (lambda: pack({META: b"[" * 200_000}), "nested more than 20 levels"),
    "dashes without end": (lambda: pack({META: b"- " * 100_000}), "nested more than 20 levels"),
    "no zip": (lambda: b"hello", "cannot be opened"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_uploads_are_refused_at_once(open_app, full, kind):
    make, message = HOSTILE[kind]
    payload = make()
    started = time.process_time()
    validator.check(payload)
    assert time.process_time() - started < 2
    app = check_upload(open_app, full, payload)
    assert any(message in one for one in failed(app)), failed(app)


def test_a_lying_size_does_not_get_out(monkeypatch):
    """The header says 10 bytes; the stream behind it holds 20 MiB."""
    payload = bytearray(zipped({"task2/zeros.csv": bytes(20 * 2**20)}))
    size = (20 * 2**20).to_bytes(4, "little")
    for _ in range(payload.count(size)):
        place = payload.find(size)
        payload[place : place + 4] = (10).to_bytes(4, "little")
    told = validator.check(bytes(payload))
    assert [(one.ok, one.rule) for one in told] == [("fail", "zip.readable")]


def test_expectations_are_those_of_the_workspace(full):
    assert api.expectations(full) == [api.EVALUATION_SET, "workshop"]
    assert api.expected_of(full, api.EVALUATION_SET) is None
    assert list(api.expected_of(full, "workshop")) == [example.UNLABELLED]
    with pytest.raises(api.AsdError, match="no finished run"):
        api.expected_of(full, "../elsewhere")
