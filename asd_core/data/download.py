"""Fetching a data set's archives: resumed where they broke off, checked, and unpacked only when safe and whole.

Beside the data lies ``.downloads/``: ``<archive>.part`` and ``.part.json`` (begun), ``<archive>`` (whole, not yet
unpacked; one fetched by a browser may be put there), ``<archive>.done.json`` (unpacked: which files, how long) and
``<archive>.bad`` (refused). Repeating the call goes on from whatever is there.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import httpx

from asd_core import remote
from asd_core.data.catalogue import Archive, DatasetConfig
from asd_core.files import read_json, write_json
from asd_core.registry import did_you_mean
from asd_core.types import AsdError, Progress, no_progress

CHUNK = 1 << 20  # bytes held in memory
ALLOWED = {".wav", ".csv", ".txt", ".md"}
UNPACKED_RATIO = 1.4  # unpacked / packed size assumed before an archive is here; recordings hardly compress
MAX_RATIO = 20  # beyond it, an archive is no archive of recordings
MAX_FILES = 100_000

log = logging.getLogger(__name__)


class _Unfit(Exception):  # noqa: N818  becomes an AsdError once the file is set aside
    """The archive must not be unpacked, and why."""


def download(
    config: DatasetConfig,
    destination: Path,
    machines: Sequence[str] | None = None,
    parts: Sequence[str] | None = None,
    progress: Progress = no_progress,
) -> list[str]:
    """Fetch and unpack the archives of `machines` and `parts` (None: all) that are not yet in `destination`.

    `progress` gets the share of the work and, while receiving, ``mb_per_s``.

    Returns:
        The names of the archives unpacked by this call; none when everything was there.

    Raises:
        AsdError: unknown machine or part, disk too small, server out of reach, wrong or unsafe content. What was
            received is kept (refused archives as ``.bad``), so that repeating the call loses nothing.
        Cancelled: raised by `progress`; the same holds.
    """
    wanted = missing(config, destination, machines, parts)
    if not wanted:
        return []
    work = _work(destination)
    try:
        with remote.only_one(work), remote.client() as client:
            _check_space(client, wanted, destination)
            for i, archive in enumerate(wanted):
                step = remote.share(progress, i / len(wanted), 1 / len(wanted))
                _fetch_and_unpack(client, archive, destination, step)
            if not (destination / "dataset.json").exists():
                write_json(destination / "dataset.json", {"name": config.name, "kind": config.kind})
    except OSError as error:
        raise AsdError(
            f"{destination} could not be written ({error.strerror or error}). What was received so far is kept in "
            f"{work}; make room or choose another folder, and repeat the command."
        ) from error
    return [archive.name for archive in wanted]


def missing(
    config: DatasetConfig, destination: Path, machines: Sequence[str] | None = None, parts: Sequence[str] | None = None
) -> list[Archive]:
    """The chosen archives whose files are not all in `destination`; a file that was deleted counts."""
    if not config.archives:
        raise AsdError(f'Data set "{config.name}" has no archives to download. {config.how_to_get}')
    for chosen, known, what in (
        (machines, {archive.machine for archive in config.archives}, "machine"),
        (parts, {archive.part for archive in config.archives}, "part"),
    ):
        for name in chosen or ():
            if name not in known:
                raise AsdError(
                    f'{config.name} has no {what} "{name}". It has: {", ".join(sorted(known))}.'
                    + did_you_mean(name, known)
                )
    return [
        archive
        for archive in config.archives
        if (machines is None or archive.machine in machines)
        and (parts is None or archive.part in parts)
        and not _is_unpacked(archive, destination)
    ]


def _work(destination: Path) -> Path:
    return destination / ".downloads"


def _is_unpacked(archive: Archive, destination: Path) -> bool:
    marker = _work(destination) / f"{archive.name}.done.json"
    if not marker.is_file():
        return False
    done = read_json(marker)
    if (done["url"], done["md5"], done["folder"]) != (archive.url, archive.md5, archive.folder):
        return False
    return all(remote.size_of(destination / archive.folder / name) == size for name, size in done["files"].items())


def _fetch_and_unpack(client: httpx.Client, archive: Archive, destination: Path, progress: Progress) -> None:
    work = _work(destination)
    whole = work / archive.name
    try:
        if not whole.is_file():
            most = remote.announced_size(client, archive.url) or None
            remote.receive(client, archive.url, whole, "configs/datasets", remote.share(progress, 0, 0.9), most)
        _check(archive, whole)
        files = _unpack(whole, destination / archive.folder, work, remote.share(progress, 0.9, 0.1))
    except _Unfit as reason:
        bad = work / f"{archive.name}.bad"
        whole.replace(bad)
        raise AsdError(
            f"{archive.name} from {archive.url} was not unpacked: {reason} It is kept as {bad}. Repeat the command to "
            f"fetch it again; if that gives the same, the file on the server is not the one this program knows."
        ) from reason
    done = {"url": archive.url, "md5": archive.md5, "folder": archive.folder, "files": files}
    write_json(work / f"{archive.name}.done.json", done)
    whole.unlink()


def _check_space(client: httpx.Client, archives: Sequence[Archive], destination: Path) -> None:
    """Everything unpacked, and the largest archive beside it: that is the most the disk must hold at once."""
    sizes = [remote.announced_size(client, archive.url) for archive in archives]  # 0: `_unpack` checks again
    work = _work(destination)
    here = sum((remote.size_of(work / name) or 0) for a in archives for name in (a.name, f"{a.name}.part"))
    needed = UNPACKED_RATIO * sum(sizes) + max(sizes, default=0) - here
    what = f"{len(archives)} archives of together {sum(sizes) / 1e9:.1f} GB, unpacked, need"
    remote.require_room(needed, destination, what, ", or fetch fewer machines at a time")


# checking and unpacking -----------------------------------------------------------------------------------------


def _check(archive: Archive, file: Path) -> None:
    if archive.md5 is not None:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != archive.md5:
            raise _Unfit(f"its MD5 is {found}, expected {archive.md5}.")
    if not zipfile.is_zipfile(file):
        with file.open("rb") as opened:
            head = opened.read(40)
        raise _Unfit(f"it is not a zip file but {remote.size_of(file)} bytes beginning with {head!r}.")


def _unpack(file: Path, folder: Path, work: Path, progress: Progress) -> dict[str, int]:
    """Unpack into `folder` → sizes by relative path. Files arrive there only when all of them are out and sound."""
    temporary = work / "unpack"
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed call
    try:
        with zipfile.ZipFile(file) as bundle:
            members = _safe_members(bundle, file.stat().st_size)
            remote.require_room(sum(member.file_size for member in members), work, f"{file.name}, unpacked, needs")
            places = _extract(bundle, members, temporary, remote.share(progress, 0, 1), file.name)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise _Unfit(f"it is damaged ({error}).") from error
    else:
        settled = [path for inside, place in places.items() for path in _settle(place, folder / inside, file.stem)]
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {str(path.relative_to(folder)): path.stat().st_size for path in settled}


def _safe_members(bundle: zipfile.ZipFile, packed: int) -> list[zipfile.ZipInfo]:
    """The recordings and texts of an archive; an archive that tries anything else than adding files is unfit."""
    entries = [entry for entry in bundle.infolist() if not entry.is_dir()]
    for entry in entries:
        _check_entry(entry)
    total = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_FILES:
        raise _Unfit(f"it lists {len(entries)} files; at most {MAX_FILES} are allowed.")
    if total > MAX_RATIO * packed:
        raise _Unfit(
            f"its {packed / 1e6:.2f} MB would unpack to {total / 1e6:.0f} MB; at most {MAX_RATIO} times are allowed."
        )
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        raise _Unfit("it lists a file twice.")
    chosen = [entry for entry in entries if _is_wanted(PurePosixPath(entry.filename))]
    if len(chosen) < len(entries):
        log.info("%s: %d other files are left out", bundle.filename, len(entries) - len(chosen))
    if not any(entry.filename.endswith(".wav") for entry in chosen):
        raise _Unfit("it holds no .wav file.")
    return chosen


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.orig_filename  # as written; zipfile has already cut `filename` at a NUL
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or re.match(r"[A-Za-z]:", name):
        raise _Unfit(f"it wants to write {name!r}, which may lead outside its folder.")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise _Unfit(f"{name!r} is a link or a device, not a plain file.")
    if entry.flag_bits & 1:
        raise _Unfit(f"{name!r} is encrypted.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _Unfit(f"{name!r} is compressed by method {entry.compress_type}; allowed: stored, deflated.")


def _is_wanted(path: PurePosixPath) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix in ALLOWED and not hidden


def _extract(
    bundle: zipfile.ZipFile, members: list[zipfile.ZipInfo], temporary: Path, progress: Progress, name: str
) -> dict[PurePosixPath, Path]:
    """Each folder of the archive goes to a numbered one, since a `train` left by a kill would pass for a machine."""
    places: dict[PurePosixPath, Path] = {}
    for i, member in enumerate(members):
        path = PurePosixPath(member.filename)
        place = places.setdefault(path.parent, temporary / str(len(places)))
        place.mkdir(parents=True, exist_ok=True)
        with bundle.open(member) as packed, (place / path.name).open("wb") as out:
            shutil.copyfileobj(packed, out, CHUNK)
        if i % 50 == 0:
            progress(i / len(members), f"{name}: unpacking {i} of {len(members)} files")
    return places


def _settle(place: Path, final: Path, archive: str) -> list[Path]:
    """Move an unpacked folder to where it belongs, at once if it is new there, else file by file → final paths."""
    final.parent.mkdir(parents=True, exist_ok=True)
    names = [path.name for path in place.iterdir()]
    if not final.exists():
        place.rename(final)
        return [final / name for name in names]
    settled = []
    for path in map(place.joinpath, names):
        target = final / path.name
        # the train and the test archive of a machine both bring an attributes_00.csv: keep both
        if target.suffix != ".wav" and target.exists() and target.read_bytes() != path.read_bytes():
            target = target.with_name(f"{path.stem}.{archive}{path.suffix}")
        path.replace(target)
        settled.append(target)
    return settled
