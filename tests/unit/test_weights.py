"""The catalogue of published checkpoints, and getting them: from a server of our own, from a file, damaged later."""

import hashlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from rich.text import Text

from asd_core import api, config, remote, terminal, weights
from asd_core.__main__ import main
from asd_core.backbones import pretrained
from asd_core.types import AsdError, Cancelled

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"
BEATS = (GOLDEN / "beats_tiny.pt").read_bytes()
EAT = (GOLDEN / "eat_tiny_hf_pretrain.safetensors").read_bytes()


class Server(ThreadingHTTPServer):
    """Serves `files`; every GET takes the next fault of `faults`: a status, or bytes after which it hangs up."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[str | int] = []
        self.gets: list[str | None] = []
        self.sizes = True
        self.endless = 0  # bytes that follow an answer without a length

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        body = self.server.files.get(self.path.lstrip("/"))
        self.send_response(200 if body is not None and self.server.sizes else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.gets.append(wanted)
        fault = server.faults.pop(0) if server.faults else None
        body = server.files.get(self.path.lstrip("/"))
        if body is None or fault == "busy":
            self.send_response(404 if body is None else 503)
            self.end_headers()
            return
        if server.endless:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                for _ in range(server.endless // 100_000):
                    self.wfile.write(bytes(100_000))
            self.close_connection = True
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start : start + fault] if isinstance(fault, int) else body[start:])
        self.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASD_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> Callable[..., None]:
    """Write a catalogue of two small checkpoints, BEATs for the browser and EAT from the server."""
    monkeypatch.setattr(weights, "CATALOGUE", tmp_path / "catalogue.yaml")
    server.files["eat.safetensors"] = EAT

    def write(**changes: object) -> None:
        told = {"page": "https://example.org", "licence": "MIT", "trained_on": "noise", "dcase2026": "no"}
        beats = {"name": "small_beats", "title": "Small BEATs", "family": "beats", "file": "small.pt", **told}
        eat = {"name": "small_eat", "title": "Small EAT", "family": "eat", "file": "eat.safetensors", **told}
        eat |= {"url": f"{server.url}/eat.safetensors"}
        tuned = {"name": "tuned_beats", "title": "Tuned", "family": "beats", "file": "ft.pt", "classes": 7, **told}
        (tmp_path / "catalogue.yaml").write_text(yaml.safe_dump({"checkpoints": [beats, eat | changes, tuned]}))

    write()
    return write


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["asd_core", "weights", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, " ".join(said.err.split())

    return call


def fetch(name: str = "small_eat") -> Path:
    return weights.fetch(name, pretrained.read)


def state(name: str) -> str:
    return weights.status(weights.find(name)).state


# ------------------------------------------------------------------ the catalogue


def test_the_catalogue_as_it_is() -> None:
    listed = weights.catalogue()
    assert [*listed] == [
        "beats_iter3",
        "beats_iter3_plus_as2m",
        "beats_iter3_plus_as2m_finetuned_cpt1",
        "beats_iter3_plus_as2m_finetuned_cpt2",
        "eat_base_pretrain",
        "eat_base_finetune_as2m",
    ]
    assert listed["beats_iter3_plus_as2m"].bytes == 361_499_833
    assert listed["eat_base_pretrain"].bytes == 359_905_840
    for one in listed.values():
        assert (one.classes == 527) == ("fine" in one.name), "the reader tells fine-tuned files by their classifier"
        assert one.sha256 is None, "none is published where it could be read"
        assert (one.url is None) == (one.family == "beats")
        assert (one.link is None) == (one.family == "eat")
        assert "task's list" in one.dcase2026


def test_every_checkpoint_that_a_system_names_is_known() -> None:
    assert set(weights.used_by()) <= {*weights.catalogue(), *weights.embedded()}
    assert not set(weights.catalogue()) & set(weights.embedded())


def test_users_are_told_from_systems_and_their_variants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = config.load_system("neu-1").model_dump(exclude_unset=True)["encoders"]["multiresnet"]

    def system(name: str, checkpoint: str | None, **more: object) -> config.System:
        own = encoder | {"backbone": {"name": "beats", "checkpoint": checkpoint}}
        text = {"name": name, "title": "t", "idea": "i", "family": "f", "encoders": {"e": own}}
        branches = [{"name": "b", "encoder": "e", "scorer": {"name": "knn"}}]
        return config.validate(config.System, text | {"branches": branches} | more, name)

    other = {"encoders": {"e": {"backbone": {"checkpoint": "y"}}}}
    systems = {"a": system("a", "x", variants={"other": other, "same": {"title": "u"}}), "b": system("b", None)}
    monkeypatch.setattr(weights, "system_names", lambda: [*systems, "broken"])

    def load(name: str) -> config.System:
        if name == "broken":
            raise AsdError("not valid")
        return systems[name]

    monkeypatch.setattr(weights, "load_system", load)
    assert weights.used_by() == {"x": ["a"], "y": ["a+other"]}


@pytest.mark.parametrize(
    "change",
    [{"file": "../up.pt"}, {"file": "x.zip"}, {"sha256": "12"}, {"url": "ftp://x"}, {"bytes": 0}, {"family": "clap"},
     {"name": "small_beats"}, {"file": "small.pt"}, {"sha": None}],
)  # fmt: skip
def test_the_catalogue_is_checked(known, change: dict) -> None:
    known(**change)
    with pytest.raises(AsdError, match=r"catalogue\.yaml is not a valid catalogue"):
        weights.catalogue()


def test_the_folder_is_the_repositorys_unless_told(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    assert weights.folder() == place
    monkeypatch.delenv("ASD_WEIGHTS")
    assert weights.folder() == config.CONFIGS.parent / "weights"
    assert "/weights/" in (config.CONFIGS.parent / ".gitignore").read_text().split()


# ------------------------------------------------------------------ finding


def test_a_missing_checkpoint_says_where_it_belongs_and_how_to_get_it(place: Path) -> None:
    with pytest.raises(AsdError) as caught:
        weights.locate("beats_iter3_plus_as2m")
    said = str(caught.value)
    assert f"belongs at {place / 'BEATs_iter3_plus_AS2M.pt'} (361 MB, licence MIT)" in said
    assert "weights import FILE --as beats_iter3_plus_as2m" in said
    assert "quick" in said
    with pytest.raises(AsdError, match="weights fetch eat_base_pretrain"):
        weights.locate("eat_base_pretrain")
    assert not place.exists(), "looking must not write"


def test_paths_and_unknown_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.pt").write_bytes(BEATS)
    assert weights.locate(str(tmp_path / "own.pt")) == tmp_path / "own.pt"
    monkeypatch.chdir(tmp_path)
    assert weights.locate("own.pt") == tmp_path / "own.pt"
    with pytest.raises(AsdError, match=r"no checkpoint file /.*other\.pt.*or one of: studio_mini, beats_iter3"):
        weights.locate("other.pt")
    with pytest.raises(AsdError, match=r'no checkpoint "beats_iter4".*Did you mean "beats_iter3"'):
        weights.locate("beats_iter4")


# ------------------------------------------------------------------ fetching


def test_fetch_checks_and_records(known, server: Server, place: Path) -> None:
    told: list[float] = []
    path = weights.fetch("small_eat", pretrained.read, lambda fraction, message, **_: told.append(fraction))
    assert (path, path.read_bytes()) == (place / "eat.safetensors", EAT)
    assert all(0 <= fraction <= 1 for fraction in told)
    found = weights.status(weights.find("small_eat"))
    assert (found.state, found.sha256) == ("present", hashlib.sha256(EAT).hexdigest())
    assert weights.locate("small_eat") == path
    fetch()
    assert len(server.gets) == 1, "what is there is not fetched again"
    assert sorted(p.name for p in place.rglob("*") if p.is_file()) == [
        "eat.safetensors",
        "eat.safetensors.json",
        "lock",
    ]


def test_fetch_resumes_within_and_across_calls(known, server: Server) -> None:
    server.faults = [100_000, 50_000, "busy"]
    assert fetch().read_bytes() == EAT
    assert server.gets == [None, "bytes=100000-", "bytes=150000-", "bytes=150000-"]


def test_fetch_resumes_in_a_later_call(known, server: Server, place: Path) -> None:
    server.faults = [100_000, *["busy"] * (remote.TRIES - 1)]
    with pytest.raises(AsdError, match=r"503.*tries in a row.*kept; repeat"):
        fetch()
    assert state("small_eat") == "absent"
    server.gets.clear()
    assert fetch().read_bytes() == EAT
    assert server.gets == ["bytes=100000-"]


def test_cancelling_keeps_what_was_received(known, server: Server, place: Path) -> None:
    server.faults = [100_000]

    def stop(*_: object, **__: object) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        weights.fetch("small_eat", pretrained.read, stop)
    fetch()
    assert server.gets[-1] == "bytes=100000-"


def test_another_size_is_noticed_before_anything_is_received(known, server: Server) -> None:
    known(bytes=359_905_840)
    with pytest.raises(AsdError, match=r"offers 633,064 bytes, but eat\.safetensors has 359,905,840"):
        fetch()
    assert server.gets == []
    server.sizes = False  # the server does not tell beforehand
    with pytest.raises(AsdError, match=r"\.bad has 633,064 bytes, but eat\.safetensors is known to have 359,905,840"):
        fetch()


def test_another_digest_is_kept_aside(known, place: Path) -> None:
    known(bytes=len(EAT), sha256=64 * "0")
    with pytest.raises(
        AsdError, match=f"has the SHA-256 .* known to have {64 * '0'}.*checkpoint: .*received from http"
    ):
        fetch()
    assert (place / ".downloads" / "eat.safetensors.bad").read_bytes() == EAT
    assert state("small_eat") == "absent"
    known(sha256=hashlib.sha256(EAT).hexdigest())
    assert fetch().read_bytes() == EAT


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>", "a web page"),
        (EAT[:300_000], "ends after 300,000 of 633,064 bytes"),
        (
            BEATS,
            'holds BEATs without classifier, but "small_eat" is EAT without classifier. It may be one of: small_beats',
        ),
    ],
)
def test_wrong_content_never_gets_its_place(known, server: Server, place: Path, content: bytes, said: str) -> None:
    server.files["eat.safetensors"] = content
    with pytest.raises(AsdError) as caught:
        fetch()
    assert said in str(caught.value)
    assert str(place / ".downloads" / "eat.safetensors.bad") in str(caught.value)
    assert state("small_eat") == "absent"


@pytest.mark.parametrize("source", ["published", "announced", "nobody tells"])
def test_more_bytes_than_there_should_be(
    known, server: Server, place: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    known(bytes=len(EAT) if source == "published" else None)
    server.endless, server.sizes = 60_000_000, source != "nobody tells"
    monkeypatch.setattr(remote, "LARGEST", 1_000_000)
    limit = 1_000_000 if source == "nobody tells" else len(EAT)
    with pytest.raises(AsdError, match=f"sends more than the {limit:,} bytes .* is deleted.*weights.yaml"):
        fetch()
    assert [path.name for path in (place / ".downloads").iterdir() if path.name != "lock"] == []
    server.endless = 0
    assert fetch().read_bytes() == EAT


@pytest.mark.parametrize("note", ["[]", "7", "{}", "{", '{"url": "URL"}', '{"url": "URL", "etag": 5, "size": "x"}'])
def test_a_note_that_is_none(known, server: Server, place: Path, note: str) -> None:
    """Such as one of another version: what was received is received anew."""
    part = place / ".downloads" / "eat.safetensors.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x")
    part.with_name(f"{part.name}.json").write_text(note.replace("URL", f"{server.url}/eat.safetensors"))
    assert fetch().read_bytes() == EAT


def test_names_from_a_file_do_not_steer_the_terminal(cli, place: Path, tmp_path: Path) -> None:
    torch.save({"\x1b]0;owned\x07\x1b[31m [bold]red": torch.zeros(1)}, tmp_path / "BEATs_iter3.pt")
    code, _, err = cli("import", tmp_path / "BEATs_iter3.pt")
    assert code == 1
    assert "[bold]red" in err
    assert err.isprintable()


def test_consoles_print_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.out.print("\x1b[31mred\x07", Text("\x1b[0m"))
    terminal.print_table(pd.DataFrame({"\x1ba": ["\x1bb"]}), "\x1bc")
    said = capsys.readouterr().out
    assert "red" in said
    assert said.replace("\n", "").isprintable()


def test_gone_from_the_server(known, server: Server) -> None:
    server.files.clear()
    with pytest.raises(AsdError, match=r"404 Not Found.*correct its url in configs/weights\.yaml"):
        fetch()
    assert len(server.gets) == 1


def test_only_a_browser_gets_it(known) -> None:
    with pytest.raises(AsdError, match=r"no address.*weights import FILE --as small_beats"):
        fetch("small_beats")


def test_full_disk(known, server: Server, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(place.parent)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(AsdError, match="Make room"):
            fetch()
        with pytest.raises(AsdError, match="Make room"):
            weights.import_file(GOLDEN / "beats_tiny.pt", "small_beats", pretrained.read)
    assert server.gets == []

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(remote, "_append", full)
        with pytest.raises(AsdError, match=r"could not be written \(No space left"):
            fetch()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(AsdError, match="disk is full"):
            weights.import_file(GOLDEN / "beats_tiny.pt", "small_beats", pretrained.read)
    assert not list(place.glob("*.p*t")), "no half file stays"


def test_one_fetch_at_a_time(known, place: Path) -> None:
    with remote.only_one(place / ".downloads"), pytest.raises(AsdError, match="Another process"):
        fetch()


# ------------------------------------------------------------------ files that are there


def test_import_checks_copies_and_records(known, place: Path) -> None:
    path = weights.import_file(GOLDEN / "beats_tiny.pt", "small_beats", pretrained.read)
    assert (path, path.read_bytes()) == (place / "small.pt", BEATS)
    assert state("small_beats") == "present"
    with pytest.raises(AsdError, match=r'holds BEATs fine-tuned for 7 classes, but "small_beats".*one of: tuned_beats'):
        weights.import_file(GOLDEN / "beats_tiny_ft.pt", "small_beats", pretrained.read)
    assert path.read_bytes() == BEATS, "a refused import leaves what was there"
    weights.import_file(path, "small_beats", pretrained.read)  # already in its place
    assert path.read_bytes() == BEATS


def test_the_configuration_of_hugging_face_comes_along(known, place: Path) -> None:
    path = weights.import_file(GOLDEN / "eat_tiny_hf_pretrain.safetensors", "small_eat", pretrained.read)
    assert pretrained.read_config(path).config["num_heads"] == 4
    assert (place / "eat_config.json").is_file()


def test_an_earlier_configuration_does_not_stay_beside_another_file(known, place: Path, tmp_path: Path) -> None:
    weights.import_file(GOLDEN / "eat_tiny_hf_pretrain.safetensors", "small_eat", pretrained.read)
    alone = shutil.copyfile(GOLDEN / "eat_tiny_hf_pretrain.safetensors", tmp_path / "alone.safetensors")
    path = weights.import_file(alone, "small_eat", pretrained.read)
    assert not (place / "eat_config.json").exists()
    assert pretrained.read_config(path).notes == pretrained.read_config(alone).notes != ()


def test_a_file_put_there_by_hand_is_never_overwritten(known, place: Path) -> None:
    place.mkdir()
    for state_before in ("unverified", "damaged"):
        (place / "eat.safetensors").write_bytes(b"mine")
        assert state("small_eat") == "unverified"
        if state_before == "damaged":
            assert weights.verify("small_eat", pretrained.read).state == "damaged"
        assert fetch().read_bytes() == EAT
        kept = place / ".downloads" / "eat.safetensors.bad"
        assert kept.read_bytes() == b"mine"
        for file in (kept, place / "eat.safetensors.json"):
            file.unlink()


def test_a_file_put_there_by_hand(known, place: Path) -> None:
    place.mkdir()
    (place / "small.pt").write_bytes(BEATS)
    assert state("small_beats") == "unverified"
    assert weights.locate("small_beats") == place / "small.pt"
    assert weights.verify("small_beats", pretrained.read).state == "present"
    assert json.loads((place / "small.pt.json").read_text())["origin"] == "put there by hand"


def test_damage_is_noticed_and_mended(known, place: Path) -> None:
    path = fetch()
    with path.open("r+b") as file:  # a bit that still is a finite number
        file.seek(-4, os.SEEK_END)
        file.write(b"\x00\x00\x80\x3f")
    os.utime(path, ns=(0, 0))
    assert state("small_eat") == "unverified"
    found = weights.verify("small_eat", pretrained.read)
    assert found.state == "damaged"
    assert hashlib.sha256(EAT).hexdigest() in found.problem
    with pytest.raises(AsdError, match=r'"small_eat" is damaged: .*recorded.*weights fetch small_eat'):
        weights.locate("small_eat")
    assert fetch().read_bytes() == EAT
    assert state("small_eat") == "present"
    path.write_bytes(EAT[:-1])
    assert state("small_eat") == "damaged", "sizes are looked at always"
    assert "not received completely" in weights.verify("small_eat", pretrained.read).problem
    assert weights.verify("small_beats", pretrained.read).state == "absent"
    (place / "eat.safetensors.json").write_text("{")  # a broken record is none
    path.write_bytes(EAT)
    assert state("small_eat") == "unverified"


# ------------------------------------------------------------------ the command line


def test_commands(known, cli, place: Path, tmp_path: Path) -> None:
    code, out, _ = cli("list", "--json")
    assert (code, [row["state"] for row in json.loads(out)]) == (0, ["absent"] * 3)
    code, out, err = cli("fetch", "small_eat")
    assert (code, err) == (0, f"small_eat: {place / 'eat.safetensors'}")
    code, _, err = cli("fetch")
    assert code == 1
    assert "No system needs" in err
    shutil.copyfile(GOLDEN / "beats_tiny.pt", tmp_path / "SMALL.PT")
    assert cli("import", tmp_path / "SMALL.PT")[0] == 0
    code, _, err = cli("import", GOLDEN / "beats_tiny_ft.pt")
    assert code == 1
    assert "say which it is with --as" in err
    assert cli("import", GOLDEN / "beats_tiny_ft.pt", "--as", "tuned_beats")[0] == 0
    code, out, _ = cli("verify")
    assert (code, out.count("sound, SHA-256")) == (0, 3)
    (place / "ft.pt").write_bytes(b"")
    (place / "small.pt").unlink()
    code, out, err = cli("verify", "small_beats", "small_eat", "tuned_beats")
    assert (code, out.count("sound")) == (1, 1)
    assert "small_beats: there is no file" in err
    assert "tuned_beats: " in err
    code, out, err = cli("list")
    assert code == 0
    assert all(word in out for word in ("absent", "present", "damaged", "a browser, then import"))
    code, _, err = cli("verify", "small_cat")
    assert code == 1
    assert 'Did you mean "small_eat"' in err


def test_nothing_there(known, cli, place: Path) -> None:
    code, out, _ = cli("verify")
    assert (code, out) == (0, f"There is no checkpoint in {place}.\n")


def test_the_catalogue_needs_no_learning_library() -> None:
    import subprocess

    code = "import sys; from asd_core import api; api.checkpoints(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=config.CONFIGS.parent, check=True)


def test_jobs_are_refused_for_what_cannot_be_fetched(known, tmp_path: Path) -> None:
    workspace = api.Workspace(tmp_path / "workspace")
    for name in ("nothing", "small_beats"):
        with pytest.raises(AsdError):
            api.start_fetch(workspace, name)
    with pytest.raises(AsdError):
        api.start_verify(workspace, "../../etc/passwd")
    assert api.all_jobs(workspace) == []
    assert api.import_arguments("small_beats")[-1] == "small_beats"
