"""Published checkpoints: configs/weights.yaml → what they are, where they lie, whether they are what they should be.

They lie in ``weights/`` of the repository, or in the folder that the environment variable ASD_WEIGHTS names. Beside
``<file>`` stands ``<file>.json`` with the digest it had when it was checked; ``.downloads/`` holds what is being
received or was refused.

Reading a checkpoint takes a learning library, which this module must not load: functions that look inside a file are
handed a `Reader`, which is `backbones.pretrained.read`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from pydantic import Field, model_validator

from asd_core import remote
from asd_core.config import CONFIGS, Strict, System, load, load_system, system_names, system_variant
from asd_core.files import read_json, replacing, write_json
from asd_core.registry import did_you_mean
from asd_core.types import AsdError, Progress, no_progress

CATALOGUE = CONFIGS / "weights.yaml"
EMBEDDED = CONFIGS.parent / "assets" / "weights"  # small encoders that come with the project, a card beside each
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")  # what makes a name a path
ABSENT, PRESENT, UNVERIFIED, DAMAGED = "absent", "present", "unverified", "damaged"
TITLES = {"beats": "BEATs", "eat": "EAT"}
log = logging.getLogger(__name__)
QUICK = "Profile quick runs without it: a small network stands in."


class Checkpoint(Strict):
    """One line of configs/weights.yaml."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    title: str
    family: Literal["beats", "eat"]
    file: str = Field(pattern=r"^\w[\w.+-]*\.(pt|safetensors)$")
    page: str = Field(pattern=r"^https?://\S+$")
    url: str | None = Field(default=None, pattern=r"^https?://\S+$")  # answers a plain GET
    link: str | None = Field(default=None, pattern=r"^https?://\S+$")  # for a browser
    bytes: int | None = Field(default=None, ge=1)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    classes: int | None = Field(default=None, ge=1)  # of a fine-tuned checkpoint's classifier
    licence: str
    trained_on: str
    dcase2026: str
    note: str = ""  # about getting it

    @property
    def path(self) -> Path:
        """Where its file is expected."""
        return folder() / self.file

    @property
    def get(self) -> str:
        """One sentence: how to get it."""
        if self.url:
            return f"`python -m asd_core weights fetch {self.name}` fetches it."
        return (
            f"Get {self.file} with a browser ({self.page}), then run `python -m asd_core weights import FILE --as "
            f"{self.name}`.{' ' if self.note else ''}{self.note}"
        )


class Catalogue(Strict):
    checkpoints: tuple[Checkpoint, ...]

    @model_validator(mode="after")
    def _differ(self) -> Self:
        for values in ([one.name for one in self.checkpoints], [one.file for one in self.checkpoints]):
            if twice := sorted({value for value in values if values.count(value) > 1}):
                raise ValueError(f"each checkpoint and each file may be listed once; twice: {', '.join(twice)}")
        return self


class Content(Protocol):
    """What a reader tells about a file."""

    @property
    def family(self) -> str: ...
    @property
    def classes(self) -> int | None: ...


Reader = Callable[[Path], Content]  # raises AsdError for anything that is not a sound checkpoint


@dataclass(frozen=True)
class Status:
    """A checkpoint of the catalogue as its file is now."""

    checkpoint: Checkpoint
    state: str  # ABSENT, PRESENT (checked), UNVERIFIED or DAMAGED
    path: Path
    bytes: int | None = None
    sha256: str | None = None  # as recorded when it was checked
    problem: str = ""  # of a damaged file; or why it is not verified


def folder() -> Path:
    """Where checkpoints lie."""
    return Path(os.environ.get("ASD_WEIGHTS") or CONFIGS.parent / "weights").expanduser().resolve()


def catalogue() -> dict[str, Checkpoint]:
    """Known checkpoints by name, in the order of the file."""
    return {one.name: one for one in load(Catalogue, CATALOGUE).checkpoints}


def embedded() -> dict[str, Path]:
    """Files of the encoders that come with the project, by name. `pretraining` made them; they need no download."""
    return {path.stem: path for path in sorted(EMBEDDED.glob("*.safetensors"))}


def find(name: str) -> Checkpoint:
    """The checkpoint of this name.

    Raises:
        AsdError: there is none; the message lists those that there are.
    """
    known = catalogue()
    if name not in known:
        raise AsdError(f'There is no checkpoint "{name}". Known: {", ".join(known)}.{did_you_mean(name, known)}')
    return known[name]


def locate(checkpoint: str) -> Path:
    """The file of a checkpoint, given by its name in the catalogue or among the embedded ones, or by path.

    Raises:
        AsdError: unknown name, or no file; the message says where it is expected and how to get it.
    """
    if checkpoint in (own := embedded()):
        return own[checkpoint]
    known = catalogue()
    if checkpoint not in known and (checkpoint.endswith(SUFFIXES) or "/" in checkpoint):
        path = Path(checkpoint).expanduser().absolute()
        if not path.is_file():
            raise AsdError(
                f"There is no checkpoint file {path}. Give another path, or one of: {', '.join([*own, *known])}."
            )
        return path
    found = status(find(checkpoint))
    one = found.checkpoint
    if found.state == ABSENT:
        size = f"{one.bytes / 1e6:.0f} MB, " if one.bytes else ""
        raise AsdError(
            f'Checkpoint "{one.name}" is not on this machine; its file belongs at {found.path} ({size}licence '
            f"{one.licence}). {one.get} {QUICK}"
        )
    if found.state == DAMAGED:
        raise AsdError(f'Checkpoint "{one.name}" is damaged: {found.problem} {one.get} {QUICK}')
    return found.path


def status(checkpoint: Checkpoint) -> Status:
    """How a checkpoint's file is, told without reading it."""
    path = checkpoint.path
    size = remote.size_of(path)
    if size is None:
        return Status(checkpoint, ABSENT, path)
    record = _record(path)
    digest = record.get("sha256")
    if record.get("problem") and record["mtime_ns"] == path.stat().st_mtime_ns:
        return Status(checkpoint, DAMAGED, path, size, digest, record["problem"])
    for expected, source in ((checkpoint.bytes, "expected"), (record.get("bytes"), "recorded when it was checked")):
        if expected is not None and size != expected:
            problem = f"{path} has {size:,} bytes, {source}: {expected:,}."
            return Status(checkpoint, DAMAGED, path, size, digest, problem)
    if not record:
        return Status(checkpoint, UNVERIFIED, path, size, None, "It was put there by hand and not checked yet.")
    if record["mtime_ns"] != path.stat().st_mtime_ns:
        return Status(checkpoint, UNVERIFIED, path, size, digest, "It was written to since it was checked.")
    return Status(checkpoint, PRESENT, path, size, digest)


def statuses() -> list[Status]:
    """All checkpoints of the catalogue."""
    return [status(one) for one in catalogue().values()]


def used_by() -> dict[str, list[str]]:
    """Systems and variants of configs/systems by the checkpoint that an encoder of theirs starts from."""
    found: dict[str, list[str]] = {}
    for name in system_names():
        try:
            system = load_system(name)
            variants = [system_variant(system, variant) for variant in system.variants]
        except AsdError:  # said by the pages and commands about systems
            continue
        of_system = _checkpoints(system)
        for one, checkpoints in ((system, of_system), *((one, _checkpoints(one) - of_system) for one in variants)):
            for checkpoint in checkpoints:
                found.setdefault(checkpoint, []).append(one.name)
    return found


def _checkpoints(system: System) -> set[str]:
    return {str(name) for encoder in system.encoders.values() if (name := encoder.backbone.spec.get("checkpoint"))}


# ------------------------------------------------------------------ getting and checking


def fetch(name: str, read: Reader, progress: Progress = no_progress) -> Path:
    """Download a checkpoint, unless it is there and sound; resumed where an earlier call broke off.

    A file in its place that is not sound is kept as ``.downloads/<file>.bad``.

    Raises:
        AsdError: no address that answers a plain GET, server out of reach, no room, or not the file it should be. What
            was received is kept (a refused file as ``.bad``).
        Cancelled: raised by `progress`; the same holds.
    """
    one = find(name)
    if one.url is None:
        raise AsdError(f'"{one.title}" has no address that answers a plain download. {one.get}')
    found = status(one)
    if found.state == UNVERIFIED:
        found = verify(name, read)
    if found.state == PRESENT:
        return found.path
    work = folder() / ".downloads"
    whole = work / one.file
    try:
        with remote.only_one(work), remote.client() as client:
            if not whole.is_file():
                announced = remote.announced_size(client, one.url)
                _check_offer(one, announced, whole)
                most = one.bytes or announced or None
                remote.receive(client, one.url, whole, "configs/weights.yaml", remote.share(progress, 0, 0.9), most)
            progress(0.9, f"{one.title}: checking")
            digest = _check_received(one, whole, read)
            if one.path.is_file():  # it may be somebody's own
                bad = _bad(whole)
                one.path.replace(bad)
                log.warning("%s was not what it should be (%s). It is kept as %s.", one.path, found.problem, bad)
            whole.replace(one.path)
            _write_record(one.path, digest, origin=one.url)
    except OSError as error:
        raise AsdError(
            f"{work} could not be written ({error.strerror or error}). What was received so far is kept there; make room "
            f"and repeat the command."
        ) from error
    return one.path


def import_file(path: Path, name: str, read: Reader) -> Path:
    """Copy a checkpoint that was got by other means to its place, once its content has been read and found sound.

    A ``config.json`` beside a safetensors file, which Hugging Face keeps there, comes along.

    Raises:
        AsdError: not a sound checkpoint, another one than `name`, no room. What was there before stays.
    """
    one, path = find(name), path.expanduser().absolute()
    digest = _check(one, path, read)
    target = one.path
    if not (target.exists() and target.samefile(path)):
        target.parent.mkdir(parents=True, exist_ok=True)
        remote.require_room(path.stat().st_size, target.parent, f"{one.file} needs")
        with replacing(target) as temporary:
            shutil.copyfile(path, temporary)
            if _sha256(temporary) != digest:
                raise AsdError(f"{path} changed while it was copied. Repeat the command.")
        beside = [path.with_name(f"{path.stem}_config.json"), path.with_name("config.json")]
        config = next(filter(Path.is_file, beside), None) if path.suffix == ".safetensors" else None
        own = target.with_name(f"{target.stem}_config.json")
        if config is None:
            own.unlink(missing_ok=True)  # of the file that was there before
        elif not (own.exists() and own.samefile(config)):
            with replacing(own) as temporary:
                shutil.copyfile(config, temporary)
    _write_record(target, digest, origin=str(path))
    return target


def guess(path: Path) -> str:
    """The checkpoint whose file has the name of `path`.

    Raises:
        AsdError: there is none; the content cannot tell versions of equal architecture apart.
    """
    for one in catalogue().values():
        if one.file.lower() == path.name.lower():
            return one.name
    listed = "\n".join(f"  {one.name}: {one.file}" for one in catalogue().values())
    raise AsdError(
        f"{path.name} is not the file name of a known checkpoint; say which it is with --as. Known:\n{listed}"
    )


def verify(name: str, read: Reader) -> Status:
    """Read a checkpoint's file in full, compare its digest with the published or the recorded one, record the outcome.

    Returns:
        the status afterwards: PRESENT or DAMAGED, or ABSENT
    """
    one = find(name)
    if status(one).state == ABSENT:
        return status(one)
    record = _record(one.path)
    try:
        digest = _check(one, one.path, read)
        if record.get("sha256") not in (None, digest):
            raise AsdError(
                f"{one.path} has the SHA-256 {digest}; recorded when it was checked first: {record['sha256']}. If it was "
                f"replaced on purpose, delete {_record_path(one.path)} and verify again."
            )
    except AsdError as error:
        write_json(_record_path(one.path), record | {"mtime_ns": one.path.stat().st_mtime_ns, "problem": str(error)})
    else:
        _write_record(one.path, digest, origin=record.get("origin", "put there by hand"))
    return status(one)


def _check_offer(one: Checkpoint, announced: int, whole: Path) -> None:
    """Before anything is received: is it the file, and is there room for it?"""
    if one.bytes is not None and announced not in (0, one.bytes):
        raise AsdError(
            f"{one.url} offers {announced:,} bytes, but {one.file} has {one.bytes:,}: it is another file, or a page about "
            f"it. Nothing was fetched. Look at {one.page}; if a new version was published, correct configs/weights.yaml."
        )
    here = remote.size_of(whole.with_name(f"{whole.name}.part")) or 0
    remote.require_room((announced or one.bytes or 0) - here, whole.parent, f"{one.file} needs")


def _check_received(one: Checkpoint, whole: Path, read: Reader) -> str:
    """The same as `_check`, but a file that fails is set aside."""
    bad = _bad(whole)
    try:
        return _check(one, whole, read)
    except AsdError as error:
        whole.replace(bad)
        told = str(error).replace(str(whole), str(bad))
        raise AsdError(f"{told} It was received from {one.url} and is kept there.") from error


def _bad(whole: Path) -> Path:
    """Where a file that was refused is kept."""
    return whole.with_name(f"{whole.name}.bad")


def _check(one: Checkpoint, path: Path, read: Reader) -> str:
    """Content, size and digest; returns the SHA-256."""
    found = read(path)
    if (found.family, found.classes) != (one.family, one.classes):
        fitting = [
            other.name
            for other in catalogue().values()
            if (other.family, other.classes) == (found.family, found.classes)
        ]
        raise AsdError(
            f'{path} holds {_words(found.family, found.classes)}, but "{one.name}" is {_words(one.family, one.classes)}. '
            f"It may be one of: {', '.join(fitting) or 'none that is known'}."
        )
    size = path.stat().st_size
    advice = f"To use it all the same, write its path into the system's YAML as checkpoint: {path}"
    if one.bytes not in (None, size):
        raise AsdError(f"{path} has {size:,} bytes, but {one.file} is known to have {one.bytes:,}. {advice}")
    digest = _sha256(path)
    if one.sha256 not in (None, digest):
        raise AsdError(f"{path} has the SHA-256 {digest}, but {one.file} is known to have {one.sha256}. {advice}")
    return digest


def _words(family: str, classes: int | None) -> str:
    kind = f"fine-tuned for {classes} classes" if classes else "without classifier"
    return f"{TITLES.get(family, family)} {kind}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _record(path: Path) -> dict[str, Any]:
    """What was noted about a file when it was checked; {} if nothing, or nothing that can be read."""
    try:
        record = read_json(_record_path(path))
        return record if isinstance(record, dict) and "mtime_ns" in record else {}
    except (AsdError, OSError):
        return {}


def _write_record(path: Path, digest: str, origin: str) -> None:
    about = path.stat()
    record = {"sha256": digest, "bytes": about.st_size, "mtime_ns": about.st_mtime_ns, "origin": origin}
    write_json(_record_path(path), record)
