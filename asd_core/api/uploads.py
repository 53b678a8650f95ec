"""Recordings that somebody dropped: checked, kept under names of our own, and scored with a trained run.

Nothing a browser sends becomes part of a path. A recording is known by the digest of its content; its name is text in
a JSON file. What is kept is not the file that came but its samples, decoded and written anew.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from asd_core import config, jobs
from asd_core.api.inspection import Heat
from asd_core.api.recordings import data_set
from asd_core.api.results import run_stamp
from asd_core.artifacts import Run, Workspace, is_done, load_run, read_evidence
from asd_core.files import digest, read_json, write_json, write_with
from asd_core.jobs import Job
from asd_core.types import SAMPLE_RATE, TRAIN, AsdError, printable

if TYPE_CHECKING:
    from soundfile import SoundFile

MOST_BYTES = 50_000_000
MOST_SECONDS = 300.0  # of a recording; the clips of the challenge last 6 to 16 s
LEAST_SECONDS = 1.0  # most views need a second of sound
RATES = (8_000, 192_000)  # Hz
MOST_CHANNELS = 32
BLOCK = 65_536  # frames decoded at a time, so that a header's promises cost nothing
FORMATS = {"WAV": "WAV", "WAVEX": "WAV", "FLAC": "FLAC"}  # libsndfile's name → ours

SILENT_DB, CLIPPED_SHARE, FULL_SCALE = -80.0, 1e-4, 32766 / 32768


@dataclass(frozen=True)
class Upload:
    """A dropped recording, as it is kept: its first two channels at 16 kHz, float samples."""

    id: str  # of its content
    name: str  # as the browser called it: text, to be shown and for nothing else
    machine: str  # it was last compared with; "" before that
    data: str  # the data set of that machine
    seconds: float
    sample_rate: int  # Hz, channels and encoding as it came
    channels: int
    encoding: str
    notes: tuple[str, ...]  # what was done to it, and what is odd about it
    created: float  # s since 1970

    @property
    def source(self) -> str:
        """What `clip`, `sound` and the others take as the data set."""
        return f"uploads:{self.id}"

    @property
    def clip_id(self) -> str:
        return f"{self.id}.wav"


def take_upload(workspace: Workspace, name: str, payload: bytes) -> Upload:
    """Check a recording and keep it; one that is there already is only found again.

    Raises:
        AsdError: it is no sound, or not one that can be scored; says what is wrong and what is allowed.
    """
    shown = _text(name)
    if not payload:
        raise AsdError(f"{shown} is empty: 0 bytes. Copy or record it again.")
    if len(payload) > MOST_BYTES:
        raise AsdError(f"{shown} has {len(payload) / 1e6:.0f} MB; allowed are {MOST_BYTES / 1e6:.0f} MB. Cut it.")
    identity = hashlib.blake2b(payload, digest_size=8).hexdigest()
    folder = workspace.uploads / identity
    there = uploads(workspace).get(identity)
    if there and (folder / "clip.wav").is_file():  # else it was broken by hand, and is made anew
        made = replace(there, name=shown)
    else:
        import soundfile

        wave, facts = _decoded(shown, payload)
        notes = (*_lost(payload), *_notes(wave, facts))
        made = Upload(identity, shown, "", "", wave.shape[1] / SAMPLE_RATE, *facts, notes, time.time())
        write_with(
            folder / "clip.wav", lambda file: soundfile.write(file, wave.T, SAMPLE_RATE, subtype="FLOAT", format="WAV")
        )
    write_json(folder / "upload.json", asdict(made))
    return made


def upload(workspace: Workspace, upload_id: str) -> Upload:
    """A kept recording; the id is compared with those there are."""
    found = uploads(workspace).get(upload_id)
    if found is None:
        raise AsdError(f'There is no dropped recording "{upload_id}". It may have been deleted; drop it again.')
    return found


def uploads(workspace: Workspace) -> dict[str, Upload]:
    """Kept recordings by id, newest first; a folder that cannot be read is passed over."""
    found = []
    for path in workspace.uploads.glob("*/upload.json"):
        try:
            found.append(_upload(path.parent))
        except (AsdError, OSError, TypeError, ValueError, KeyError):  # being deleted, or broken by hand
            continue
    return {one.id: one for one in sorted(found, key=lambda one: -one.created)}


def _upload(folder: Path) -> Upload:
    about = read_json(folder / "upload.json")
    return Upload(**(about | {"id": folder.name, "notes": tuple(about["notes"])}))


def _text(name: str) -> str:
    """The last part of a name, printable and not too long."""
    last = re.split(r"[/\\]", name)[-1]
    return printable(last).replace("\n", " ").strip()[:120] or "unnamed recording"


# decoding -------------------------------------------------------------------------------------------------------


def _decoded(name: str, payload: bytes) -> tuple[np.ndarray, tuple[int, int, str]]:
    """(C, T) float32 at 16 kHz of the first two channels, and the rate, channels and encoding that it came with."""
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(payload)) as file:
            _check_header(name, file)
            facts = file.samplerate, file.channels, f"{FORMATS[file.format]} {file.subtype.replace('_', ' ')}"
            wave = _read(file)
    except (soundfile.SoundFileError, OSError, ValueError, MemoryError) as error:
        reason = str(error).rpartition(": ")[2].rstrip(".")
        raise AsdError(
            f"{name} cannot be read as sound ({reason}). Allowed are WAV and FLAC files; it may be damaged, or "
            f"something else under that name."
        ) from error
    if not np.isfinite(wave).all():
        raise AsdError(f"{name} holds NaN or infinite samples. Export it again as 16-bit PCM.")
    seconds = wave.shape[1] / SAMPLE_RATE
    if seconds < LEAST_SECONDS:
        raise AsdError(f"{name} lasts {seconds:.3f} s; scored are {LEAST_SECONDS:.0f} to {MOST_SECONDS:.0f} s.")
    return wave, facts


def _check_header(name: str, file: SoundFile) -> None:
    """Refuse what would cost much to decode, before a sample of it is read."""
    if file.format not in FORMATS:
        raise AsdError(f"{name} is a {printable(file.format)} file. Allowed are WAV and FLAC; convert it.")
    if not RATES[0] <= file.samplerate <= RATES[1]:
        raise AsdError(f"{name} has a rate of {file.samplerate} Hz; allowed are {RATES[0]} to {RATES[1]} Hz.")
    if not 1 <= file.channels <= MOST_CHANNELS:
        raise AsdError(f"{name} has {file.channels} channels; allowed are 1 to {MOST_CHANNELS}.")
    if file.frames > MOST_SECONDS * file.samplerate:
        raise AsdError(
            f"{name} lasts {file.frames / file.samplerate / 60:,.0f} min by its header; allowed are "
            f"{MOST_SECONDS / 60:.0f} min. Cut out the part to be judged, as long as the machine's other clips."
        )


def _read(file: SoundFile) -> np.ndarray:
    """(C, T) of the first two channels, resampled on the way."""
    import soxr

    channels, rate = min(file.channels, 2), file.samplerate
    resampler = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, channels, dtype="float32")
    parts = [np.zeros((0, channels), np.float32)]
    for block in _blocks(file):
        own = np.ascontiguousarray(block[:, :channels])
        parts.append(resampler.resample_chunk(own) if resampler else own)
    if resampler:
        parts.append(resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True))
    return np.concatenate([part.reshape(-1, channels) for part in parts]).T


def _blocks(file: SoundFile) -> Iterator[np.ndarray]:
    """Frames in turn, up to the end of the file or of what is allowed, whatever its header promised."""
    left = int(MOST_SECONDS * file.samplerate)
    while left > 0:
        block = file.read(min(BLOCK, left), dtype="float32", always_2d=True)
        if not len(block):
            return
        left -= len(block)
        yield block


def _lost(payload: bytes) -> tuple[str, ...]:
    """A word on a file whose header promises more than came."""
    from asd_core.data.doctor import announced_bytes

    promised, held = announced_bytes(payload[:4096], len(payload))
    if held >= promised:
        return ()
    return (f"Its header announces {promised / held:,.1f} times as much sound as came: the rest is lost.",)


def _notes(wave: np.ndarray, facts: tuple[int, int, str]) -> tuple[str, ...]:
    """What was changed on the way in, and what would make a score doubtful."""
    rate, channels, _ = facts
    notes = []
    if rate != SAMPLE_RATE:
        notes.append(f"Resampled from {rate:,} Hz to {SAMPLE_RATE:,} Hz, which every system hears.")
    if channels == 1:
        notes.append("One channel: taken as the near microphone; there is no far one.")
    if channels > 2:
        notes.append(f"{channels} channels: the first is taken as near, the second as far, the others are left out.")
    peak = np.abs(wave).max(axis=1)
    level = 20 * np.log10(np.maximum(wave.std(axis=1, dtype=np.float64), 1e-7))
    for number, which in enumerate(("near", "far")[: len(wave)]):
        if level[number] < SILENT_DB:
            notes.append(
                f"The {which} channel is silent ({level[number]:.0f} dB of full scale): its score means little."
            )
        elif peak[number] > 1.001:
            over = 20 * np.log10(peak[number])
            notes.append(
                f"The {which} channel exceeds full scale by {over:.0f} dB; systems have not heard such levels."
            )
        elif (np.abs(wave[number]) >= FULL_SCALE).mean() > CLIPPED_SHARE:
            notes.append(f"The {which} channel is clipped; cut peaks sound like impulsive faults.")
    return tuple(notes)


# scoring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """What a run said of dropped recordings."""

    key: str
    run_id: str
    machine: str
    section: str
    created: float  # s since 1970
    table: pd.DataFrame
    """upload (id), score, threshold, decision (0 or 1), percentile (of training normals) and ``branch:`` columns."""
    folder: Path


def run_sections(run: Run, machine: str) -> list[str]:
    """Sections of a machine that a run has a threshold for."""
    return sorted(run.record["thresholds"].get(machine, {}))


def scoring_problems(run: Run, asked: Sequence[Upload]) -> list[str]:
    """Why a run cannot score these recordings, one sentence each; none if it can."""
    problems = []
    if run.record.get("transductive"):
        problems.append(
            f"{run.record['system']} is transductive: it ranks clips among all test clips, so it cannot score a clip "
            f"by itself. Choose a run that is not marked so."
        )
    if _hears_both(run):
        problems += [
            f"{one.name} has one channel, and {run.record['system']} needs both microphones. Record near and far as "
            f"channels 1 and 2, or choose a system that hears one."
            for one in asked
            if one.channels < 2
        ]
    return problems


def comparison_notes(workspace: Workspace, run: Run, machine: str, one: Upload) -> list[str]:
    """What makes a recording hard to compare with the machine's training clips: its length, its channels."""
    from asd_core.data import audio

    try:
        usual = audio.info(data_set(workspace, run.record["data"]["name"]).of(machine, TRAIN)[0].path)
    except (AsdError, IndexError):
        return []
    notes = []
    if not 0.8 <= one.seconds / usual.seconds <= 1.25:
        notes.append(f"It lasts {one.seconds:.1f} s, the machine's clips {usual.seconds:.1f} s: compare with care.")
    if one.channels < 2 <= usual.channels:
        notes.append("The machine was trained with two microphones. What the system takes from the far one is missing.")
    return notes


def start_scoring(
    workspace: Workspace, run_id: str, machine: str, section: str, upload_ids: Sequence[str]
) -> tuple[str, str]:
    """Start, or find, the job that scores dropped recordings as clips of a machine; (key of the result, job id). The
    job id is "" where the result is there already.

    Raises:
        AsdError: an unknown run, machine, section or recording, checked here because a browser may send anything; or
            recordings that the run cannot score.
    """
    run = load_run(workspace, run_id)
    if machine not in run.record["machines"]:
        raise AsdError(f'Run {run_id} has no machine "{machine}". It has: {", ".join(run.record["machines"])}.')
    if section not in run_sections(run, machine):
        raise AsdError(f"{machine} has no section {section}. Trained: {', '.join(run_sections(run, machine))}.")
    asked = [upload(workspace, one) for one in dict.fromkeys(upload_ids)]
    if not asked:
        raise AsdError("There is no recording to score. Drop a WAV or FLAC file first.")
    if problems := scoring_problems(run, asked):
        raise AsdError(" ".join(problems))
    for one in asked:
        about = asdict(one) | {"machine": machine, "data": run.record["data"]["name"]}
        if about != asdict(one):
            write_json(workspace.uploads / one.id / "upload.json", about)
    key = digest([run_id, run_stamp(run), machine, section, sorted(one.id for one in asked)])
    folder = _place(workspace) / key
    if is_done(folder):
        return key, ""
    arguments = ["score", *(str(workspace.uploads / one.id / "clip.wav") for one in asked), "--run", run_id]
    arguments += ["--machine", machine, "--section", section, "--output", str(folder)]
    arguments += ["--workspace", str(workspace.root)]
    what = asked[0].name if len(asked) == 1 else f"{len(asked)} recordings"
    title = f"Score {what} as {machine} · {run.record['system']}"
    return key, jobs.start(workspace.jobs, arguments, title, digest(arguments))


def scoring_job(workspace: Workspace, key: str) -> Job | None:
    """The newest job that makes the result of this key."""
    wanted = ("--output", str(_place(workspace) / key))
    for job in jobs.reconcile(workspace.jobs):
        if job.arguments[:1] == ("score",) and wanted in zip(job.arguments, job.arguments[1:], strict=False):
            return job
    return None


def scored(workspace: Workspace) -> list[Scored]:
    """Results of scoring, newest first."""
    done = [path.parent for path in _place(workspace).glob("*/meta.json") if is_done(path.parent)]
    found = [_scored(folder, (folder / "meta.json").stat().st_mtime_ns) for folder in done]
    return sorted(found, key=lambda one: -one.created)


@lru_cache(maxsize=256)
def _scored(folder: Path, stamp: int) -> Scored:
    about = read_json(folder / "meta.json")
    table = pd.read_parquet(folder / "scores.parquet").drop(columns="machine")
    table.insert(0, "upload", [Path(path).parent.name for path in table.pop("file")])
    return Scored(folder.name, about["run_id"], about["machine"], about["section"], about["created"], table, folder)


def delete_scored(workspace: Workspace, key: str) -> None:
    """Delete a result, and recordings that no other result is of and no job waits to score."""
    every = scored(workspace)
    found = next((one for one in every if one.key == key), None)
    if found is None:
        raise AsdError("That result is not there any more.")
    shutil.rmtree(found.folder)
    for upload_id in set(found.table["upload"]) - set(used_uploads(workspace)):
        delete_upload(workspace, upload_id)


def used_uploads(workspace: Workspace) -> dict[str, str]:
    """Recordings that cannot be deleted, by id, each with the reason in a sentence."""
    why = "It was scored: delete its results, and it goes with the last of them."
    used = {upload_id: why for one in scored(workspace) for upload_id in one.table["upload"]}
    active = [job for job in jobs.list_jobs(workspace.jobs) if job.is_active and job.arguments[:1] == ("score",)]
    waited_for = [Path(word).parent.name for job in active for word in job.arguments if word.endswith("clip.wav")]
    return used | dict.fromkeys(waited_for, "A job is to score it: wait for the job or cancel it first.")


def delete_upload(workspace: Workspace, upload_id: str) -> None:
    """Delete a recording; one that is not there is no problem.

    Raises:
        AsdError: a result is of it, or a job is to score it.
    """
    if (one := uploads(workspace).get(upload_id)) is None:
        return
    if why := used_uploads(workspace).get(upload_id):
        raise AsdError(f"{one.name} cannot be deleted. {why}")
    shutil.rmtree(workspace.uploads / upload_id)


def scored_neighbours(result: Scored, upload_id: str) -> pd.DataFrame:
    """The nearest normal training clips of a scored recording by branch: branch, rank, clip_id, distance, domain,
    attributes, metric (in words). Empty where embeddings are single numbers."""
    table = pd.read_parquet(result.folder / "neighbours.parquet")
    own = table[table["row"] == _row(result, upload_id)]
    return own[["branch", "rank", "clip_id", "distance", "domain", "attributes", "metric"]].reset_index(drop=True)


def scored_heats(result: Scored, upload_id: str) -> dict[str, Heat]:
    """Where in a scored recording its score comes from, by branch; branches that cannot tell are left out."""
    from asd_core.pipeline.explain import clip_map, places

    row = _row(result, upload_id)
    heats = {}
    for about in read_json(result.folder / "meta.json")["local"]:
        kept = read_evidence(result.folder / str(about["file"]))
        if kept is None or kept[0].values[0].size < 2:  # of the whole clip: no place
            continue
        own = clip_map(kept[0], row, kept[2])
        low, high, rare = about["scale"]
        whose = "the machine's test clips" if about["of_run"] else "these recordings"
        if about.get("is_calm"):  # results of earlier versions took all test clips
            whose += " that are not flagged"
        heats[about["name"]] = Heat(
            about["name"],
            "",
            own,
            places(own),
            low,
            high,
            rare,
            f"1 % of the local scores of {whose} are higher",
            f"local score; scale: 1st to 99.5th percentile of {whose}",
            about["channel"],
        )
    return heats


def normal_scores(run: Run, machine: str, section: str) -> np.ndarray:
    """(N,) scores of a machine's normal training clips, each as if it were new: what a score is compared with."""
    wanted = [("machine", "==", machine), ("split", "==", TRAIN), ("section", "==", section)]
    table = pd.read_parquet(run.folder / "scores.parquet", columns=["score"], filters=wanted)
    return table["score"].to_numpy()


def normal_histogram(normal: np.ndarray) -> pd.DataFrame:
    """Counts of normal scores in equal bins: low, high, count."""
    bins = min(30, max(5, len(normal) // 3))
    counts, edges = np.histogram(normal, np.histogram_bin_edges(normal, bins) if len(normal) else bins)
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], "count": counts})


def _row(result: Scored, upload_id: str) -> int:
    rows = np.flatnonzero(result.table["upload"] == upload_id)
    if not len(rows):
        raise AsdError("This result is of other recordings.")
    return int(rows[0])


def _hears_both(run: Run) -> bool:
    from asd_core.analysis import needs_two_microphones

    return needs_two_microphones(config.validate(config.System, run.record["config"], run.record["run_id"]))


def _place(workspace: Workspace) -> Path:
    return workspace.root / "scored"
