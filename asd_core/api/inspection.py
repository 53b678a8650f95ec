"""What can be said of one clip beside its score: nearest normal clips, the map of local scores, other systems."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from asd_core.api.recordings import CHANNELS, clip, data_set, picture_key, samples_of, spectrogram
from asd_core.api.results import runs
from asd_core.artifacts import Run, Workspace, how_again, read_embeddings, read_evidence, require_made
from asd_core.data.manifest import attribute_text
from asd_core.data.spectrogram import Axis
from asd_core.files import digest, read_json, write_with
from asd_core.pipeline.explain import Map, Place, clip_map, places
from asd_core.types import TEST, TRAIN, AsdError

if TYPE_CHECKING:
    from asd_core.types import EmbeddingSet, Evidence

MOST_OTHERS = 20  # clips that a difference may be taken from
MASKING = 1  # raise it when the masked sound is made differently


def neighbours(workspace: Workspace, run: Run, clip_id: str, count: int = 5, branch: str | None = None) -> pd.DataFrame:
    """The nearest normal training clips of the clip's machine and section, in the embedding behind a branch.

    Of embeddings with an axis of time or bands the mean over all patches is compared, so an order may differ from that
    of a scorer that compares patch by patch. Distances are those of the branch's scorer where its options tell
    (`analysis.evidence.distances`); of a plain nearest-neighbour scorer the first one is the score.

    Columns: rank, clip_id, distance, domain, attributes (of the training clip), same_domain and same_attributes (None
    where the clip's truth is not known), metric (in words), branch.

    Args:
        branch: None for the first whose embedding has more than one number

    Raises:
        AsdError: no such clip or branch, what the run made is gone, or the branch keeps one number per clip.
    """
    from asd_core.analysis import evidence

    machine = _machine(run, clip_id)
    if branch is None:
        branch = next((name for name in _branches(run) if _width(workspace, run, machine, name) > 1), _branches(run)[0])
    train, test = _embeddings(workspace, run, machine, branch)
    if train.x.shape[-1] < 2:
        raise AsdError(f'Branch "{branch}" keeps one number per clip, not an embedding: nothing can be near in it.')
    of = test if clip_id in test.clip_ids else train
    row = np.flatnonzero(of.clip_ids == clip_id)
    if not len(row):
        raise AsdError(f"Run {run.record['run_id']} has no embedding of {clip_id}. It was not among its clips.")
    steps = None if of.steps is None else of.steps[row]
    asked = evidence.pooled(of.x[row], steps)[0]
    own = np.flatnonzero((train.sections == of.sections[row[0]]) & (train.clip_ids != clip_id))
    scorer = read_json(_scored(workspace, run, machine, branch) / "meta.json")["spec"]["scorer"]
    found, metric = evidence.distances(_pooled(workspace, run, machine, branch)[own], asked, scorer)
    if train.x.ndim > 2:
        metric += ", mean over patches"
    first = np.argsort(found, kind="stable")[:count]
    rows = own[first]
    table = pd.DataFrame(
        {
            "rank": np.arange(1, len(rows) + 1),
            "clip_id": train.clip_ids[rows],
            "distance": found[first],
            "domain": train.domains[rows],
            "attributes": "" if train.attributes is None else train.attributes[rows],
        }
    )
    domain, attributes = _truth(workspace, run, clip_id)
    table["same_domain"] = None if not domain else table["domain"] == domain
    table["same_attributes"] = None if attributes is None else table["attributes"] == attributes
    return table.assign(metric=metric, branch=branch)


@dataclass(frozen=True)
class Heat:
    """Local scores of a clip and the scale that all clips of its machine share."""

    branch: str
    scorer: str
    map: Map
    places: tuple[Place, ...]
    low: float  # the scale, in units of the branch's score
    high: float
    limit: float  # the contour
    limit_words: str  # what the contour stands for
    unit: str  # what the values are and where the scale comes from
    channel: str  # "near" or "far", which the branch hears; "" where it hears both


def heat(workspace: Workspace, run: Run, clip_id: str, branch: str | None = None) -> Heat:
    """Where in the clip a branch's score comes from.

    A run keeps the local scores of its test clips only, and their truth is not asked for. So the scale runs between the
    1st and the 99.5th percentile of those of the machine and section that the run does not flag: a calm clip looks calm,
    and no fault, however strong, fades the others (`analysis.evidence.scale_of`, as for recordings of one's own).

    Args:
        branch: None for the first that has a map

    Raises:
        AsdError: no such clip or branch, or no map; the message says why.
    """
    from asd_core.analysis.evidence import RARE, scale_of

    machine = _machine(run, clip_id)
    if branch is None:
        branch = branch_names(workspace, run, machine)[0]
    table = _scores(run, machine)
    asked = table[(table["clip_id"] == clip_id) & (table["split"] == TEST)]
    if asked.empty:
        raise AsdError(f"{clip_id} is no test clip of {run.record['run_id']}: a run keeps local scores of those only.")
    scored = _scored(workspace, run, machine, branch)
    section = str(asked["section"].iloc[0])
    kept = _evidence(scored, section)
    scorer = _scorer(run, branch)["name"]
    if kept is None:
        raise AsdError(_why_none(run, branch))
    evidence, ids, training_ids = kept
    if evidence.values[0].size == 1:
        raise AsdError(
            f'Branch "{branch}" ({scorer}) compares whole clips: its evidence is the nearest clip, no place.'
        )
    own = clip_map(evidence, int(np.flatnonzero(ids == clip_id)[0]), training_ids)
    tested = table[(table["split"] == TEST) & (table["section"] == section)]
    unflagged = np.isin(ids, tested["clip_id"][tested["decision"] != 1])
    low, high, rare, is_calm = scale_of(evidence.values, unflagged)
    whose = "test clips that are not flagged" if is_calm else "test clips"
    limit, words = rare, f"where {100 - RARE:.0f} % of those lie higher"
    if _is_fused(run, table, branch):
        limit, words = float(asked["threshold"].iloc[0]), "the run's threshold"
    unit = f"local score of {scorer}; scale: 1st to 99.5th percentile of this machine's {whose}"
    return Heat(branch, scorer, own, places(own), low, high, limit, words, unit, _heard(scored))


def scores_by_system(workspace: Workspace, data: str, clip_id: str) -> pd.DataFrame:
    """What every finished run on a data set says of one test clip; runs that did not score it are left out.

    Columns: run_id, system, title, profile, seed, score, threshold, flagged, percentile (percent of the training
    normals that score at most this; NaN of a transductive run, whose scores of training clips are of another kind),
    transductive. Rows stand in order of percentile, highest first.
    """
    from asd_core.analysis import percentile

    rows = []
    for run in runs(workspace):
        record = run.record
        machine = clip_id.partition("/")[0]
        if record["data"]["name"] != data or machine not in record["machines"]:
            continue
        table = _scores(run, machine)
        asked = table[(table["clip_id"] == clip_id) & (table["split"] == TEST)]
        if asked.empty:
            continue
        one = asked.iloc[0]
        normal = table[(table["split"] == TRAIN) & (table["section"] == one["section"])]["score"].to_numpy()
        transductive = bool(record.get("transductive"))
        known = len(normal) and not transductive
        rows.append(
            {name: record[name] for name in ("run_id", "system", "title", "profile", "seed")}
            | {"score": float(one["score"]), "threshold": float(one["threshold"]), "flagged": one["decision"] == 1}
            | {"percentile": float(percentile(normal, np.array([one["score"]]))[0]) if known else np.nan}
            | {"transductive": transductive}
        )
    columns = ["run_id", "system", "title", "profile", "seed", "score", "threshold", "flagged", "percentile"]
    table = pd.DataFrame(rows, columns=[*columns, "transductive"])
    return table.sort_values(["percentile", "system", "seed"], ascending=[False, True, True], ignore_index=True)


def difference(
    workspace: Workspace,
    data: str,
    clip_id: str,
    others: Sequence[str],
    channel: str = "near",
    axis: Axis = "mel",
    others_data: str | None = None,
) -> np.ndarray:
    """(rows, frames) in dB: the clip's spectrogram less the mean of the others', low frequencies first.

    Levels are averaged in dB, so that noise of equal power differs by 0 in the mean. Recordings are not aligned:
    frames are compared by their number. Beyond an other's end its mean level stands for it.

    Args:
        others_data: the data set of the others; None: the same

    Raises:
        AsdError: an unknown clip, no other or too many, or a clip without this channel.
    """
    if channel not in CHANNELS or not 0 < len(others) <= MOST_OTHERS:
        raise AsdError(f"A difference is of near or far, from 1 to {MOST_OTHERS} clips; got {channel}, {len(others)}.")
    own = spectrogram(workspace, data, clip_id, channel, axis)
    usual = np.zeros_like(own)
    for other in others:
        levels = spectrogram(workspace, others_data or data, other, channel, axis)[:, : own.shape[1]]
        usual[:, : levels.shape[1]] += levels
        usual[:, levels.shape[1] :] += levels.mean(axis=1, keepdims=True)
    return own - usual / len(others)


def anomaly_sound(workspace: Workspace, run: Run, clip_id: str, branch: str | None = None) -> Path:
    """A WAV file with what the map of `heat` marks: both channels under a soft mask over time and frequency, 0 at the
    low end of the map's scale and 1 at its high end. Length, rate and level are the recording's: nothing is normalised.

    Raises:
        AsdError: there is no map, or the recording is missing.
    """
    from asd_core.analysis.evidence import Masking, mask

    where = heat(workspace, run, clip_id, branch)
    found = clip(workspace, run.record["data"]["name"], clip_id)
    stat = found.path.stat()
    own, scale = where.map, (where.low, where.high)
    marked = [part.tobytes().hex() for part in (own.values, own.start, own.stop, own.edges)]
    key = digest([MASKING, str(found.path), stat.st_size, stat.st_mtime_ns, marked, scale])
    path = workspace.cache / "anomalies" / f"{key}.wav"
    if not path.is_file():
        import soundfile

        samples, rate, subtype = samples_of(found.path)
        taken = Masking(samples.T, rate)
        gains = mask(own.values, own.start, own.stop, own.edges, scale, taken.hertz, taken.seconds)
        kept = taken.sound(gains)
        if subtype == "PCM_16":
            kept = np.clip(np.rint(kept), -32768, 32767)
        kept = kept.astype(samples.dtype)
        write_with(path, lambda file: soundfile.write(file, kept.T, rate, subtype=subtype, format="WAV"))
    return path


def inspection_stamp(workspace: Workspace, run: Run, clip_id: str, branch: str | None = None) -> str:
    """Part of the address of what is made from a run and a recording; changes when either is made anew.

    Raises:
        AsdError: the recording is missing.
    """
    made = (run.folder / "meta.json").stat().st_mtime_ns
    recorded = picture_key(workspace, run.record["data"]["name"], clip_id)
    return digest([MASKING, run.record["run_id"], made, recorded, branch])


def checksum(workspace: Workspace, data: str, clip_id: str) -> str:
    """SHA-256 of the recording's file, in hex digits."""
    with clip(workspace, data, clip_id).path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def branch_names(workspace: Workspace, run: Run, machine: str) -> list[str]:
    """A run's branches, those first that have a map for this machine."""
    return sorted(_branches(run), key=lambda name: not _has_map(workspace, run, machine, name))


def _branches(run: Run) -> list[str]:
    return [branch["name"] for branch in run.record["config"]["branches"]]


def _branch(run: Run, name: str) -> dict[str, Any]:
    for branch in run.record["config"]["branches"]:
        if branch["name"] == name:
            return dict(branch)
    raise AsdError(f'{run.record["run_id"]} has no branch "{name}". It has: {", ".join(_branches(run))}.')


def _scorer(run: Run, branch: str) -> dict[str, Any]:
    return dict(_branch(run, branch)["scorer"])


def _machine(run: Run, clip_id: str) -> str:
    machine = clip_id.partition("/")[0]
    if machine not in run.record["machines"]:
        known = ", ".join(run.record["machines"])
        raise AsdError(f'{run.record["run_id"]} has no machine "{machine}", so no clip {clip_id}. It has: {known}.')
    return machine


def _scored(workspace: Workspace, run: Run, machine: str, branch: str) -> Path:
    """Folder of a branch's score task."""
    _branch(run, branch)
    key = run.record.get("scores", {}).get(machine, {}).get(branch)
    return require_made(workspace.task("score", key or "none"), run)


def _files(workspace: Workspace, run: Run, machine: str, branch: str) -> tuple[Path, str]:
    """Folder of the embed task behind a branch, and the name of its output there."""
    from asd_core.pipeline.tasks import VIEW_ITSELF

    scored = _scored(workspace, run, machine, branch)
    embedded = require_made(workspace.task("embed", read_json(scored / "meta.json")["inputs"][0]), run)
    about = _branch(run, branch)
    return embedded, about["output"] if about.get("encoder") else VIEW_ITSELF


def _embeddings(workspace: Workspace, run: Run, machine: str, branch: str) -> tuple[EmbeddingSet, EmbeddingSet]:
    from asd_core.pipeline.tasks import embeddings_file

    folder, output = _files(workspace, run, machine, branch)
    files = [embeddings_file(folder, split, output) for split in (TRAIN, TEST)]
    train, test = (_read_embeddings(path, path.stat().st_mtime_ns) for path in files)
    return train, test


@lru_cache(maxsize=8)
def _read_embeddings(path: Path, stamp: int) -> EmbeddingSet:
    return read_embeddings(path)


def _width(workspace: Workspace, run: Run, machine: str, branch: str) -> int:
    return int(_embeddings(workspace, run, machine, branch)[0].x.shape[-1])


def _pooled(workspace: Workspace, run: Run, machine: str, branch: str) -> np.ndarray:
    """(N, D) training vectors. The mean over patches of a large encoder reads gigabytes, so it is kept."""
    from asd_core.analysis.evidence import pooled

    train, _ = _embeddings(workspace, run, machine, branch)
    if train.x.ndim == 2:
        return train.x
    folder, output = _files(workspace, run, machine, branch)
    path = workspace.cache / "pooled" / f"{folder.name}-{output}.npy"
    if not path.is_file():
        means = pooled(train.x, train.steps)
        write_with(path, lambda file: np.save(file, means))
    return np.asarray(np.load(path, allow_pickle=False))


def _has_map(workspace: Workspace, run: Run, machine: str, branch: str) -> bool:
    try:
        files = sorted(_scored(workspace, run, machine, branch).glob("evidence-*.npz"))
    except AsdError:
        return False
    found = _read(files[0], files[0].stat().st_mtime_ns) if files else None
    return found is not None and found[0].values[0].size > 1


def _evidence(scored: Path, section: str) -> tuple[Evidence, np.ndarray, np.ndarray] | None:
    from asd_core.pipeline.tasks import evidence_file

    path = evidence_file(scored, section)
    return _read(path, path.stat().st_mtime_ns) if path.is_file() else None


def _heard(scored: Path) -> str:
    """The microphone behind a score task: "near" or "far"; "" for both, a mixture, or one that is not known."""
    embedded = scored.parent.parent / "embed" / read_json(scored / "meta.json")["inputs"][0] / "meta.json"
    view = read_json(embedded)["spec"]["view"] if embedded.is_file() else {}
    return view["channel"] if view.get("channel") in CHANNELS else ""


@lru_cache(maxsize=16)
def _read(path: Path, stamp: int) -> tuple[Evidence, np.ndarray, np.ndarray] | None:
    return read_evidence(path)


def _why_none(run: Run, branch: str) -> str:
    from asd_core.analysis.evidence import WHOLE_CLIP

    scorer = _scorer(run, branch)["name"]
    if scorer in WHOLE_CLIP:
        return f'Branch "{branch}" ({scorer}) judges a clip as a whole and cannot tell where its score comes from.'
    return (
        f'Branch "{branch}" has kept no evidence: the run was made before it was. Run again ({how_again(run)}): '
        f"nothing is trained that is still there."
    )


def _is_fused(run: Run, table: pd.DataFrame, branch: str) -> bool:
    """Whether the branch's scores are the run's: then the run's threshold is in their units."""
    column = f"branch:{branch}"
    return len(_branches(run)) == 1 and bool(np.allclose(table[column], table["score"], rtol=1e-9, atol=0))


def _scores(run: Run, machine: str) -> pd.DataFrame:
    path = run.folder / "scores.parquet"
    return _score_rows(path, path.stat().st_mtime_ns, machine)


@lru_cache(maxsize=128)
def _score_rows(path: Path, stamp: int, machine: str) -> pd.DataFrame:
    return pd.read_parquet(path, filters=[("machine", "==", machine)])


def _truth(workspace: Workspace, run: Run, clip_id: str) -> tuple[str, str | None]:
    """Domain and attributes of a clip as far as its name tells; ("", None) where nothing is known."""
    try:
        data = data_set(workspace, run.record["data"]["name"])
        found = clip(workspace, run.record["data"]["name"], clip_id)
    except AsdError:
        return "", None
    if found.split == TRAIN:
        return found.domain, attribute_text(found.attributes)
    truth = data.truth.get(clip_id)
    return ("", None) if truth is None else (truth.domain, attribute_text(truth.attributes))


def forget() -> None:
    """Let go of all files that were read: patches of embeddings are mapped, and stay on the disk while they are."""
    for reader in (_read_embeddings, _read, _score_rows):
        reader.cache_clear()
