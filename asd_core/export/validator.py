"""Is a submission package what the official evaluator expects? Every rule, told with file and row.

The evaluator itself skips a system whose file is missing, and matches rows by position after sorting, so a wrong
name or a doubled row gives a wrong score without a word. All of that is checked here. A package is opened in memory
and nothing is ever unpacked to disk; sizes are limited before and while reading.
"""

from __future__ import annotations

import csv
import io
import lzma
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml

from asd_core.export.submission import MAX_ABBREVIATION, MAX_SYSTEMS, Description
from asd_core.metrics import DEVELOPMENT, TRIPLE
from asd_core.types import AsdError

EVALUATION = ("BlowerDustCollector", "Sander", "SewingMachine", "ToothBrush", "ToyDrone")
CLIPS = [f"section_00_{number:04d}.wav" for number in range(200)]

MiB = 2**20
MAX_PACKAGE = 64 * MiB  # a zip, and what it unpacks to
MAX_FILES = 500
MAX_CSV, MAX_META = 4 * MiB, MiB // 4
MAX_TOLD = 20  # findings of one rule in one file
MAX_ENTRIES = 4 * MAX_FILES  # files, folders and all, before the list of them is read
MAX_DEPTH = 20  # of a meta file, which needs 6; PyYAML takes minutes for brackets nested without end
MAX_RATIO = 200  # of unpacked to packed size, for files above 1 MiB

LABEL = re.compile(r"(?P<team>[A-Za-z0-9-]+_[A-Za-z0-9-]+)_task2_(?P<k>[1-9]\d*)")
CSV_NAME = re.compile(r"(?P<what>anomaly_score|decision_result)_(?P<machine>.+)_section_(?P<section>\d+)_test\.csv")
SECTION = re.compile(r"section_(\d+)_")
REPORT = ".technical_report.pdf"
PRIVATE = re.compile(
    rb"(?<![\w./])/(?:home|Users|root|mnt|media|tmp)/[^\s,:;\"')>]+|\b[A-Za-z]:\\+Users\\+[^\s,;\"')>]+|file:///[^\s\"')>]+"
)
LITTER = re.compile(r"(^|/)(\.[^/]+|__MACOSX|Thumbs\.db|desktop\.ini)(/|$)")
PDF_PAGE = re.compile(rb"/Type\s*/Page(?![A-Za-z])")
LOWEST_PAUC = 100 * (1 + (0 - 0.005) / (0.1 - 0.005)) / 2  # percent; McClish's scale never goes below it

RULES = {
    "zip.readable": "the package opens and its checksums agree",
    "zip.size": f"at most {MAX_PACKAGE // MiB} MiB and {MAX_FILES} files",
    "zip.path": "entry names stay inside the package",
    "zip.unique": "no entry comes twice",
    "layout.systems": f"one to {MAX_SYSTEMS} folders task2/<label>/",
    "layout.stray": "no file that does not belong",
    "label.form": "labels read <LastName>_<Institute>_task2_<k>, k = 1 to 4",
    "label.team": "all labels share name and institute",
    "label.agrees": "folder, meta file and the label inside it agree",
    "csv.present": "a score and a decision file for every machine and section",
    "csv.encoding": "plain UTF-8 text without byte-order mark, line ends \\n",
    "csv.header": "no header row",
    "csv.blank": "no blank line",
    "csv.columns": "two columns: file name, value",
    "csv.names": "exactly the names of the evaluation clips, without folders",
    "csv.unique": "no clip twice",
    "csv.complete": "no clip left out",
    "csv.order": "rows in the order of the clips",
    "score.number": "scores are finite numbers",
    "score.distinct": "at least two different scores",
    "decision.binary": "decisions are 0 or 1",
    "decision.share": "neither all nor none of the clips are flagged",
    "decision.agrees": "flagged clips score higher than the others",
    "meta.present": "a meta file for every system",
    "meta.yaml": "the meta file is plain YAML",
    "meta.fields": "all fields of the meta file are there",
    "meta.types": "fields of the meta file hold what they should",
    "meta.authors": "authors are complete, exactly one is corresponding",
    "meta.results": "development results: percent, all seven machines",
    "report.present": "the technical report, a PDF with pages",
    "private.path": "no absolute path of anybody's computer inside",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `row` counts from 1; `file` is a name inside the package, "" for the package itself."""

    ok: Literal["pass", "fail", "warn"]
    rule: str  # a key of RULES
    file: str
    row: int | None
    message: str


def check(package: Path | bytes, expected: Mapping[str, Sequence[str]] | None = None) -> list[Check]:
    """Check a zip (a path, or its bytes as uploaded) or a folder against all rules.

    Args:
        package: the zip or the folder that holds ``task2/``
        expected: machine → names of its test clips in order; default: the evaluation set of DCASE 2026

    Returns:
        failures and warnings first, in the order of RULES, then one "pass" for every rule without either. A package
        that cannot be opened gives its failures alone.

    Raises:
        AsdError: the path does not exist.
    """
    findings = _Findings()
    files = _read(package, findings)
    if findings.failed("zip.readable", "zip.size", "zip.path", "zip.unique"):
        return findings.sorted()
    systems = _systems(files, findings)
    wanted = _by_section(expected or dict.fromkeys(EVALUATION, CLIPS))
    for label, own in systems.items():
        _check_tables(label, own, wanted, findings)
        _check_meta(label, own, findings)
    _check_report(files, systems, findings)
    _check_privacy(files, findings)
    tested = (
        RULES if systems else [rule for rule in RULES if rule.startswith(("zip.", "layout.", "private.", "report."))]
    )
    for rule in tested:
        findings.passed(rule)
    return findings.sorted()


def diff(old: Path | bytes, new: Path | bytes) -> pd.DataFrame:
    """What changed between two packages, by system number, machine and section.

    Columns: system, machine, section, clips (in both), added, removed, changed_scores, changed_decisions (numbers of
    clips), changed (names of clips with another score or decision), rank_correlation (Spearman, None where
    undefined). Files in only one of the packages have 0 clips in common.

    Raises:
        AsdError: one of the packages cannot be opened.
    """
    left, right = _opened(old), _opened(new)
    rows = []
    for key in sorted(left.keys() | right.keys()):
        a, b = left.get(key, _NOTHING), right.get(key, _NOTHING)
        both = a.index.intersection(b.index)
        score, decision = (_differs(a.loc[both, name], b.loc[both, name]) for name in ("score", "decision"))
        rank = a.loc[both, "score"].corr(b.loc[both, "score"], method="spearman") if _varies(a, b, both) else None
        rows.append(
            {
                "system": key[0],
                "machine": key[1],
                "section": key[2],
                "clips": len(both),
                "added": len(b.index.difference(a.index)),
                "removed": len(a.index.difference(b.index)),
                "changed_scores": int(score.sum()),
                "changed_decisions": int(decision.sum()),
                "changed": sorted(both[score | decision]),
                "rank_correlation": rank,
            }
        )
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------------------- findings


class _Findings:
    """Collects checks; of one rule in one file the first `MAX_TOLD` are told and the others counted."""

    def __init__(self) -> None:
        self.all: list[Check] = []
        self.counts: Counter[tuple[str, str]] = Counter()

    def fail(self, rule: str, message: str, file: str = "", row: int | None = None) -> None:
        self._add(Check("fail", rule, file, row, message))

    def warn(self, rule: str, message: str, file: str = "", row: int | None = None) -> None:
        self._add(Check("warn", rule, file, row, message))

    def _add(self, found: Check) -> None:
        self.counts[found.rule, found.file] += 1
        if self.counts[found.rule, found.file] <= MAX_TOLD:
            self.all.append(found)
        elif found.ok == "fail" and not any(
            (c.ok, c.rule, c.file) == ("fail", found.rule, found.file) for c in self.all
        ):
            self.all.append(found)  # warnings must not crowd out a failure

    def passed(self, rule: str) -> None:
        if all(found.rule != rule for found in self.all):
            self.all.append(Check("pass", rule, "", None, RULES[rule]))

    def failed(self, *rules: str) -> bool:
        return any(found.ok == "fail" and found.rule in rules for found in self.all)

    def sorted(self) -> list[Check]:
        severity, place = ("fail", "warn", "pass"), list(RULES)
        checks = sorted(self.all, key=lambda c: (severity.index(c.ok), place.index(c.rule), c.file, c.row or 0))
        for index in range(len(checks) - 1, -1, -1):  # the last of each rule and file says how many were left out
            found = checks[index]
            if left_out := max(0, self.counts.pop((found.rule, found.file), 0) - MAX_TOLD):
                checks[index] = replace(found, message=f"{found.message} (and {left_out} more like this)")
        return checks


# -------------------------------------------------------------------------------------------------------- reading


def _read(package: Path | bytes, findings: _Findings) -> dict[str, bytes]:
    """Contents by name inside the package; what is wrong with the container goes into `findings`."""
    if isinstance(package, bytes):
        return _read_zip(package, findings)
    if package.is_dir():
        return _read_folder(package, findings)
    if not package.is_file():
        raise AsdError(f"{package} does not exist. Expected a submission zip or a folder that holds task2/.")
    if package.stat().st_size > MAX_PACKAGE:
        findings.fail(
            "zip.size", f"the file has {package.stat().st_size / MiB:.0f} MiB, allowed are {MAX_PACKAGE // MiB}"
        )
        return {}
    return _read_zip(package.read_bytes(), findings)


def _read_zip(payload: bytes, findings: _Findings) -> dict[str, bytes]:
    if len(payload) > MAX_PACKAGE:
        findings.fail("zip.size", f"the file has {len(payload) / MiB:.0f} MiB, allowed are {MAX_PACKAGE // MiB}")
        return {}
    if (entries_told := payload.count(b"PK\x01\x02")) > MAX_ENTRIES:  # each entry of the list begins with it
        findings.fail("zip.size", f"lists {entries_told} files and folders, allowed are {MAX_FILES} files")
        return {}
    files: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            if archive.comment:
                findings.warn("layout.stray", "the zip carries a comment")
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if not _entries_allowed(entries, findings):
                return {}
            left = MAX_PACKAGE
            for entry in entries:
                with archive.open(entry) as stream:
                    content = stream.read(left + 1)  # the size in the header may lie
                if len(content) > left:
                    findings.fail("zip.size", f"unpacks to more than {MAX_PACKAGE // MiB} MiB", entry.filename)
                    return {}
                left -= len(content)
                files[entry.filename] = content
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        findings.fail("zip.readable", f"cannot be opened as a zip ({error})")
    except (zlib.error, lzma.LZMAError) as error:
        findings.fail("zip.readable", f"holds damaged data ({error})")
    return files


def _entries_allowed(entries: Sequence[zipfile.ZipInfo], findings: _Findings) -> bool:
    """Look at names and declared sizes before anything is unpacked."""
    if len(entries) > MAX_FILES:
        findings.fail("zip.size", f"{len(entries)} files, allowed are {MAX_FILES}")
    seen: set[str] = set()
    for entry in entries:
        name = entry.filename
        if _leaves(name):
            findings.fail("zip.path", "the name leads out of the package", name)
        if entry.external_attr >> 28 == 0o12:
            findings.fail("zip.path", "a link to another file", name)
        if entry.flag_bits & 0x1:
            findings.fail("zip.readable", "encrypted", name)
        if name in seen:
            findings.fail("zip.unique", "comes more than once", name)
        seen.add(name)
        if entry.file_size > MiB and entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
            findings.fail(
                "zip.size", f"unpacks to {entry.file_size / max(entry.compress_size, 1):.0f} times its size", name
            )
    if sum(entry.file_size for entry in entries) > MAX_PACKAGE:
        findings.fail("zip.size", f"unpacks to more than {MAX_PACKAGE // MiB} MiB")
    return not findings.failed("zip.size", "zip.path", "zip.unique", "zip.readable")


def _leaves(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return (
        path.is_absolute() or ".." in path.parts or "\\" in name or bool(re.match(r"[A-Za-z]:", name)) or "\0" in name
    )


def _read_folder(folder: Path, findings: _Findings) -> dict[str, bytes]:
    root = folder.parent if folder.name == "task2" else folder
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    files: dict[str, bytes] = {}
    if len(paths) > MAX_FILES:
        findings.fail("zip.size", f"{len(paths)} files, allowed are {MAX_FILES}")
        return files
    left = MAX_PACKAGE
    for path in paths:
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            findings.fail("zip.path", "a link to another file", name)
            continue
        left -= path.stat().st_size
        if left < 0:
            findings.fail("zip.size", f"more than {MAX_PACKAGE // MiB} MiB", name)
            break
        files[name] = path.read_bytes()
    return files


# --------------------------------------------------------------------------------------------------------- layout


def _systems(files: Mapping[str, bytes], findings: _Findings) -> dict[str, dict[str, bytes]]:
    """Label → its files by plain name; everything else must be the report."""
    systems: dict[str, dict[str, bytes]] = {}
    for name, content in files.items():
        parts = name.split("/")
        if LITTER.search(name):
            findings.fail("layout.stray", "left behind by a computer's file manager or editor", name)
        elif len(parts) == 3 and parts[0] == "task2":
            systems.setdefault(parts[1], {})[parts[2]] = content
        elif not (len(parts) == 2 and parts[0] == "task2" and name.endswith(REPORT)):
            findings.fail("layout.stray", "does not belong here; files go into task2/<label>/", name)
    if not 1 <= len(systems) <= MAX_SYSTEMS:
        found = ", ".join(sorted(systems)) or "none"
        findings.fail(
            "layout.systems", f"{len(systems)} folders task2/<label>/ ({found}); one to {MAX_SYSTEMS} are allowed"
        )
    teams = set()
    for label in systems:
        match = LABEL.fullmatch(label)
        if not match or int(match["k"]) > MAX_SYSTEMS:
            form = f"<LastName>_<Institute>_task2_<k> with k = 1 to {MAX_SYSTEMS} and no other underscore"
            findings.fail("label.form", f'"{label}" is not {form}', f"task2/{label}")
        else:
            teams.add(match["team"])
    if len(teams) > 1:
        findings.fail("label.team", f"different teams in one package: {', '.join(sorted(teams))}")
    return dict(sorted(systems.items()))


def _check_report(files: Mapping[str, bytes], systems: Iterable[str], findings: _Findings) -> None:
    reports = [name for name in files if name.startswith("task2/") and name.endswith(REPORT) and name.count("/") == 1]
    if not reports:
        findings.fail("report.present", f"task2/<label>{REPORT} is missing")
    for name in reports:
        if not files[name].startswith(b"%PDF-"):
            findings.fail("report.present", "is not a PDF", name)
        elif b"/Encrypt" in files[name]:
            findings.warn("report.present", "is encrypted, so its pages cannot be counted", name)
        elif not _has_page(files[name]):
            findings.fail("report.present", "is a PDF without a page", name)
        if name.removeprefix("task2/").removesuffix(REPORT) not in systems:
            findings.fail("report.present", "is not named after the label of a system in this package", name)


def _has_page(pdf: bytes) -> bool:
    """Whether a PDF holds a page, written plainly or in a compressed object stream (PDF 1.5), as TeX writes it."""
    if PDF_PAGE.search(pdf):
        return True
    left, place = MAX_PACKAGE, 0
    while left > 0 and (place := pdf.find(b"/ObjStm", place)) >= 0:
        place = pdf.find(b"stream", place)
        if place < 0:
            return False
        place += len(b"stream")
        begin = place + (2 if pdf[place : place + 2] == b"\r\n" else 1)
        objects = b""
        with suppress(zlib.error):  # of another filter, or damaged; a page may be elsewhere
            objects = zlib.decompressobj().decompress(memoryview(pdf)[begin : begin + MiB], min(left, 4 * MiB))
        if PDF_PAGE.search(objects):
            return True
        left -= max(len(objects), MiB // 64)  # a look costs something even where it finds nothing
    return False


def _check_privacy(files: Mapping[str, bytes], findings: _Findings) -> None:
    for name, content in files.items():
        if found := PRIVATE.search(content):
            row = content.count(b"\n", 0, found.start()) + 1
            tell = findings.warn if name.endswith(".pdf") else findings.fail  # in a PDF it may be part of the text
            tell("private.path", f"holds a path: {found[0].decode(errors='replace')[:60]}", name, row)


# --------------------------------------------------------------------------------------------------------- tables


def _by_section(expected: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], list[str]]:
    """(machine, section) → clip names in order."""
    sections: dict[tuple[str, str], list[str]] = {}
    for machine, names in expected.items():
        for name in names:
            match = SECTION.match(name)
            sections.setdefault((machine, match[1] if match else "00"), []).append(name)
    return sections


def _check_tables(
    label: str, files: Mapping[str, bytes], wanted: Mapping[tuple[str, str], list[str]], findings: _Findings
) -> None:
    meta_name = f"{label}.meta.yaml"
    for name in files:
        match = CSV_NAME.fullmatch(name)
        if match and (match["machine"], match["section"]) not in wanted:
            findings.fail("layout.stray", "a machine or section that is not expected", f"task2/{label}/{name}")
        elif not match and name != meta_name and not name.endswith(".meta.yaml"):
            findings.fail("layout.stray", "does not belong here", f"task2/{label}/{name}")
    for (machine, section), names in wanted.items():
        columns = {}
        for what in ("anomaly_score", "decision_result"):
            name = f"{what}_{machine}_section_{section}_test.csv"
            if name not in files:
                findings.fail(
                    "csv.present", "is missing; the evaluator would skip the system silently", f"task2/{label}/{name}"
                )
            else:
                columns[what] = _check_table(what, f"task2/{label}/{name}", files[name], names, findings)
        if len(columns) == 2:
            _check_agreement(f"task2/{label}/decision_result_{machine}_section_{section}_test.csv", columns, findings)


def _check_table(
    what: str, file: str, content: bytes, names: Sequence[str], findings: _Findings
) -> dict[str, tuple[int, float]]:
    """Clip → (row, value) of one CSV, as far as it can be read."""
    rows = _rows(file, content, findings)
    rule = "score.number" if what == "anomaly_score" else "decision.binary"
    known, order = set(names), []
    seen: dict[str, tuple[int, float]] = {}
    for number, row in rows:
        if not any(cell.strip() for cell in row):
            findings.fail("csv.blank", "a blank line stops the evaluator", file, number)
            continue
        if number == 1 and len(row) >= 2 and not row[0].strip().endswith(".wav") and _float(row[1]) is None:
            findings.fail("csv.header", f"looks like a header ({','.join(row)[:60]})", file, number)
            continue
        if len(row) != 2:
            findings.fail("csv.columns", f"{len(row)} columns, expected file name and value", file, number)
            continue
        name = row[0].replace("\\", "/").rpartition("/")[2]
        if name not in known:
            findings.fail(
                "csv.names", f"{row[0]!r} is not a clip of this machine; the score would be wrong", file, number
            )
            continue
        if name != row[0]:
            findings.warn("csv.names", f"{row[0]!r} carries a folder", file, number)
        if name in seen:
            findings.fail("csv.unique", f"{name} comes again (first in row {seen[name][0]})", file, number)
            continue
        value = _float(row[1])
        if value is None or not np.isfinite(value):
            findings.fail(rule, f"{row[1]!r} is not a finite number", file, number)
            value = np.nan
        elif rule == "decision.binary" and value not in (0, 1):
            findings.fail(rule, f"{row[1]!r} is neither 0 nor 1", file, number)
        elif rule == "decision.binary" and row[1] not in ("0", "1"):
            findings.warn(rule, f"{row[1]!r} should be written {int(value)}", file, number)
        seen[name] = (number, value)
        order.append(name)
    if missing := [name for name in names if name not in seen]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        findings.fail(
            "csv.complete", f"{len(missing)} of {len(names)} clips are missing: {', '.join(missing[:3])}{more}", file
        )
    right = [name for name in names if name in seen]
    if order != right:
        first = next(name for name, due in zip(order, right, strict=True) if name != due)
        findings.warn("csv.order", f"{first} is out of order", file, seen[first][0])
    values = {value for _, value in seen.values() if np.isfinite(value)}
    if seen and len(values) == 1:
        if what == "anomaly_score":
            findings.fail("score.distinct", f"all {len(seen)} scores are {values.pop():g}", file)
        else:
            flagged = "all" if values.pop() == 1 else "none"
            findings.warn("decision.share", f"{flagged} of the {len(seen)} clips are flagged", file)
    return seen


def _rows(file: str, content: bytes, findings: _Findings) -> list[tuple[int, list[str]]]:
    if len(content) > MAX_CSV:
        findings.fail("csv.encoding", f"{len(content) / MiB:.0f} MiB, allowed are {MAX_CSV // MiB}", file)
        return []
    if content.startswith(b"\xef\xbb\xbf"):
        findings.fail("csv.encoding", "begins with a byte-order mark, which becomes part of the first name", file, 1)
        content = content[3:]
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        findings.fail("csv.encoding", f"is not UTF-8 ({error.reason})", file, row)
        return []
    if "\r" in text:
        findings.warn("csv.encoding", "line ends of Windows or old Macintosh", file, 1)
    try:
        return list(enumerate(csv.reader(io.StringIO(text, newline="")), 1))
    except csv.Error as error:
        findings.fail("csv.encoding", f"is not a CSV table ({error})", file)
        return []


def _check_agreement(file: str, columns: Mapping[str, Mapping[str, tuple[int, float]]], findings: _Findings) -> None:
    """One threshold per machine: the lowest flagged score lies above the highest score that is not flagged."""
    scores, decisions = columns["anomaly_score"], columns["decision_result"]
    both = scores.keys() & decisions.keys()
    highest = max((scores[clip][1] for clip in both if decisions[clip][1] == 0), default=-np.inf)
    odd = [clip for clip in both if decisions[clip][1] == 1 and scores[clip][1] < highest]
    if odd:
        first = min(odd, key=lambda clip: decisions[clip][0])
        message = f"{len(odd)} flagged clips score below clips that are not flagged, the first is {first}"
        findings.warn("decision.agrees", message, file, decisions[first][0])


def _float(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)  # Python would read 1_0 as ten
    except ValueError:
        return None


# ----------------------------------------------------------------------------------------------------------- meta


def _check_meta(label: str, files: Mapping[str, bytes], findings: _Findings) -> None:
    metas = [name for name in files if name.endswith(".meta.yaml")]
    folder = f"task2/{label}"
    if not metas:
        findings.fail("meta.present", "is missing", f"{folder}/{label}.meta.yaml")
        return
    for name in metas:
        if name != f"{label}.meta.yaml":
            findings.fail("label.agrees", f"should be called {label}.meta.yaml", f"{folder}/{name}")
    name = f"{label}.meta.yaml" if f"{label}.meta.yaml" in metas else metas[0]
    file = f"{folder}/{name}"
    values = _load_meta(file, files[name], findings)
    if values is None:
        return
    get = _Getter(values, file, findings)
    inner = get("submission.label", str, required=True)
    if isinstance(inner, str) and inner != label:
        findings.fail("label.agrees", f'submission.label is "{inner}", the folder is "{label}"', file)
    get("submission.name", str, required=True)
    abbreviation = get("submission.abbreviation", str, required=True)
    if isinstance(abbreviation, str) and len(abbreviation) > MAX_ABBREVIATION:
        findings.fail(
            "meta.types", f"submission.abbreviation {abbreviation!r} is longer than {MAX_ABBREVIATION} characters", file
        )
    _check_authors(get, file, findings)
    for field in Description.model_fields:
        get(f"system.description.{field}", (str, int, float, list))
    parameters = get("system.complexity.total_parameters", int)
    if parameters is None and not get.missing("system.complexity.total_parameters"):
        told = "system.complexity.total_parameters is null; state the number, 0 for a system without a network"
        findings.warn("meta.fields", told, file)
    datasets = get("system.external_datasets", list)
    for index, dataset in enumerate(datasets or []):
        if not isinstance(dataset, dict) or not {"name", "url"} <= dataset.keys():
            findings.fail("meta.types", f"system.external_datasets.{index} needs name and url", file)
    get("system.source_code", str)
    _check_results(get, file, findings)


def _load_meta(file: str, content: bytes, findings: _Findings) -> dict[str, Any] | None:
    """Parsed without building objects; aliases are refused, since a few lines of them can stand for gigabytes, and so
    is what is nested beyond measure."""
    if len(content) > MAX_META:
        findings.fail("meta.yaml", f"{len(content) // 1024} KiB, allowed are {MAX_META // 1024}", file)
        return None
    try:
        text = content.decode()
        if problem := _too_much(text):
            findings.fail("meta.yaml", problem, file)
            return None
        values = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        findings.fail("meta.yaml", f"is not valid YAML ({reason})", file, mark.line + 1 if mark else None)
        return None
    if not isinstance(values, dict):
        findings.fail("meta.yaml", "is not a mapping with submission, system, results", file)
        return None
    return values


def _too_much(text: str) -> str:
    """What of a YAML text could stand for more than it seems, or "". Reads no further than to there."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            return "uses aliases (*name); write the values out"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            return f"is not valid YAML of a meta file: nested more than {MAX_DEPTH} levels deep"
    return ""


class _Getter:
    """Looks fields up by dotted path and reports what is absent or of the wrong type."""

    def __init__(self, values: dict[str, Any], file: str, findings: _Findings) -> None:
        self.values, self.file, self.findings = values, file, findings

    def missing(self, path: str) -> bool:
        return self._find(path) is _ABSENT

    def __call__(self, path: str, kind: type | tuple[type, ...], required: bool = False) -> Any:
        """The value; None where it is absent or null, which is reported unless null is allowed."""
        value = self._find(path)
        if value is _ABSENT:
            self.findings.fail("meta.fields", f"{path} is missing", self.file)
            return None
        if value is None or value == "":
            if required:
                self.findings.fail("meta.fields", f"{path} is empty", self.file)
            return None
        if not isinstance(value, kind) or isinstance(value, bool):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            wanted = " or ".join(_TYPE_WORDS[one] for one in kinds)
            self.findings.fail("meta.types", f"{path} should be {wanted}, is {_brief(value)}", self.file)
            return None
        return value

    def _find(self, path: str) -> Any:
        value: Any = self.values
        for part in path.split("."):
            if not isinstance(value, dict) or part not in value:
                return _ABSENT
            value = value[part]
        return value


def _check_authors(get: _Getter, file: str, findings: _Findings) -> None:
    authors = get("submission.authors", list, required=True)
    if authors is None:
        return
    corresponding = 0
    for number, author in enumerate(authors, 1):
        if not isinstance(author, dict):
            findings.fail("meta.authors", f"author {number} is not a mapping", file)
            continue
        corresponding += author.get("corresponding") is True
        for field in ("firstname", "lastname", "email"):
            if not isinstance(author.get(field), str) or not author[field].strip():
                findings.fail("meta.authors", f"author {number} has no {field}", file)
        if isinstance(author.get("email"), str) and not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", author["email"]):
            findings.fail("meta.authors", f"author {number}: {author['email']!r} is not an address", file)
        affiliation = author.get("affiliation")
        institutes = affiliation if isinstance(affiliation, list) else [affiliation]
        if not any(isinstance(one, dict) and (one.get("institution") or one.get("institute")) for one in institutes):
            findings.fail("meta.authors", f"author {number} has no affiliation.institution", file)
    if corresponding != 1:
        findings.fail("meta.authors", f"{corresponding} authors have corresponding: true, exactly one must", file)


def _check_results(get: _Getter, file: str, findings: _Findings) -> None:
    results = get("results.development_dataset", dict, required=True)
    if results is None:
        return
    unmeasured = []
    for machine in dict.fromkeys([*DEVELOPMENT, *map(str, results)]):
        values = results.get(machine)
        if not isinstance(values, dict):
            findings.fail("meta.results", f"{machine} is missing", file)
            continue
        for metric in TRIPLE:
            where, value = f"{machine}.{metric}", values.get(metric, _ABSENT)
            if value is _ABSENT:
                findings.fail("meta.results", f"{where} is missing", file)
            elif value is None:
                unmeasured.append(where)
            elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
                findings.fail("meta.results", f"{where} should be a percentage, is {_brief(value)}", file)
            elif metric == "pauc" and 1 < value < LOWEST_PAUC - 0.01:
                message = (
                    f"{where} = {value} is below {LOWEST_PAUC:.2f}: a raw partial area instead of McClish's scale?"
                )
                findings.fail("meta.results", message, file)
            elif 0 < value <= 1:
                findings.fail("meta.results", f"{where} = {value} looks like a fraction; percent is expected", file)
    if unmeasured:
        findings.warn("meta.results", f"{len(unmeasured)} values are null, the first is {unmeasured[0]}", file)


def _brief(value: Any) -> str:
    """At most 40 characters of a value from a foreign file."""
    return "a huge number" if isinstance(value, int) and value.bit_length() > 256 else repr(str(value)[:40])


_ABSENT = object()
_TYPE_WORDS = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "a mapping"}

# ----------------------------------------------------------------------------------------------------------- diff

_NOTHING = pd.DataFrame({"score": pd.Series(dtype=float), "decision": pd.Series(dtype=float)})


def _opened(package: Path | bytes) -> dict[tuple[str, str, str], pd.DataFrame]:
    """(system number, machine, section) → score and decision by clip."""
    findings = _Findings()
    files = _read(package, findings)
    if not files:
        reasons = "; ".join(found.message for found in findings.all) or "it holds no file"
        raise AsdError(f"The package cannot be compared: {reasons}.")
    columns: dict[tuple[str, str, str], dict[str, pd.Series]] = {}
    for name, content in files.items():
        folder, _, plain = name.rpartition("/")
        match = CSV_NAME.fullmatch(plain)
        if not match:
            continue
        label = LABEL.fullmatch(folder.rpartition("/")[2])
        key = (label["k"] if label else folder, match["machine"], match["section"])
        values = {}
        for _, row in _rows(name, content, _Findings()):
            if len(row) == 2:
                number = _float(row[1])
                values[row[0]] = np.nan if number is None else number
        column = "score" if match["what"] == "anomaly_score" else "decision"
        columns.setdefault(key, {})[column] = pd.Series(values, dtype=float)
    return {key: pd.DataFrame(own).reindex(columns=["score", "decision"]) for key, own in columns.items()}


def _varies(a: pd.DataFrame, b: pd.DataFrame, both: pd.Index) -> bool:
    return all(one.loc[both, "score"].nunique() > 1 for one in (a, b))


def _differs(a: pd.Series, b: pd.Series) -> pd.Series:
    return a.ne(b) & ~(a.isna() & b.isna())
