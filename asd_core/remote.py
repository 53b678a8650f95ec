"""Receiving one file over HTTP: resumed where it broke off, on one connection at a time, with room on the disk.

Beside the wanted file lie ``<name>.part`` and ``<name>.part.json`` until it is whole; repeating the call goes on from
there. Whether the content is right is for the caller to check.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from filelock import FileLock, Timeout

from asd_core.files import read_json, write_json
from asd_core.types import AsdError, Progress, no_progress

TRIES = 6  # in a row without getting further
FIRST_PAUSE = 1.0  # seconds; doubles with every try
LONGEST_PAUSE = 30.0
GAIN = 1_000_000  # bytes that count as getting further
LARGEST = 50_000_000_000  # bytes of a file whose size nobody tells
BUSY = {408, 429, 500, 502, 503, 504}

log = logging.getLogger(__name__)


class _Again(Exception):  # noqa: N818  not an error yet
    """The server broke off or is busy; a later try may do better."""


def client() -> httpx.Client:
    return httpx.Client(follow_redirects=True, timeout=httpx.Timeout(60, connect=20))


def receive(
    connection: httpx.Client,
    url: str,
    whole: Path,
    listed_in: str,
    progress: Progress = no_progress,
    most: int | None = None,
) -> None:
    """Get `url` into the file `whole`, patiently: a lost connection is tried again from where it broke off.

    Args:
        listed_in: where a wrong address can be corrected, for the message.
        progress: gets the share received and ``mb_per_s``.
        most: bytes that the file may have, as published or announced earlier; default: as this answer announces.

    Raises:
        AsdError: out of reach, or refused by the server; what was received is kept for the next call. Or more bytes
            come than may; they are deleted.
        Cancelled: raised by `progress`; the same holds.
    """
    part = whole.with_name(f"{whole.name}.part")
    furthest, failures = 0, 0
    while True:
        try:
            _connect(connection, url, part, listed_in, progress, most)
            part.replace(whole)
            _note(part).unlink(missing_ok=True)
            return
        except (httpx.RequestError, _Again) as error:
            reached = size_of(part) or 0
            failures = 1 if reached > furthest + GAIN else failures + 1
            furthest = max(furthest, reached)
            reason = str(error) or type(error).__name__
            if failures >= TRIES:
                raise AsdError(
                    f"{url} could not be received: {reason} ({failures} tries in a row). "
                    f"{reached / 1e6:.1f} MB are kept; repeat the command later to go on from there, or fetch the "
                    f"file with a browser and put it into {whole.parent}."
                ) from error
            _pause(min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE), f"{whole.name}: {reason}", progress)


def announced_size(connection: httpx.Client, url: str) -> int:
    """Bytes, or 0 where the server does not tell or cannot be reached: `receive` is more patient."""
    try:
        answer = connection.head(url, headers={"Accept-Encoding": "identity"})
    except httpx.RequestError:
        return 0
    return _extent(answer)[1] or 0 if answer.is_success else 0


def size_of(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


@contextmanager
def only_one(work: Path) -> Iterator[None]:
    """Hold the folder `work`, which downloads use, against a second process."""
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / "lock", timeout=0):
            yield
    except Timeout:
        raise AsdError(
            f"Another process is downloading into {work.parent}. Wait for it, or stop it and repeat the command."
        ) from None


def require_room(needed: float, folder: Path, what: str, instead: str = "") -> None:
    """Raise unless `folder` has `needed` bytes free; `what` begins the message, `instead` adds to its advice."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise AsdError(
            f"{what} about {needed / 1e9:.1f} GB; {folder} has {free / 1e9:.1f} GB free. Make room or choose another "
            f"folder{instead}. Nothing was lost."
        )


def share(progress: Progress, begin: float, width: float) -> Progress:
    """A progress callback for one part of the work."""
    return lambda fraction, message, **values: progress(begin + width * fraction, message, **values)


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _begun(note: Path, url: str) -> dict[str, Any] | None:
    """What was noted about a part of this file; None if nothing tells whether the server's file is still the same."""
    try:
        begun = read_json(note) if note.is_file() else None
    except AsdError:
        return None
    if not isinstance(begun, dict) or begun.get("url") != url:
        return None
    size, etag = begun.get("size"), begun.get("etag")
    fits = isinstance(size, int | None) and isinstance(etag, str | None) and (size or etag)
    return {"size": size, "etag": etag} if fits else None


def _connect(
    connection: httpx.Client, url: str, part: Path, listed_in: str, progress: Progress, most: int | None
) -> None:
    """One connection: go on where `part` ends if the server still has the same file, else begin again."""
    note = _note(part)
    begun = _begun(note, url)
    offset = (size_of(part) or 0) if begun else 0
    if begun and offset and offset == begun["size"]:
        return
    headers = {"Accept-Encoding": "identity"}  # else sizes and offsets mean nothing
    if begun and offset:
        headers["Range"] = f"bytes={offset}-"
        if begun["etag"] and not begun["etag"].startswith("W/"):
            headers["If-Range"] = begun["etag"]
    with connection.stream("GET", url, headers=headers) as answer:
        size = _extent(answer)[1]
        if answer.status_code == 416 or (answer.status_code == 206 and not (begun and _goes_on(answer, begun, offset))):
            part.unlink(missing_ok=True)
            raise _Again("the file on the server has changed, so it is received anew")
        _check_status(url, answer, listed_in)
        if answer.status_code != 206:  # also a server that ignores Range
            offset = 0
            part.unlink(missing_ok=True)  # before the note: old bytes must never stand under a new note
            write_json(note, {"url": url, "etag": answer.headers.get("ETag"), "size": size})
        limit = most or size or LARGEST
        if (size or 0) > limit or not _append(answer, part, offset, size, limit, progress):
            part.unlink(missing_ok=True)
            note.unlink(missing_ok=True)
            raise AsdError(
                f"{url} sends more than the {limit:,} bytes that the file should have. What was received is deleted. "
                f"Look at the address in a browser; if the file has changed, correct its entry in {listed_in}."
            )
    if size is not None and size_of(part) != size:
        raise _Again(f"the server sent {size_of(part)} bytes where {size} were announced")


def _append(answer: httpx.Response, part: Path, offset: int, size: int | None, limit: int, progress: Progress) -> bool:
    """Write what comes; False as soon as the file would have more than `limit` bytes."""
    started = told = time.monotonic()
    done = offset
    total = f" of {size / 1e6:.0f}" if size else ""
    with part.open("ab") as file:
        for chunk in answer.iter_raw():
            done += len(chunk)
            if done > limit:
                return False
            file.write(chunk)
            now = time.monotonic()
            if now - told > 0.2 or done == size:
                told = now
                speed = (done - offset) / 1e6 / max(now - started, 1e-6)
                message = f"{part.stem}: {done / 1e6:.0f}{total} MB, {speed:.1f} MB/s"
                progress(done / size if size else 0.0, message, mb_per_s=speed)
    return True


def _extent(answer: httpx.Response) -> tuple[int, int | None]:
    """First byte of this answer, and the size of the whole file (None: not told)."""
    if answer.status_code == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if match is None:
            return -1, None
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _goes_on(answer: httpx.Response, begun: dict[str, Any], offset: int) -> bool:
    start, size = _extent(answer)
    etag = answer.headers.get("ETag")
    return start == offset and begun["size"] in (size, None) and (etag is None or etag == begun["etag"])


def _check_status(url: str, answer: httpx.Response, listed_in: str) -> None:
    if answer.status_code in BUSY:
        raise _Again(f"the server answered {answer.status_code} {answer.reason_phrase}")
    if not answer.is_success:
        raise AsdError(
            f"{url}: the server answered {answer.status_code} {answer.reason_phrase}. Open the address in a "
            f"browser; if the file has moved, correct its url in {listed_in}."
        )


def _pause(seconds: float, reason: str, progress: Progress) -> None:
    """Wait, but stay ready to be cancelled."""
    log.info("%s; next try in %.0f s", reason, seconds)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        progress(0.0, f"{reason}; next try in {left:.0f} s")
        time.sleep(min(left, 1))
