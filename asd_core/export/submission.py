"""A DCASE Task 2 submission package from finished runs: one zip, the same bytes whenever it is built again.

::

    task2/<label>/anomaly_score_<machine>_section_<ss>_test.csv      clip,score      no header, test order
    task2/<label>/decision_result_<machine>_section_<ss>_test.csv    clip,0 or 1
    task2/<label>/<label>.meta.yaml                                  authors, system, development results
    task2/<label of system 1>.technical_report.pdf

with <label> = ``<LastName>_<Institute>_task2_<k>``, k = 1…4. `validator.check` says whether a package is complete.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import pandas as pd
import yaml
from pydantic import Field, model_validator

from asd_core import weights
from asd_core.artifacts import Run, Workspace, load_run
from asd_core.config import Strict
from asd_core.data.degrade import PUBLISHED
from asd_core.data.manifest import LABEL_PRESETS
from asd_core.files import read_json, write_bytes, write_text
from asd_core.fusion.weighted import TUNED
from asd_core.metrics import DEVELOPMENT, TRIPLE, machine_hmean
from asd_core.types import SAMPLE_RATE, TEST, AsdError

MAX_SYSTEMS = 4
MAX_ABBREVIATION = 10
AUGMENTATIONS = {  # options of objectives, backbones and scorers
    "mixup": "mixup",
    "mixup_beta": "mixup",
    "far": "far microphone mixed in",
    "time_mask": "SpecAugment",
    "mel_mask": "SpecAugment",
    "smote": "SMOTE",
}
EPOCH = (1980, 1, 1, 0, 0, 0)  # the time stamp of every entry: the earliest a zip can hold

LabelPart = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")]  # no underscore: the label is split at them


class Affiliation(Strict):
    institution: str = Field(min_length=1)
    abbreviation: str | None = None
    department: str | None = None
    location: str | None = None


class Author(Strict):
    firstname: str = Field(min_length=1)
    lastname: str = Field(min_length=1)
    email: str = Field(pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$")
    corresponding: bool = False
    affiliation: Affiliation


class Description(Strict):
    """The fields of ``system.description``. What is left out here is filled in from the run's configuration."""

    input_sampling_rate: str | None = None
    data_augmentation: str | None = None
    front_end: str | None = None
    acoustic_features: str | None = None
    embeddings: str | None = None
    machine_learning_method: str | None = None
    aggregation_method: str | None = None
    domain_adaptation_method: str | None = None
    domain_generalization_method: str | None = None
    ensemble_method_subsystem_count: int | None = None
    decision_making: str | None = None
    attribute_usage: str | None = None
    external_data_usage: str | None = None
    development_data_usage: str | None = None


class ExternalDataset(Strict):
    name: str | None = None
    url: str | None = None


class SubmittedSystem(Strict):
    """One of the up to four systems: which runs its figures come from and how it introduces itself."""

    name: str = Field(min_length=1)
    abbreviation: str = Field(min_length=1, max_length=MAX_ABBREVIATION)
    runs: list[str] = Field(min_length=1)  # ids; development and evaluation machines may be in one run or in several
    description: Description = Description()
    total_parameters: int | None = Field(default=None, ge=0)  # default: counted from the run's trained networks
    macs: int | None = Field(default=None, ge=0)
    external_datasets: list[ExternalDataset] = []
    source_code: str | None = None


class Package(Strict):
    """All a person must say to make a package; loadable from YAML with `config.load(Package, path)`."""

    last_name: LabelPart
    institute: LabelPart
    authors: list[Author] = Field(min_length=1)
    systems: list[SubmittedSystem] = Field(min_length=1, max_length=MAX_SYSTEMS)
    machines: list[str] | None = None  # default: those whose test clips are unlabelled
    report: Path | None = None  # the technical report, a PDF

    @model_validator(mode="after")
    def _one_corresponding_author(self) -> Self:
        if (count := sum(author.corresponding for author in self.authors)) != 1:
            raise ValueError(f"exactly one author must have corresponding: true, here {count or 'none'} have")
        return self

    def label(self, k: int) -> str:
        """Of system `k`, counted from 1."""
        return f"{self.last_name}_{self.institute}_task2_{k}"

    @property
    def file_name(self) -> str:
        return f"{self.last_name}_{self.institute}_task2.zip"


def build(package: Package, workspace: Workspace, out: Path) -> Path:
    """Write the package and, beside it, ``<zip>.sha256``.

    Args:
        package: what to submit
        workspace: where the runs are
        out: the zip's path; anything that does not end in .zip is a folder for ``<LastName>_<Institute>_task2.zip``

    Returns:
        the path of the zip

    Raises:
        AsdError: a run is missing, or two runs of a system differ in configuration, or no machine is left to
            export, or a machine is in two runs, or the report cannot be read.
    """
    entries: dict[str, bytes] = {}
    for k, system in enumerate(package.systems, 1):
        label = package.label(k)
        runs = [load_run(workspace, run_id) for run_id in system.runs]
        _same_system(runs)
        for name, content in _tables(_test_rows(runs, package.machines)):
            entries[f"task2/{label}/{name}"] = content
        entries[f"task2/{label}/{label}.meta.yaml"] = _yaml(meta(package, k, runs, workspace))
    if package.report is not None:
        try:
            entries[f"task2/{package.label(1)}.technical_report.pdf"] = package.report.read_bytes()
        except OSError as error:
            raise AsdError(f"The technical report {package.report} cannot be read ({error.strerror}).") from error
    target = out if out.suffix == ".zip" else out / package.file_name
    payload = pack(entries)
    write_bytes(target, payload)
    write_text(target.with_name(target.name + ".sha256"), f"{hashlib.sha256(payload).hexdigest()}  {target.name}\n")
    return target


def pack(entries: Mapping[str, bytes]) -> bytes:
    """A zip of equal bytes for equal entries: sorted, with one time stamp and one permission, not compressed
    (compressed bytes depend on the zlib at hand)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(entries):
            info = zipfile.ZipInfo(name, date_time=EPOCH)
            info.create_system = 3  # Unix, so that the permissions mean the same wherever it was built
            info.external_attr = 0o100644 << 16
            archive.writestr(info, entries[name])
    return buffer.getvalue()


def meta(package: Package, k: int, runs: Sequence[Run], workspace: Workspace) -> dict[str, Any]:
    """The meta file of system `k` (from 1): three blocks, development results in percent with two decimals."""
    system = package.systems[k - 1]
    stated = system.description.model_dump()
    filled = describe(runs[0].record.get("config") or {}, any(run.record.get("transductive") for run in runs))
    parameters = system.total_parameters
    if parameters is None:
        parameters = count_parameters(runs[0], workspace)
    datasets = [dataset.model_dump() for dataset in system.external_datasets] or [{"name": None, "url": None}]
    return {
        "submission": {
            "label": package.label(k),
            "name": system.name,
            "abbreviation": system.abbreviation,
            "authors": [_author(author) for author in package.authors],
        },
        "system": {
            "description": {name: filled[name] if stated[name] is None else stated[name] for name in stated},
            "complexity": {"total_parameters": parameters, "MACS": system.macs},
            "external_datasets": datasets,
            "source_code": system.source_code,
        },
        "results": {"development_dataset": _development_results(runs)},
    }


def describe(config: Mapping[str, Any], transductive: bool = False) -> dict[str, str | int | None]:
    """``system.description`` as far as a resolved system configuration tells it; None for the rest."""
    encoders = list((config.get("encoders") or {}).values())
    stages = [stage for encoder in encoders for stage in _stages(encoder)]
    branches = config.get("branches") or []
    views = [part["view"] for part in (*encoders, *branches) if part.get("view")]
    backbones = [encoder["backbone"] for encoder in encoders]
    decision = config.get("decision") or {}
    known: dict[str, str | int | None] = dict.fromkeys(Description.model_fields)
    known["input_sampling_rate"] = f"{SAMPLE_RATE // 1000} kHz"
    known["acoustic_features"] = _names(views)
    known["embeddings"] = _names(backbones)
    known["machine_learning_method"] = _names(
        [*(encoder["objective"] for encoder in encoders), *(b["scorer"] for b in branches)]
    )
    streams = {branch.get("stream") or branch["name"] for branch in branches}
    steps = ["mean"] if len(branches) > len(streams) else []  # of the branches of a stream
    if len(streams) > 1:
        steps += [config["fusion"]["name"]] if config.get("fusion") else []
        known["ensemble_method_subsystem_count"] = len(streams)
    known["aggregation_method"] = ", ".join(steps) or None
    if decision:
        options = ", ".join(f"{name} {value}" for name, value in decision.items() if name != "name")
        said = "; transductive: depends on the other test clips" if transductive else ""
        known["decision_making"] = decision["name"] + (f" ({options})" if options else "") + said
    parts = [stage[part] for stage in stages for part in ("objective", "backbone")]
    parts += [branch["scorer"] for branch in branches]
    known["data_augmentation"] = _list(word for key, word in AUGMENTATIONS.items() if any(p.get(key) for p in parts))
    known["attribute_usage"] = _list(use for stage in stages for use in _attribute_usage(stage["objective"]))
    published = weights.catalogue()
    checkpoints = [str(name) for stage in stages if (name := stage["backbone"].get("checkpoint"))]
    own = weights.embedded()  # pre-trained on simulated machines: no data of others
    titles = _list(
        published[name].title if name in published else Path(name).name for name in checkpoints if name not in own
    )
    simulated = _list(f"{name}, on simulated machines only" for name in checkpoints if name in own)
    pretrained = "; ".join(part for part in (titles, simulated) if part)
    known["external_data_usage"] = f"pre-trained: {pretrained}" if pretrained else None
    fusion = config.get("fusion") or {}
    tuned = fusion.get("weights") == TUNED or fusion.get("tuned_on")
    known["development_data_usage"] = "normal training clips" + (
        "; test labels: weights of the fusion" if tuned else ""
    )
    return known


def _stages(encoder: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The trainings of an encoder: its own, then those it starts from."""
    yield encoder
    if encoder.get("start"):
        yield from _stages(encoder["start"])


def _attribute_usage(objective: Mapping[str, Any]) -> Iterator[str]:
    labels = objective.get("labels") or ()
    if "attributes" in (LABEL_PRESETS.get(labels, ()) if isinstance(labels, str) else labels):
        yield "classes of the training"
    if heads := objective.get("auxiliary"):
        yield f"auxiliary heads ({', '.join(heads)})"


def count_parameters(run: Run, workspace: Workspace) -> int | None:
    """Parameters of the networks one machine needs (the most of any machine); None where no task recorded them.

    A network that another one only started from is not needed any more, so it does not count.
    """
    shared, own = 0, dict.fromkeys(run.record["machines"], 0)
    found = False
    tasks = run.record.get("tasks", [])
    records = {(task["kind"], task["key"]): workspace.task(task["kind"], task["key"]) / "meta.json" for task in tasks}
    facts = {place: read_json(record) for place, record in records.items() if record.is_file()}
    needed = {key for (kind, _), one in facts.items() if kind == "embed" for key in one["inputs"]}
    for task in tasks:
        parameters = facts.get((task["kind"], task["key"]), {}).get("parameters")
        if task["key"] in needed and isinstance(parameters, int):
            found = True
            if task.get("machine") in own:
                own[task["machine"]] += parameters
            else:
                shared += parameters
    return shared + max(own.values(), default=0) if found else None


def unlabelled_machines(run: Run) -> list[str]:
    """Machines of a run with test clips and without figures: those one submits."""
    scores = run.scores
    tested = scores[scores["split"] == TEST]["machine"].unique()
    labelled = (run.metrics or {"machines": {}})["machines"]
    return sorted(machine for machine in map(str, tested) if machine not in labelled)


def _same_system(runs: Sequence[Run]) -> None:
    for other in runs[1:]:
        if other.record.get("config") != runs[0].record.get("config"):
            raise AsdError(
                f'Runs "{runs[0].record["run_id"]}" and "{other.record["run_id"]}" were made by different '
                f"configurations; the runs of one submitted system must share theirs."
            )
        mixed = [run.record.get("tuning", {}).get("weights") for run in (runs[0], other)]
        if mixed[0] != mixed[1]:
            told = [", ".join(f"{name} {value:g}" for name, value in one.items()) if one else "none" for one in mixed]
            raise AsdError(
                f'Runs "{runs[0].record["run_id"]}" and "{other.record["run_id"]}" have each tuned their own weights '
                f"({told[0]}; {told[1]}), so they are two systems. Run all machines in one run, or write the weights "
                f"into a system with `tune RUN --output` and run that on both."
            )


def _test_rows(runs: Sequence[Run], machines: Sequence[str] | None) -> pd.DataFrame:
    """The test clips to export, of all runs: columns machine, section, name, score, decision."""
    parts = []
    for run in runs:
        scores = run.scores
        wanted = unlabelled_machines(run) if machines is None else machines
        parts.append(scores[(scores["split"] == TEST) & scores["machine"].isin(wanted)])
    rows = pd.concat(parts, ignore_index=True)
    found = set(rows["machine"])
    ids = ", ".join(run.record["run_id"] for run in runs)
    if not found:
        raise AsdError(
            f"Nothing to export: {ids} scored no machine with unlabelled test clips"
            + (
                f" and none of {', '.join(machines)}."
                if machines
                else ". Name the machines to export them all the same."
            )
        )
    if lacking := sorted(set(machines or ()) - found):
        raise AsdError(f"{ids} hold no test scores of {', '.join(lacking)}. They hold {', '.join(sorted(found))}.")
    if (twice := rows[rows.duplicated("clip_id")]["machine"]).any():
        raise AsdError(f"Machine {twice.iloc[0]} is in more than one of the runs {ids}; leave one of them out.")
    return rows.assign(name=rows["clip_id"].str.rpartition("/")[2])


def _tables(rows: pd.DataFrame) -> Iterator[tuple[str, bytes]]:
    """Name and content of the two CSV files of every machine and section."""
    for (machine, section), clips in rows.sort_values("clip_id").groupby(["machine", "section"], sort=True):
        names = clips["name"].tolist()
        scores = [repr(float(value)) for value in clips["score"]]  # repr: every bit, rounding would change the AUC
        verdicts = [str(int(value)) for value in clips["decision"]]
        for what, values in (("anomaly_score", scores), ("decision_result", verdicts)):
            lines = (f"{name},{value}\n" for name, value in zip(names, values, strict=True))
            yield f"{what}_{machine}_section_{section}_test.csv", "".join(lines).encode()


def _development_results(runs: Sequence[Run]) -> dict[str, dict[str, float | None]]:
    """The official triple of every development machine, percent; null where it was not measured.

    Only the recordings of the challenge count: simulated, degraded or local ones may bear the name of a real machine.
    """
    measured: dict[str, dict[str, float | None]] = {}
    for run in runs:
        if run.record["data"]["kind"] != PUBLISHED or not run.metrics:
            continue
        for machine, sections in run.metrics["machines"].items():
            values = {name: machine_hmean(sections, name) for name in TRIPLE}
            measured[machine] = {name: None if v is None else round(100 * v, 2) for name, v in values.items()}
    others = sorted(set(measured) - set(DEVELOPMENT))
    return {machine: measured.get(machine) or dict.fromkeys(TRIPLE) for machine in (*DEVELOPMENT, *others)}


def _author(author: Author) -> dict[str, Any]:
    values = author.model_dump()
    if not author.corresponding:
        del values["corresponding"]
    values["affiliation"] = {name: value for name, value in values["affiliation"].items() if value is not None}
    return values


def _names(components: Sequence[Mapping[str, Any]]) -> str | None:
    return _list(component["name"] for component in components)


def _list(words: Iterable[str]) -> str | None:
    """Each word once, in order; None for none."""
    return ", ".join(dict.fromkeys(words)) or None


def _yaml(value: Any) -> bytes:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000).encode()
