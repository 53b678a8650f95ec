"""Which clips a folder holds, in the layout of DCASE 2026 Task 2 (docs of the challenge; earlier years fit).

``<anywhere>/<machine>/{train,test}/section_<ss>_<domain>_<split>_<label>_<nnnn>_<attributes>.wav`` and, for an
unlabelled test set, ``section_<ss>_<nnnn>.wav``. What a detector may know goes into `Clip`; the label, domain
and attributes of a test clip go into `Truth`, which only `metrics` and `analysis` read.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ConfigDict

from asd_core.config import CONFIGS, NAME_RULE, SAFE_NAME, Strict, validate
from asd_core.files import digest, file_digest, read_json, write_json
from asd_core.types import ANOMALY, NORMAL, SOURCE, TARGET, TEST, TRAIN, AsdError, Attributes, Clip, Truth

LABELLED = re.compile(
    r"section_(?P<section>\d+)_(?P<domain>source|target)_(?P<split>train|test)_(?P<label>normal|anomaly)"
    r"_(?P<id>\d+)(?:_(?P<attributes>.+))?\.wav"
)
UNLABELLED = re.compile(r"section_(?P<section>\d+)_(?P<id>\d+)\.wav")
NO_ATTRIBUTE = "noattribute"
REPOSITORY = CONFIGS.parent


def parse_attributes(text: str | None) -> Attributes:
    """``car_A1_mic_2_mic_1`` → (("car", "A1"), ("mic", "2"), ("mic", "1")); ``noAttribute`` or nothing → ().

    A word left over at the end becomes a key with an empty value; `doctor` reports it.
    """
    if not text or text.lower() == NO_ATTRIBUTE:
        return ()
    words = text.split("_")
    return tuple((words[i], words[i + 1] if i + 1 < len(words) else "") for i in range(0, len(words), 2))


def attribute_text(attributes: Attributes) -> str:
    """The spelling used in file names; ``noAttribute`` for none."""
    return "_".join(word for pair in attributes for word in pair) or "noAttribute"


def parse_name(machine: str, path: Path) -> tuple[Clip, Truth | None]:
    """The clip of one file, and its truth if the name of a test file tells it.

    Raises:
        AsdError: the name follows neither form, or names another split than its folder.
    """
    split = path.parent.name
    clip_id = f"{machine}/{split}/{path.name}"
    if not clip_id.isprintable():  # such as bytes that are not UTF-8
        raise AsdError(f"{clip_id!a}: the name holds characters that cannot be printed. Rename it.")
    if match := LABELLED.fullmatch(path.name):
        if match["split"] != split:
            raise AsdError(f"{clip_id}: the name says {match['split']}, the folder says {split}.")
        attributes = parse_attributes(match["attributes"])
        label = ANOMALY if match["label"] == "anomaly" else NORMAL
        if split == TRAIN:
            if label == ANOMALY:
                raise AsdError(f"{clip_id}: an anomaly in the training folder; only normal clips may be trained on.")
            return Clip(clip_id, path, machine, split, match["section"], match["domain"], attributes), None
        return Clip(clip_id, path, machine, split, match["section"]), Truth(clip_id, label, match["domain"], attributes)
    if split == TEST and (match := UNLABELLED.fullmatch(path.name)):
        return Clip(clip_id, path, machine, split, match["section"]), None
    expected = f"section_00_source_{split}_normal_0000_noAttribute.wav"
    raise AsdError(
        f"{clip_id}: not a name of this layout. Expected such as {expected}"
        + (" or section_00_0000.wav." if split == TEST else ".")
    )


@dataclass(frozen=True)
class DataSet:
    """Clips of one or more machines, and apart from them the truth about the labelled test clips."""

    name: str
    kind: str  # "simulated", "DCASE 2026", "local recordings", …: stands beside every result
    root: Path
    clips: tuple[Clip, ...]  # sorted by clip_id
    truth: dict[str, Truth] = field(default_factory=dict)  # by clip_id
    problems: tuple[str, ...] = ()  # files that were passed over, one sentence each

    @property
    def machines(self) -> list[str]:
        return sorted(self._by_machine)

    @cached_property
    def _by_machine(self) -> dict[str, tuple[Clip, ...]]:
        grouped: dict[str, list[Clip]] = {}
        for clip in self.clips:
            grouped.setdefault(clip.machine, []).append(clip)
        return {machine: tuple(clips) for machine, clips in grouped.items()}

    def of(self, machine: str, split: str | None = None) -> tuple[Clip, ...]:
        """The clips of a machine, in order of their ids."""
        if machine not in self._by_machine:
            raise AsdError(f'{self.name} has no machine "{machine}". It has: {", ".join(self.machines)}.')
        return tuple(clip for clip in self._by_machine[machine] if split in (None, clip.split))

    def is_labelled(self, machine: str) -> bool:
        """Whether the test clips of the machine have their truth.

        Raises:
            AsdError: some have and some have not, so that figures would be of a part of the clips.
        """
        test = self.of(machine, TEST)
        unlabelled = [clip for clip in test if clip.clip_id not in self.truth]
        if unlabelled and len(unlabelled) < len(test):
            raise AsdError(
                f"{machine}: {len(unlabelled)} of {len(test)} test clips have no label in their names, the first is "
                f"{unlabelled[0].clip_id}. Move them away, rename them such as "
                f"section_00_source_test_normal_0000_noAttribute.wav, or leave the machine out with --machines."
            )
        return bool(test) and not unlabelled

    def counts(self) -> pd.DataFrame:
        """One row per machine: numbers of clips by split, domain and label."""
        rows = []
        for machine in self.machines:
            count: Counter[str] = Counter()
            for clip in self.of(machine):
                truth = self.truth.get(clip.clip_id)
                if clip.split == TRAIN:
                    count[f"train_{clip.domain}"] += 1
                elif truth is None:
                    count["test_unlabelled"] += 1
                else:
                    count[f"test_{truth.domain}_{'anomaly' if truth.label else 'normal'}"] += 1
            rows.append({"machine": machine, **count})
        columns = ["machine", "train_source", "train_target"]
        columns += [f"test_{domain}_{label}" for domain in (SOURCE, TARGET) for label in ("normal", "anomaly")]
        table = pd.DataFrame(rows).reindex(columns=[*columns, "test_unlabelled"])
        return table.fillna(0).astype({name: int for name in table.columns if name != "machine"})


class Description(Strict):
    """What ``dataset.json`` in a data set's folder says about it."""

    model_config = ConfigDict(extra="ignore")
    name: str | None = None
    kind: str | None = None


def scan(root: Path, name: str | None = None, kind: str | None = None) -> DataSet:
    """Find every machine below `root`, at any depth.

    A folder may describe itself in a ``dataset.json`` ({"name", "kind"}); arguments come first.

    Raises:
        AsdError: `root` is missing or holds no machine, or two folders are the same machine, or the name is not one
            that a folder may have.
    """
    root = root.resolve()
    if not root.is_dir():
        raise AsdError(
            f"{root} is not a folder. Expected a folder with <machine>/train/*.wav and <machine>/test/*.wav; "
            f"`python -m asd_core data --help` tells how to get or simulate one."
        )
    described = root / "dataset.json"
    about = Description()
    if described.is_file():
        about = validate(Description, read_json(described), str(described))
    name = name or about.name or root.name
    if not SAFE_NAME.fullmatch(name):
        raise AsdError(f'{root} cannot be called "{name}": {NAME_RULE}. Write {{"name": "…"}} into {described}.')
    split_folders = (place / name for place, folders, _ in walk(root) for name in folders if name in (TRAIN, TEST))
    places: dict[str, Path] = {}
    clips: list[Clip] = []
    truth: dict[str, Truth] = {}
    problems: list[str] = []
    for folder in sorted(split_folders):
        place, machine = folder.parent, folder.parent.name
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or path.is_dir():
                continue
            try:
                clip, known = parse_name(machine, path)
            except AsdError as error:
                problems.append(str(error))
                continue
            if not path.is_file():
                problems.append(f"{clip.clip_id}: a link to a file that is not there.")
                continue
            if places.setdefault(machine, place) != place:
                raise AsdError(
                    f'Machine "{machine}" is there twice: {places[machine]} and {place}. '
                    f"Point --data at one of them, or rename one."
                )
            clips.append(clip)
            if known is not None:
                truth[clip.clip_id] = known
    if not clips:
        found = f" {len(problems)} files were passed over; the first: {problems[0]}" if problems else ""
        raise AsdError(f"{root} holds no clip in the layout <machine>/{{train,test}}/section_….wav.{found}")
    clips.sort(key=lambda clip: clip.clip_id)
    kind = kind or about.kind or "local recordings"
    return DataSet(name, kind, root, tuple(clips), truth, tuple(problems))


def walk(
    root: Path, on_error: Callable[[OSError], object] | None = None, on_repeat: Callable[[Path], object] | None = None
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """(folder, names of folders, names of files) below `root` in order; links are followed, hidden folders and
    folders that were seen before under another name (`on_repeat`) are not entered."""
    seen: set[Path] = set()
    for name, folders, files in os.walk(root, followlinks=True, onerror=on_error):
        place = Path(name)
        real = place.resolve()
        if real in seen:
            folders.clear()
            if on_repeat is not None:
                on_repeat(place)
            continue
        seen.add(real)
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        yield place, folders, sorted(files)


def open_dataset(name_or_path: str) -> DataSet:
    """A data set of configs/datasets by its name, or any folder by its path."""
    described = CONFIGS / "datasets" / f"{name_or_path}.yaml"
    if "/" not in name_or_path and described.is_file():
        from asd_core.data.catalogue import load_dataset_config

        about = load_dataset_config(name_or_path)
        root = REPOSITORY / about.root
        if not root.is_dir():
            raise AsdError(f'Data set "{about.name}" is not on this machine ({root} is missing). {about.how_to_get}')
        return scan(root, about.name, about.kind)
    return scan(Path(name_or_path))


def attribute_key(attributes: Attributes) -> str:
    """Attributes as a class name: case-folded, in order of appearance (data hold both pro_Y and pro_y)."""
    return attribute_text(attributes).lower()


LABEL_FIELDS = ("machine", "section", "domain", "attributes", "channel")
LABEL_PRESETS: dict[str, tuple[str, ...]] = {
    "full": ("machine", "section", "domain", "attributes"),
    "channel": ("machine", "section", "attributes", "channel"),
    "attributes": ("machine", "section", "attributes"),
    "section": ("machine", "section"),
    "machine": ("machine",),
}


def attribute_values(attributes: Attributes) -> dict[str, str]:
    """Case-folded values by case-folded key; of a key that comes twice, the first."""
    return {key.lower(): value.lower() for key, value in reversed(attributes)}


def class_of(clip: Clip, fields: Sequence[str], channel: str = "near") -> str:
    """The training class of a clip, heard by one microphone: its fields joined by ``|``, ``fan|00|source|spd_1``."""
    values = {"attributes": attribute_key(clip.attributes), "channel": channel}
    return "|".join(values.get(name) or getattr(clip, name) for name in fields)


def fingerprint(clips: Iterable[Clip], cache: Path) -> str:
    """A digest of the clips' ids and contents. Contents are read once per (path, size, mtime, ctime).

    Args:
        cache: folder with what is known of each folder of recordings, in a file of its own: of a hundred machines, one
            that changes does not rewrite what is known of the others
    """
    rows = []
    for folder, own in _by_folder(clips).items():
        file = _known_file(folder, cache)
        known = _known_contents(file)
        seen = dict(known)
        for clip in own:
            stamp = _stamp(clip.path)
            entry = seen.get(clip.path.name)
            if not entry or entry[:-1] != stamp:
                entry = seen[clip.path.name] = [*stamp, file_digest(clip.path)]
            rows.append((clip.clip_id, entry[-1]))
        if seen != known:
            write_json(file, seen)
    return digest(sorted(rows))


def is_fingerprinted(clips: Iterable[Clip], cache: Path) -> bool:
    """Whether `fingerprint` could answer without reading a recording."""
    for folder, own in _by_folder(clips).items():
        known = _known_contents(_known_file(folder, cache))
        if any(known.get(clip.path.name, [])[:-1] != _stamp(clip.path) for clip in own):
            return False
    return True


def _by_folder(clips: Iterable[Clip]) -> dict[Path, list[Clip]]:
    found: dict[Path, list[Clip]] = {}
    for clip in clips:
        found.setdefault(clip.path.parent, []).append(clip)
    return found


def _known_file(folder: Path, cache: Path) -> Path:
    return cache / f"{digest(str(folder))}.json"


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]  # ctime: a changed file may keep the other two


def _known_contents(file: Path) -> dict[str, list[Any]]:
    """What `fingerprint` remembers of a folder: file name → size, mtime, ctime, digest. A damaged file is an empty one."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
