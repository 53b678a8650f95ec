"""Downloads from a server of our own that misbehaves on request."""

import hashlib
import io
import json
import shutil
import stat
import threading
import zipfile
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from asd_core import remote
from asd_core.config import validate
from asd_core.data import download as module
from asd_core.data.catalogue import Archive, DatasetConfig, dataset_names, load_dataset_config
from asd_core.data.download import download, missing
from asd_core.data.manifest import scan
from asd_core.types import AsdError, Cancelled

NOISE = np.random.default_rng(0).bytes(40_000)  # does not compress, as recordings hardly do
CLIP = "fan/train/section_00_source_train_normal_0000_noAttribute.wav"


class Server(ThreadingHTTPServer):
    """Serves `files`; every request takes the next fault of `faults`, if any is left."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[str | int] = []
        self.ranges = True
        self.etags = True
        self.gets: list[str | None] = []  # the Range header of every GET
        self.sent = 0
        self.announced: int | None = None  # by HEAD, instead of the truth

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        body = self.server.files.get(self.path.lstrip("/"))
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(self.server.announced or len(body or b"")))
        self.end_headers()

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.gets.append(wanted)
        fault = server.faults.pop(0) if server.faults else None
        body = server.files.get(self.path.lstrip("/"))
        if body is None or fault == 503:
            self.send_response(404 if body is None else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        etag = f'"{hashlib.sha1(body).hexdigest()}"'
        start = 0
        same = self.headers.get("If-Range") in (None, etag)
        if wanted and server.ranges and same:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if start < len(body) else 416)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if server.etags:
            self.send_header("ETag", etag)
        if fault == "unknown length":
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(max(len(body) - start, 0)))
        self.end_headers()
        sent = body[start : start + fault] if isinstance(fault, int) else body[start:]
        server.sent += len(sent)
        self.wfile.write(sent)
        self.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()


def packed(files: Iterable[tuple[str, bytes]], mode: int = stat.S_IFREG) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, payload in files:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (mode | 0o644) << 16
            bundle.writestr(info, payload)
    return buffer.getvalue()


def offer(server: Server, files: dict[str, bytes], name: str = "dev_fan.zip", md5: bool = True) -> DatasetConfig:
    """Put an archive on the server; the description of a data set that consists of it."""
    body = packed(files.items())
    server.files[name] = body
    archive = Archive(
        machine="fan",
        part="dev",
        url=f"{server.url}/{name}",
        md5=hashlib.md5(body).hexdigest() if md5 else None,
        folder="dev_data/raw",
    )
    return DatasetConfig(name="x", kind="test data", root="data/x", how_to_get="Nothing to do.", archives=(archive,))


def test_fetches_unpacks_and_remembers(server: Server, tmp_path: Path) -> None:
    config = offer(
        server, {CLIP: NOISE, "fan/attributes_00.csv": b"file_name\n", "fan/.DS_Store": b"?", "fan/a.exe": b"?"}
    )
    told: list[tuple[float, float]] = []
    names = download(config, tmp_path, progress=lambda f, _, **v: told.append((f, v.get("mb_per_s", 0.0))))
    assert names == ["dev_fan.zip"]
    assert (tmp_path / "dev_data/raw" / CLIP).read_bytes() == NOISE
    assert sorted(p.name for p in (tmp_path / "dev_data/raw/fan").iterdir()) == ["attributes_00.csv", "train"]
    assert max(speed for _, speed in told) > 0
    assert all(0 <= fraction <= 1 for fraction, _ in told)
    data = scan(tmp_path)
    assert (data.machines, data.kind) == (["fan"], "test data")
    asked = len(server.gets)
    assert download(config, tmp_path) == []
    assert missing(config, tmp_path) == []
    assert len(server.gets) == asked


def test_a_deleted_file_is_fetched_again(server: Server, tmp_path: Path) -> None:
    config = offer(server, {CLIP: NOISE})
    download(config, tmp_path)
    (tmp_path / "dev_data/raw" / CLIP).unlink()
    assert [archive.name for archive in missing(config, tmp_path)] == ["dev_fan.zip"]
    download(config, tmp_path)
    assert (tmp_path / "dev_data/raw" / CLIP).read_bytes() == NOISE


def test_resumes_dropped_connections_without_receiving_twice(server: Server, tmp_path: Path) -> None:
    config = offer(server, {CLIP: NOISE})
    server.faults = [10_000, 5_000, 503]
    download(config, tmp_path)
    assert (tmp_path / "dev_data/raw" / CLIP).read_bytes() == NOISE
    assert server.gets == [None, "bytes=10000-", "bytes=15000-", "bytes=15000-"]
    assert server.sent == len(server.files["dev_fan.zip"])


def test_resumes_in_a_later_call(server: Server, tmp_path: Path) -> None:
    config = offer(server, {CLIP: NOISE})
    server.faults = [12_000] + [503] * (remote.TRIES - 1)
    with pytest.raises(AsdError, match=r"503.*tries in a row.*kept; repeat"):
        download(config, tmp_path)
    assert not (tmp_path / "dev_data").exists()
    server.gets.clear()
    download(config, tmp_path)
    assert server.gets == ["bytes=12000-"]
    assert (tmp_path / "dev_data/raw" / CLIP).read_bytes() == NOISE


@pytest.mark.parametrize("etags", [True, False])
def test_server_that_ignores_range_sends_all_again(server: Server, tmp_path: Path, etags: bool) -> None:
    config = offer(server, {CLIP: NOISE})
    server.ranges, server.etags, server.faults = False, etags, [10_000]
    download(config, tmp_path)
    assert server.gets == [None, "bytes=10000-"]
    assert (tmp_path / "dev_data/raw" / CLIP).read_bytes() == NOISE


@pytest.mark.parametrize("etags", [True, False])
@pytest.mark.parametrize("extra", [-9_000, 0, 9_000])
def test_file_that_changed_in_between_is_never_mixed(server: Server, tmp_path: Path, etags: bool, extra: int) -> None:
    """Without an ETag and with an equal size only the checksum notices: refused, and right the second time."""
    config = offer(server, {CLIP: NOISE}, md5=False)
    server.etags, server.faults = etags, [35_000] + [503] * (remote.TRIES - 1)
    with pytest.raises(AsdError):
        download(config, tmp_path)
    other = np.random.default_rng(1).bytes(len(NOISE) + extra)
    config = offer(server, {CLIP: other}, md5=False)
    server.gets.clear()
    if not etags and extra == 0:
        with pytest.raises(AsdError, match="damaged"):
            download(config, tmp_path)
        assert (tmp_path / ".downloads/dev_fan.zip.bad").exists()
    download(config, tmp_path)
    assert (tmp_path / "dev_data/raw" / CLIP).read_bytes() == other
    if etags:  # the server was told which file to go on with, and sent the new one at once
        assert server.gets == ["bytes=35000-"]


def test_unknown_length_is_accepted(server: Server, tmp_path: Path) -> None:
    config = offer(server, {CLIP: NOISE})
    server.faults = ["unknown length"]
    download(config, tmp_path)
    assert (tmp_path / "dev_data/raw" / CLIP).read_bytes() == NOISE


def test_more_bytes_than_announced(server: Server, tmp_path: Path) -> None:
    config = offer(server, {CLIP: NOISE})
    body = server.files["dev_fan.zip"]
    server.faults, server.announced = ["unknown length"], len(body) - 1
    with pytest.raises(AsdError, match=f"sends more than the {len(body) - 1:,} bytes .* is deleted.*configs/datasets"):
        download(config, tmp_path)
    assert not list((tmp_path / ".downloads").glob("*.part*"))


def test_wrong_content_is_kept_aside(server: Server, tmp_path: Path) -> None:
    config = offer(server, {CLIP: NOISE})
    server.files["dev_fan.zip"] = b"<html>please log in</html>"
    with pytest.raises(AsdError, match=r"MD5 is .* expected"):
        download(config, tmp_path)
    assert (tmp_path / ".downloads/dev_fan.zip.bad").read_bytes() == b"<html>please log in</html>"
    assert not (tmp_path / "dev_data").exists()
    unchecked = offer(server, {CLIP: NOISE}, md5=False)
    server.files["dev_fan.zip"] = b"<html>please log in</html>"
    with pytest.raises(AsdError, match="not a zip file but 26 bytes beginning with b'<html>"):
        download(unchecked, tmp_path)


def test_absent_file_and_dead_server(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = offer(server, {CLIP: NOISE})
    server.files.clear()
    with pytest.raises(AsdError, match="404 Not Found"):
        download(config, tmp_path)
    assert len(server.gets) == 1
    dead = config.model_copy(
        update={"archives": (config.archives[0].model_copy(update={"url": "http://127.0.0.1:9/dev_fan.zip"}),)}
    )
    with pytest.raises(AsdError, match="could not be received"):
        download(dead, tmp_path)


def test_cancelling_keeps_what_was_received(server: Server, tmp_path: Path) -> None:
    config = offer(server, {CLIP: NOISE})
    server.faults = [10_000]

    def stop(fraction: float, message: str, **_: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        download(config, tmp_path, progress=stop)
    assert (tmp_path / ".downloads/dev_fan.zip.part").stat().st_size == 10_000
    download(config, tmp_path)
    assert server.gets[-1] == "bytes=10000-"


def test_full_disk_is_noticed_before_the_start(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = offer(server, {CLIP: NOISE})
    usage = shutil.disk_usage(tmp_path)._replace(free=50_000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(AsdError, match="Make room"):
        download(config, tmp_path)
    assert server.gets == []


def test_two_archives_of_one_machine_share_its_folder(server: Server, tmp_path: Path) -> None:
    train = offer(server, {CLIP: NOISE, "fan/attributes_00.csv": b"train"}, "eval_data_fan_train.zip")
    test = offer(
        server, {"fan/test/section_00_0000.wav": NOISE, "fan/attributes_00.csv": b"test"}, "eval_data_fan_test.zip"
    )
    config = train.model_copy(update={"archives": train.archives + test.archives})
    assert len(download(config, tmp_path)) == 2
    fan = tmp_path / "dev_data/raw/fan"
    assert {p.name: p.read_bytes() for p in fan.glob("*.csv")} == {
        "attributes_00.csv": b"train",
        "attributes_00.eval_data_fan_test.csv": b"test",
    }
    assert len(scan(tmp_path).clips) == 2
    assert missing(config, tmp_path) == []


def test_killed_while_unpacking_leaves_no_machine(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill runs no clean-up: what lies in the work folder must not look like a machine, and is unpacked anew."""
    config = offer(server, {CLIP: NOISE})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_settle", killed)
        patch.setattr(module.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            download(config, tmp_path)
    assert list((tmp_path / ".downloads/unpack").rglob("*.wav"))
    with pytest.raises(AsdError, match="holds no clip"):
        scan(tmp_path)
    server.gets.clear()
    download(config, tmp_path)
    assert server.gets == []  # the archive was whole
    assert len(scan(tmp_path).clips) == 1
    assert not (tmp_path / ".downloads/unpack").exists()


def test_archive_fetched_by_browser_is_used(server: Server, tmp_path: Path) -> None:
    config = offer(server, {CLIP: NOISE})
    (tmp_path / ".downloads").mkdir()
    (tmp_path / ".downloads/dev_fan.zip").write_bytes(server.files.pop("dev_fan.zip"))
    download(config, tmp_path)
    assert (server.gets, len(scan(tmp_path).clips)) == ([], 1)


def test_one_download_at_a_time(server: Server, tmp_path: Path) -> None:
    config = offer(server, {CLIP: NOISE})
    (tmp_path / ".downloads").mkdir()
    with remote.only_one(tmp_path / ".downloads"), pytest.raises(AsdError, match="Another process"):
        download(config, tmp_path)


@pytest.mark.parametrize(
    ("name", "mode", "reason"),
    [
        ("../escaped.wav", stat.S_IFREG, "outside"),
        ("fan/../../escaped.wav", stat.S_IFREG, "outside"),
        ("/escaped.wav", stat.S_IFREG, "outside"),
        ("C:/escaped.wav", stat.S_IFREG, "outside"),
        ("..\\escaped.wav", stat.S_IFREG, "outside"),
        ("fan/train/link.wav", stat.S_IFLNK, "link or a device"),
        ("fan/train/device.wav", stat.S_IFBLK, "link or a device"),
    ],
)
def test_unsafe_entries_are_refused(server: Server, tmp_path: Path, name: str, mode: int, reason: str) -> None:
    body = packed({CLIP: NOISE, name: b"/etc/passwd"}.items(), mode=mode)
    check_refused(server, tmp_path / "inside", body, reason)
    assert not list(tmp_path.rglob("*escaped*"))


def test_bombs_and_damage_are_refused(server: Server, tmp_path: Path) -> None:
    check_refused(server, tmp_path / "a", packed({CLIP: bytes(10_000_000)}.items()), "at most 20 times")
    body = bytearray(packed({CLIP: NOISE}.items()))
    body[20_000] ^= 1
    check_refused(server, tmp_path / "b", bytes(body), "damaged")
    check_refused(server, tmp_path / "c", packed({"fan/readme.md": NOISE}.items()), "no .wav")
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = packed([(CLIP, NOISE), (CLIP, NOISE)])
    check_refused(server, tmp_path / "d", twice, "twice")


def test_declared_size_cannot_be_exceeded(server: Server, tmp_path: Path) -> None:
    """An archive whose directory understates a size must not write more than it announced."""
    body = packed({CLIP: NOISE + bytes(1_000_000)}.items())
    true = (len(NOISE) + 1_000_000).to_bytes(4, "little")
    assert body.count(true) == 2  # local header and directory
    check_refused(server, tmp_path / "x", body.replace(true, (1000).to_bytes(4, "little")), "damaged")


def check_refused(server: Server, folder: Path, body: bytes, reason: str) -> None:
    config = offer(server, {CLIP: NOISE}, md5=False)
    server.files["dev_fan.zip"] = body
    with pytest.raises(AsdError, match=reason):
        download(config, folder)
    assert [p.name for p in folder.iterdir()] == [".downloads"]
    assert (folder / ".downloads/dev_fan.zip.bad").read_bytes() == body
    assert not list((folder / ".downloads").rglob("*.wav"))


def test_unknown_words_are_answered_with_the_known_ones(server: Server, tmp_path: Path) -> None:
    config = offer(server, {CLIP: NOISE})
    with pytest.raises(AsdError, match=r'no machine "fann".*Did you mean "fan"'):
        download(config, tmp_path, machines=["fann"])
    with pytest.raises(AsdError, match=r'no part "eval".*It has: dev'):
        download(config, tmp_path, parts=["eval"])
    with pytest.raises(AsdError, match=r"no archives.*make demo"):
        download(load_dataset_config("demo"), tmp_path)
    with pytest.raises(AsdError, match=r'no data set "dcase2062".*Did you mean "dcase2026"'):
        load_dataset_config("dcase2062")


def test_catalogue_of_2026(tmp_path: Path) -> None:
    config = load_dataset_config("dcase2026")
    assert {"dcase2026", "demo"} <= set(dataset_names())
    records = {"dev": "19336329", "eval_train": "20151556", "eval_test": "20437238"}
    count = dict.fromkeys(records, 0)
    for archive in config.archives:
        count[archive.part] += 1
        assert archive.url == f"https://zenodo.org/records/{records[archive.part]}/files/{archive.name}"
    assert count == {"dev": 7, "eval_train": 5, "eval_test": 5}
    assert [a.name for a in missing(config, tmp_path, machines=["ToyCar"])] == ["dev_ToyCar_r2.zip"]
    chosen = missing(config, tmp_path, machines=["Sander"], parts=["eval_test"])
    assert [(a.name, a.md5) for a in chosen] == [("eval_data_Sander_test.zip", "05f81c9a80e91c7b3cea15f8e8559b44")]
    assert sum(a.md5 is not None for a in config.archives) == 11


@pytest.mark.parametrize(
    ("key", "value"), [("url", "ftp://x/y.zip"), ("md5", "123"), ("folder", "../up"), ("part", "test"), ("sha", "1")]
)
def test_descriptions_are_checked(key: str, value: str) -> None:
    archive = {"machine": "fan", "part": "dev", "url": "https://x.org/dev_fan.zip", key: value}
    described = {"name": "x", "kind": "k", "root": "r", "how_to_get": "h", "archives": [archive]}
    with pytest.raises(AsdError, match=key):
        validate(DatasetConfig, json.loads(json.dumps(described)), "x.yaml")
