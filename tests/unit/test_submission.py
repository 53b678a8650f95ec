"""The package as a whole, then every trap planted in a good package: rule, file and row must be told."""

from __future__ import annotations

import hashlib
import io
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from asd_core.artifacts import Workspace, load_run
from asd_core.config import load, load_profile, load_system, resolve, validate
from asd_core.export.submission import EPOCH, Package, build, describe, pack
from asd_core.export.validator import CLIPS, EVALUATION, MAX_PACKAGE, RULES, Check, check, diff
from asd_core.files import write_json
from asd_core.metrics import DEVELOPMENT
from asd_core.types import AsdError
from tests.unit.invented_runs import CONFIG, dataset, write_run

LABEL = "Doe_Example-Lab_task2_1"
FOLDER = f"task2/{LABEL}"
SCORES = f"{FOLDER}/anomaly_score_Sander_section_00_test.csv"
VERDICTS = f"{FOLDER}/decision_result_Sander_section_00_test.csv"
META = f"{FOLDER}/{LABEL}.meta.yaml"
REPORT = f"task2/{LABEL}.technical_report.pdf"


def form(**changes: object) -> dict:
    return {
        "last_name": "Doe",
        "institute": "Example-Lab",
        "authors": [
            {
                "firstname": "Jane",
                "lastname": "Doe",
                "email": "jane@example.org",
                "corresponding": True,
                "affiliation": {"institution": "Example Laboratory", "location": "Berlin, Germany"},
            }
        ],
        "systems": [{"name": "First", "abbreviation": "FIRST", "runs": ["dev", "eval"]}],
    } | changes


def package(**changes: object) -> Package:
    return validate(Package, form(**changes), "form")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A run over the seven development machines and one over the five evaluation machines."""
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    write_run(workspace, dataset(DEVELOPMENT, n=5), "dev")
    write_run(workspace, dataset([], EVALUATION, n=100), "eval")
    return workspace


@pytest.fixture(scope="module")
def good(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The entries of a package without fault."""
    folder = tmp_path_factory.mktemp("good")
    report = folder / "paper.pdf"
    report.write_bytes(pdf())
    systems = [{"name": "First", "abbreviation": "FIRST", "runs": ["dev", "eval"], "total_parameters": 90_000_000}]
    return entries(build(package(report=str(report), systems=systems), workspace, folder / "p.zip"))


def pdf(objects: bytes = b"<< /Type /Page >>", is_packed: bool = False) -> bytes:
    """A file that begins like a PDF, its objects written plainly or in an object stream."""
    head = b"<< /Type /ObjStm /Filter /FlateDecode >>\nstream\n"
    body = head + zlib.compress(objects) + b"\nendstream" if is_packed else objects
    return b"%PDF-1.7\n1 0 obj\n" + body + b"\nendobj\n%%EOF\n"


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_report_has_pages(good: dict[str, bytes], is_packed: bool) -> None:
    report = pdf(b"<< /Type /Pages /Kids [2 0 R] >> << /Type/Page /Parent 1 0 R >>", is_packed)
    assert not found(check(pack(good | {REPORT: report})), "fail", "report.present")
    (bare,) = found(check(pack(good | {REPORT: pdf(b"<< /Type /Pages >>", is_packed)})), "fail", "report.present")
    assert bare.message == "is a PDF without a page"


def test_a_hostile_report_is_read_in_no_time() -> None:
    packed = zlib.compress(bytes(50_000_000))
    for report in ((b"/ObjStm>>\nstream\n" + packed) * 300, b"/ObjStm stream\n" * 1_000_000):
        started = time.process_time()
        check(pack({REPORT: b"%PDF-1.7\n" + report}))
        assert time.process_time() - started < 5


def entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def found(checks: list[Check], ok: str, rule: str) -> list[Check]:
    return [c for c in checks if (c.ok, c.rule) == (ok, rule)]


# -------------------------------------------------------------------------------------------------------- build


def test_a_complete_package_passes_every_rule(good: dict[str, bytes]) -> None:
    checks = check(pack(good))
    assert [c.rule for c in checks] == list(RULES)
    assert {c.ok for c in checks} == {"pass"}


def test_layout(good: dict[str, bytes]) -> None:
    tables = [
        f"{FOLDER}/{what}_{machine}_section_00_test.csv"
        for what in ("anomaly_score", "decision_result")
        for machine in EVALUATION
    ]
    assert sorted(good) == sorted([*tables, META, REPORT])


def test_rows_are_exact_and_in_order(good: dict[str, bytes], workspace: Workspace) -> None:
    scores = load_run(workspace, "eval").scores.set_index("clip_id")
    rows = [line.split(",") for line in good[SCORES].decode().splitlines()]
    assert [name for name, _ in rows] == CLIPS
    for name, value in rows:
        assert float(value) == scores.loc[f"Sander/test/{name}", "score"]  # to the last bit
    assert {line.split(",")[1] for line in good[VERDICTS].decode().splitlines()} == {"0", "1"}


def test_the_same_bytes_again(workspace: Workspace, tmp_path: Path) -> None:
    first, second = (build(package(), workspace, tmp_path / name) for name in ("a.zip", "folder"))
    assert second.name == "Doe_Example-Lab_task2.zip"
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert {(entry.date_time, entry.external_attr) for entry in archive.infolist()} == {(EPOCH, 0o100644 << 16)}
        assert archive.namelist() == sorted(archive.namelist())
    sha256, name = (tmp_path / "a.zip.sha256").read_text().split()
    assert (sha256, name) == (hashlib.sha256(first.read_bytes()).hexdigest(), "a.zip")


def test_meta_holds_measured_results_in_percent(good: dict[str, bytes], workspace: Workspace) -> None:
    meta = yaml.safe_load(good[META])
    measured = load_run(workspace, "dev").metrics["machines"]["fan"]["00"]
    results = meta["results"]["development_dataset"]
    assert list(results) == list(DEVELOPMENT)
    assert results["fan"] == {name: round(100 * measured[name], 2) for name in ("auc_source", "auc_target", "pauc")}
    assert meta["submission"]["label"] == LABEL
    assert meta["submission"]["authors"][0]["affiliation"]["institution"] == "Example Laboratory"


def test_description_comes_from_the_configuration_and_the_form_wins(workspace: Workspace, tmp_path: Path) -> None:
    known = describe(CONFIG)
    assert known["embeddings"] == "beats"
    assert known["machine_learning_method"] == "arcface, knn, mahalanobis"
    assert known["ensemble_method_subsystem_count"] == 2
    assert known["decision_making"] == "percentile (q 0.9)"
    assert known["attribute_usage"]
    assert known["data_augmentation"] == "mixup"
    assert known["external_data_usage"] == "pre-trained: BEATs iter3"
    assert known["front_end"] is None
    stated = {"front_end": "Wiener filter", "embeddings": "BEATs, 90 M"}
    systems = [{"name": "First", "abbreviation": "F", "runs": ["dev", "eval"], "description": stated}]
    path = build(package(systems=systems), workspace, tmp_path / "p.zip")
    description = yaml.safe_load(entries(path)[META])["system"]["description"]
    assert description["front_end"] == "Wiener filter"
    assert description["embeddings"] == "BEATs, 90 M"
    assert description["machine_learning_method"] == "arcface, knn, mahalanobis"


def described(name: str, profile: str = "full") -> dict:
    return describe(resolve(load_system(name), load_profile(profile)).model_dump(mode="json"))


@pytest.mark.parametrize(
    ("system", "profile", "known"),
    [
        (
            "unis-1",
            "full",
            {
                "data_augmentation": "mixup, far microphone mixed in",
                "attribute_usage": "classes of the training",  # preset full
                "external_data_usage": "pre-trained: EAT-base, 30 epochs",
                "ensemble_method_subsystem_count": None,  # three branches, one stream
                "aggregation_method": "mean",
            },
        ),
        (
            "unis-3",
            "full",
            {
                "data_augmentation": "mixup, far microphone mixed in, SMOTE",
                "external_data_usage": "pre-trained: EAT-base, 30 epochs, BEATs iter3+ (AS2M)",
                "ensemble_method_subsystem_count": 2,
                "aggregation_method": "mean, weighted",
            },
        ),
        ("neu-2", "full", {"attribute_usage": None, "data_augmentation": "mixup, SMOTE"}),
        ("neu-1", "full", {"ensemble_method_subsystem_count": 3, "aggregation_method": "weighted"}),
        ("tsz-sera", "full", {"attribute_usage": "auxiliary heads (spd, pro, car, grit)", "data_augmentation": None}),
        (
            "neu-2",
            "quick",
            {
                "attribute_usage": None,
                "data_augmentation": "mixup, SMOTE",
                "external_data_usage": "pre-trained: studio_mini, on simulated machines only",
            },
        ),
        (
            "unis-1",
            "quick",  # trained before on the clips at hand
            {"attribute_usage": "classes of the training", "external_data_usage": None},
        ),
        ("logmel-maha", "full", {"data_augmentation": None, "attribute_usage": None, "aggregation_method": None}),
    ],
)
def test_description_of_what_is_delivered(system: str, profile: str, known: dict) -> None:
    found = described(system, profile)
    assert {name: found[name] for name in known} == known


def test_a_checkpoint_that_a_start_begins_with_is_external_data() -> None:
    first = CONFIG["encoders"]["b"]
    start = first | {"backbone": {"name": "beats", "checkpoint": "/home/jane/secret/own.pt"}}
    encoder = first | {"backbone": {"name": "beats", "checkpoint": None}, "start": start}
    found = describe(CONFIG | {"encoders": {"b": encoder}})
    assert found["external_data_usage"] == "pre-trained: own.pt"  # not where it lies


def test_a_transductive_system_says_so(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    write_run(workspace, dataset([], ["fan"]), "one", transductive=True)
    systems = [{"name": "First", "abbreviation": "F", "runs": ["one"]}]
    meta = yaml.safe_load(entries(build(package(systems=systems), workspace, tmp_path / "p.zip"))[META])
    description = meta["system"]["description"]
    assert "transductive" in description["decision_making"]
    assert "transductive" not in describe(CONFIG)["decision_making"]


def test_unmeasured_and_simulated_results_are_null(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    write_run(workspace, dataset(["fan"], ["Sander"]), "one", data={"name": "demo", "kind": "simulated"})
    systems = [{"name": "First", "abbreviation": "F", "runs": ["one"]}]
    meta = yaml.safe_load(entries(build(package(systems=systems), workspace, tmp_path / "p.zip"))[META])
    assert meta["results"]["development_dataset"]["fan"] == {"auc_source": None, "auc_target": None, "pauc": None}
    assert meta["system"]["complexity"]["total_parameters"] is None


@pytest.mark.parametrize("kind", ["simulated", "local recordings", "DCASE 2026 with noise", "DCASE 2023"])
def test_only_recordings_of_the_challenge_give_development_results(tmp_path: Path, kind: str) -> None:
    workspace = Workspace(tmp_path / "w")
    write_run(workspace, dataset(["fan"], ["Sander"]), "one", data={"name": "shop", "kind": kind})
    systems = [{"name": "First", "abbreviation": "F", "runs": ["one"]}]
    meta = yaml.safe_load(entries(build(package(systems=systems), workspace, tmp_path / "p.zip"))[META])
    assert meta["results"]["development_dataset"]["fan"] == {"auc_source": None, "auc_target": None, "pauc": None}


def test_runs_that_tuned_other_weights_are_other_systems(tmp_path: Path) -> None:
    """The evaluation machines have no labels: a run on them alone weighs all streams alike."""
    workspace = Workspace(tmp_path / "w")
    config = CONFIG | {"fusion": {"name": "weighted", "weights": "tuned"}}

    def tuning(knn: float) -> dict:
        return {"weights": {"knn": knn, "maha": 1 - knn}, "search": "grid", "said": "So it was."}

    write_run(workspace, dataset(["fan"]), "dev", config=config, tuning=tuning(0.8))
    write_run(workspace, dataset([], ["Sander"]), "eval", config=config, tuning=tuning(0.5))
    write_run(workspace, dataset([], ["Sander"]), "same", config=config, tuning=tuning(0.8))
    systems = [{"name": "First", "abbreviation": "F", "runs": ["dev", "eval"]}]
    with pytest.raises(AsdError, match=r"each tuned their own weights \(knn 0.8, maha 0.2; knn 0.5, maha 0.5\)"):
        build(package(systems=systems), workspace, tmp_path / "p.zip")
    systems[0]["runs"] = ["dev", "same"]
    meta = yaml.safe_load(entries(build(package(systems=systems), workspace, tmp_path / "p.zip"))[META])
    used = meta["system"]["description"]["development_data_usage"]
    assert used == "normal training clips; test labels: weights of the fusion"


def test_tuned_weights_say_what_data_they_come_from() -> None:
    fusion = {
        "name": "weighted",
        "weights": [0.8, 0.2],
        "tuned_on": "Weights tuned on the labelled test clips of shop.",
    }
    assert describe(CONFIG | {"fusion": fusion})["development_data_usage"].endswith("weights of the fusion")
    assert describe(CONFIG)["development_data_usage"] == "normal training clips"


def test_parameters_are_those_of_one_machine(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    sizes = {"start": (None, 1000), "shared": (None, 100), "fan": ("fan", 7), "valve": ("valve", 9)}
    tasks = [{"kind": "train", "key": key, "machine": machine} for key, (machine, _) in sizes.items()]
    for key, (_, size) in sizes.items():
        write_json(workspace.task("train", key) / "meta.json", {"parameters": size})
    for machine in ("fan", "valve"):  # "start" is what the shared network began with; nothing is embedded by it
        for network in (machine, "shared"):
            key = f"{network}-{machine}"
            tasks.append({"kind": "embed", "key": key, "machine": machine})
            write_json(workspace.task("embed", key) / "meta.json", {"inputs": [network]})
    write_run(workspace, dataset([], ["fan", "valve"]), "one", tasks=tasks)
    systems = [{"name": "First", "abbreviation": "F", "runs": ["one"]}]
    meta = yaml.safe_load(entries(build(package(systems=systems), workspace, tmp_path / "p.zip"))[META])
    assert meta["system"]["complexity"]["total_parameters"] == 109


def test_nothing_of_this_computer_is_inside(good: dict[str, bytes], workspace: Workspace) -> None:
    for name, content in good.items():
        assert str(workspace.root).encode() not in content
        assert not name.startswith("/")


def test_four_systems_and_chosen_machines(workspace: Workspace, tmp_path: Path) -> None:
    system = {"name": "S", "abbreviation": "S", "runs": ["dev"]}
    path = build(package(systems=[system] * 4, machines=["fan"]), workspace, tmp_path / "p.zip")
    names = entries(path)
    for k in range(1, 5):
        assert f"task2/Doe_Example-Lab_task2_{k}/anomaly_score_fan_section_00_test.csv" in names
    expected = {"fan": [clip.file_name for clip in dataset(["fan"], n=5).of("fan", "test")]}
    failed = {c.rule for c in check(path, expected) if c.ok == "fail"}
    assert failed == {"report.present"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"last_name": "van_Doe"}, "last_name"),
        ({"authors": [form()["authors"][0] | {"corresponding": False}]}, "exactly one author"),
        ({"authors": [form()["authors"][0] | {"email": "jane"}]}, "email"),
        ({"systems": [form()["systems"][0]] * 5}, "systems"),
        ({"systems": [form()["systems"][0] | {"abbreviation": "FAR-TOO-LONG"}]}, "abbreviation"),
        ({"sytems": []}, 'Did you mean "systems"'),
    ],
)
def test_a_wrong_form_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(AsdError, match=message):
        package(**changes)


def test_a_form_is_a_yaml_file(tmp_path: Path) -> None:
    (tmp_path / "form.yaml").write_text(yaml.safe_dump(form()))
    assert load(Package, tmp_path / "form.yaml") == package()


def test_what_cannot_be_built(workspace: Workspace, tmp_path: Path) -> None:
    def attempt(runs: list[str], **changes: object) -> None:
        build(package(systems=[{"name": "S", "abbreviation": "S", "runs": runs}], **changes), workspace, tmp_path)

    with pytest.raises(AsdError, match="no finished run"):
        attempt(["nowhere"])
    with pytest.raises(AsdError, match="Nothing to export"):
        attempt(["dev"])
    with pytest.raises(AsdError, match="no test scores of ToyTrain"):
        attempt(["dev"], machines=["fan", "ToyTrain"])
    with pytest.raises(AsdError, match="more than one of the runs"):
        attempt(["eval", "eval"])
    with pytest.raises(AsdError, match="report"):
        attempt(["eval"], report=str(tmp_path / "none.pdf"))
    write_run(workspace, dataset(["fan"]), "other", config=CONFIG | {"name": "other"})
    with pytest.raises(AsdError, match="different configurations"):
        attempt(["eval", "other"])


# -------------------------------------------------------------------------------------------------- traps in tables

Change = Callable[[list[bytes]], list[bytes]]


def edit(index: int, line: bytes) -> Change:
    return lambda lines: [*lines[:index], line, *lines[index + 1 :]]


TABLE_TRAPS: dict[str, tuple[str, Change, str, str, int | None]] = {
    "header": (SCORES, lambda x: [b"file_name,anomaly_score", *x], "fail", "csv.header", 1),
    "blank line at the end": (SCORES, lambda x: [*x, b""], "fail", "csv.blank", 201),
    "blank line inside": (SCORES, lambda x: [*x[:5], b"", *x[5:]], "fail", "csv.blank", 6),
    "missing row": (SCORES, lambda x: x[:-1], "fail", "csv.complete", None),
    "NaN": (SCORES, edit(3, b"section_00_0003.wav,nan"), "fail", "score.number", 4),
    "infinity": (SCORES, edit(3, b"section_00_0003.wav,-inf"), "fail", "score.number", 4),
    "text": (SCORES, edit(3, b"section_00_0003.wav,high"), "fail", "score.number", 4),
    "decision 2": (VERDICTS, edit(9, b"section_00_0009.wav,2"), "fail", "decision.binary", 10),
    "decision yes": (VERDICTS, edit(9, b"section_00_0009.wav,yes"), "fail", "decision.binary", 10),
    "decision 1.0": (VERDICTS, edit(9, b"section_00_0009.wav,1.0"), "warn", "decision.binary", 10),
    "doubled row": (SCORES, edit(7, b"section_00_0006.wav,0.5"), "fail", "csv.unique", 8),
    "row replaced by a double": (SCORES, edit(7, b"section_00_0006.wav,0.5"), "fail", "csv.complete", None),
    "other name": (SCORES, edit(7, b"section_00_0200.wav,0.5"), "fail", "csv.names", 8),
    "other case": (SCORES, edit(7, b"Section_00_0007.wav,0.5"), "fail", "csv.names", 8),
    "folder before the name": (SCORES, edit(7, b"test/section_00_0007.wav,0.5"), "warn", "csv.names", 8),
    "third column": (SCORES, edit(7, b"section_00_0007.wav,0.5,1"), "fail", "csv.columns", 8),
    "semicolons": (SCORES, edit(7, b"section_00_0007.wav;0.5"), "fail", "csv.columns", 8),
    "shuffled": (SCORES, lambda x: [x[1], x[0], *x[2:]], "warn", "csv.order", 1),
    "byte-order mark": (SCORES, lambda x: [b"\xef\xbb\xbf" + x[0], *x[1:]], "fail", "csv.encoding", 1),
    "Latin-1": (SCORES, edit(7, b"section_00_000\xe9.wav,0.5"), "fail", "csv.encoding", 8),
    "Windows line ends": (SCORES, lambda x: [line + b"\r" for line in x], "warn", "csv.encoding", 1),
    "one score": (SCORES, lambda x: [line.split(b",")[0] + b",0.5" for line in x], "fail", "score.distinct", None),
    "all flagged": (VERDICTS, lambda x: [line.split(b",")[0] + b",1" for line in x], "warn", "decision.share", None),
    "decisions of another file": (
        VERDICTS,
        lambda x: [line[:-1] + (b"1" if line.endswith(b"0") else b"0") for line in x],
        "warn",
        "decision.agrees",
        None,
    ),
    "a path of somebody's computer": (
        SCORES,
        edit(7, b"/home/jane/section_00_0007.wav,0.5"),
        "fail",
        "private.path",
        8,
    ),
}


@pytest.mark.parametrize("trap", TABLE_TRAPS)
def test_trap_in_a_table(good: dict[str, bytes], trap: str) -> None:
    file, change, ok, rule, row = TABLE_TRAPS[trap]
    lines = change(good[file].decode().encode().split(b"\n")[:-1])
    checks = check(pack(good | {file: b"\n".join(lines) + b"\n"}))
    told = found(checks, ok, rule)
    assert told, checks[:3]
    assert {c.file for c in told} == {file}
    if row is not None:
        assert told[0].row == row
    if trap == "decisions of another file":
        assert told[0].row is not None
    if ok == "warn":  # what the evaluator tolerates is not an error
        assert not [c for c in checks if c.ok == "fail"]


def test_thousands_of_faults_are_summed_up(good: dict[str, bytes]) -> None:
    checks = check(pack(good | {SCORES: b"x.wav,1\n" * 5000}))
    told = found(checks, "fail", "csv.names")
    assert len(told) == 20
    assert told[-1].message.endswith("(and 4980 more like this)")


# -------------------------------------------------------------------------------------------------- traps in layout


def without(name: str) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda good: {n: c for n, c in good.items() if n != name}


def renamed(old: str, new: str) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda good: {n.replace(old, new): c for n, c in good.items()}


OTHER = "task2/Doe_Example-Lab_task2_2"
LAYOUT_TRAPS = {
    "missing score file": (without(SCORES), "csv.present", SCORES),
    "missing decision file": (without(VERDICTS), "csv.present", VERDICTS),
    "missing meta": (without(META), "meta.present", META),
    "missing report": (without(REPORT), "report.present", ""),
    "report is no PDF": (lambda g: g | {REPORT: b"<html>"}, "report.present", REPORT),
    "report of another label": (renamed(REPORT, "task2/X_Y_task2_1.technical_report.pdf"), "report.present", None),
    "tables at the top": (lambda g: {n.rpartition("/")[2]: c for n, c in g.items()}, "layout.systems", ""),
    "a machine too many": (lambda g: g | {SCORES.replace("Sander", "fan"): b"a,1\n"}, "layout.stray", None),
    "stray file": (lambda g: g | {f"{FOLDER}/notes.txt": b""}, "layout.stray", f"{FOLDER}/notes.txt"),
    "litter": (lambda g: g | {"task2/.DS_Store": b""}, "layout.stray", "task2/.DS_Store"),
    "names of the baseline": (
        renamed(
            "anomaly_score_Sander_section_00_test", "anomaly_score_DCASE2026T2Sander_section_00_test_seed13711_id(0_)"
        ),
        "csv.present",
        SCORES,
    ),
    "underscore in the label": (renamed("Example-Lab", "Example_Lab"), "label.form", "task2/Doe_Example_Lab_task2_1"),
    "fifth system": (renamed("task2_1", "task2_5"), "label.form", "task2/Doe_Example-Lab_task2_5"),
    "folder and meta disagree": (renamed(FOLDER + "/", OTHER + "/"), "label.agrees", f"{OTHER}/{LABEL}.meta.yaml"),
    "two teams": (
        lambda g: g | {n.replace("Doe", "Roe").replace("task2_1", "task2_2"): c for n, c in g.items()},
        "label.team",
        "",
    ),
    "five systems": (
        lambda g: {n.replace("task2_1", f"task2_{k}"): c for k in range(1, 6) for n, c in g.items()},
        "layout.systems",
        "",
    ),
}


@pytest.mark.parametrize("trap", LAYOUT_TRAPS)
def test_trap_in_the_layout(good: dict[str, bytes], trap: str) -> None:
    change, rule, file = LAYOUT_TRAPS[trap]
    told = found(check(pack(change(good))), "fail", rule)
    assert told
    if file is not None:
        assert file in {c.file for c in told}


# ---------------------------------------------------------------------------------------------------- traps in meta


def set_at(path: str, value: object) -> Callable[[dict], None]:
    def change(meta: dict) -> None:
        *parents, last = path.split(".")
        for part in parents:
            meta = meta[int(part)] if part.isdigit() else meta[part]
        if value is KeyError:
            del meta[last]
        else:
            meta[last] = value

    return change


META_TRAPS = {
    "label": (set_at("submission.label", "Doe_Example-Lab_task2_2"), "label.agrees"),
    "long abbreviation": (set_at("submission.abbreviation", "ABCDEFGHIJK"), "meta.types"),
    "no name": (set_at("submission.name", None), "meta.fields"),
    "field missing": (set_at("system.description.front_end", KeyError), "meta.fields"),
    "parameters as text": (set_at("system.complexity.total_parameters", "90 M"), "meta.types"),
    "no corresponding author": (set_at("submission.authors.0.corresponding", False), "meta.authors"),
    "no address": (set_at("submission.authors.0.email", "jane"), "meta.authors"),
    "no institution": (set_at("submission.authors.0.affiliation", {}), "meta.authors"),
    "no authors": (set_at("submission.authors", []), "meta.authors"),
    "data set without url": (set_at("system.external_datasets", [{"name": "AudioSet"}]), "meta.types"),
    "machine missing": (set_at("results.development_dataset.fan", KeyError), "meta.results"),
    "fraction": (set_at("results.development_dataset.fan.auc_source", 0.71), "meta.results"),
    "raw partial area": (set_at("results.development_dataset.fan.pauc", 13.6), "meta.results"),
    "above 100": (set_at("results.development_dataset.fan.auc_target", 101), "meta.results"),
    "not a number": (set_at("results.development_dataset.fan.auc_target", "high"), "meta.results"),
    "path": (set_at("system.source_code", "C:\\Users\\jane\\code"), "private.path"),
}


@pytest.mark.parametrize("trap", META_TRAPS)
def test_trap_in_the_meta_file(good: dict[str, bytes], trap: str) -> None:
    change, rule = META_TRAPS[trap]
    meta = yaml.safe_load(good[META])
    change(meta)
    checks = check(pack(good | {META: yaml.safe_dump(meta).encode()}))
    assert {c.rule for c in checks if c.ok == "fail"} == {rule}
    assert found(checks, "fail", rule)[0].file == META


def test_null_results_and_parameters_are_allowed_but_noticed(good: dict[str, bytes]) -> None:
    meta = yaml.safe_load(good[META])
    set_at("results.development_dataset.fan.pauc", None)(meta)
    set_at("system.complexity.total_parameters", None)(meta)
    checks = check(pack(good | {META: yaml.safe_dump(meta).encode()}))
    assert {(c.ok, c.rule) for c in checks if c.ok != "pass"} == {("warn", "meta.results"), ("warn", "meta.fields")}


def test_a_web_address_is_not_a_private_path(good: dict[str, bytes]) -> None:
    meta = yaml.safe_load(good[META])
    set_at("system.source_code", "https://example.org/home/jane/code")(meta)
    assert not [c for c in check(pack(good | {META: yaml.safe_dump(meta).encode()})) if c.ok == "fail"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: &x [1]\nb: *x\n", "aliases"),
        (b"!!python/object/apply:os.getcwd []\n", "not valid YAML"),
        (b"a: [1\nb: 2", "not valid YAML"),
        (b"[" * 5000, "not valid YAML"),
        (b"- a\n", "not a mapping"),
        (b"a: " + b"x" * 300_000, "allowed are 256"),
        (b"\xff\xfe", "not valid YAML"),
    ],
)
def test_hostile_meta_files(good: dict[str, bytes], text: bytes, message: str) -> None:
    told = found(check(pack(good | {META: text})), "fail", "meta.yaml")
    assert [c.file for c in told] == [META]
    assert message in told[0].message


# ----------------------------------------------------------------------------------------------------- hostile zips


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "C:/windows/x", "task2\\..\\x", "task2/../../x"])
def test_names_that_lead_out_are_told(good: dict[str, bytes], name: str) -> None:
    checks = check(pack(good | {name: b""}))
    assert [(c.ok, c.rule, c.file) for c in checks] == [("fail", "zip.path", name)]


def test_a_link_is_told() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("task2/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert [(c.rule, c.file) for c in check(buffer.getvalue())] == [("zip.path", "task2/link")]


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("task2/zeros.csv", bytes(20 * 2**20))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was opened"))
    checks = check(buffer.getvalue())
    assert [(c.ok, c.rule, c.file) for c in checks] == [("fail", "zip.size", "task2/zeros.csv")]


def test_a_lying_size_is_found_while_reading(monkeypatch: pytest.MonkeyPatch, good: dict[str, bytes]) -> None:
    """The limit holds for the bytes that come out, whatever the header says."""
    monkeypatch.setattr("asd_core.export.validator._entries_allowed", lambda *_: True)
    monkeypatch.setattr("asd_core.export.validator.MAX_PACKAGE", sum(map(len, good.values())) + 5000)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in good.items():
            archive.writestr(name, content)
        archive.writestr("task2/zeros.csv", bytes(2**20))
    assert [c.rule for c in check(buffer.getvalue())] == ["zip.size"]


def test_too_large_or_broken_or_doubled(good: dict[str, bytes], tmp_path: Path) -> None:
    assert [c.rule for c in check(bytes(MAX_PACKAGE + 1))] == ["zip.size"]
    assert [c.rule for c in check(b"not a zip")] == ["zip.readable"]
    assert [c.rule for c in check(pack({f"task2/{i}": b"" for i in range(501)}))] == ["zip.size"]
    payload = bytearray(pack(good))
    payload[payload.find(b"section_00_0005.wav") + 3] ^= 1  # the checksum no longer agrees
    assert [c.rule for c in check(bytes(payload))] == ["zip.readable"]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("task2/a", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("task2/a", b"2")
    assert [(c.rule, c.file) for c in check(buffer.getvalue())] == [("zip.unique", "task2/a")]
    with pytest.raises(AsdError, match="does not exist"):
        check(tmp_path / "none.zip")


def test_a_folder_is_checked_like_a_zip(good: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in good.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    for folder in (tmp_path, tmp_path / "task2"):
        assert {c.ok for c in check(folder)} == {"pass"}
    (tmp_path / SCORES).unlink()
    assert [(c.rule, c.file) for c in check(tmp_path) if c.ok == "fail"] == [("csv.present", SCORES)]
    (tmp_path / SCORES).symlink_to(tmp_path / VERDICTS)
    assert [(c.rule, c.file) for c in check(tmp_path)] == [("zip.path", SCORES)]


# -------------------------------------------------------------------------------------------------------------- diff


def test_diff_names_changed_clips_and_rank_correlation(good: dict[str, bytes]) -> None:
    lines = good[SCORES].split(b"\n")
    lines[4] = b"section_00_0004.wav,1e9"
    verdicts = good[VERDICTS].split(b"\n")
    verdicts[6] = verdicts[6][:-1] + (b"0" if verdicts[6].endswith(b"1") else b"1")
    new = good | {SCORES: b"\n".join(lines), VERDICTS: b"\n".join(verdicts)}
    table = diff(pack(good), pack(new)).set_index("machine")
    row = table.loc["Sander"]
    assert (row["changed_scores"], row["changed_decisions"], row["clips"]) == (1, 1, 200)
    assert row["changed"] == ["section_00_0004.wav", "section_00_0006.wav"]
    assert 0.9 < row["rank_correlation"] < 1
    others = table.drop("Sander")
    assert (others["changed_scores"] == 0).all()
    assert others["rank_correlation"].tolist() == pytest.approx([1.0] * 4)


def test_diff_of_files_in_one_package_only(good: dict[str, bytes]) -> None:
    without_sander = {name: content for name, content in good.items() if "Sander" not in name}
    row = diff(pack(good), pack(without_sander)).set_index("machine").loc["Sander"]
    assert (row["clips"], row["removed"], row["added"]) == (0, 200, 0)
    with pytest.raises(AsdError, match="cannot be compared"):
        diff(pack(good), b"not a zip")
