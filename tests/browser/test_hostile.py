"""A visitor who means harm: what they ask for, name and drop, and what they get."""

import http.client
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest

from asd_core import api, jobs
from asd_core.artifacts import Workspace
from asd_core.data import audio
from asd_core.data.manifest import scan
from asd_core.files import write_json
from pages.shell.places import PLACES
from tests.app import example
from tests.browser.driver import address_has, needs_browser, serving

pytestmark = needs_browser
PAGES = [name for places in PLACES.values() for name, *_ in places]
MARKUP = "speed_<img src=x onerror=window.pwned=1>![x](https:evil.example)[y](javascript:window.pwned=1)"
GOOD = "/asd/sounds/workshop/far/fan/test/section_00_source_test_normal_0000_speed_1.wav"


def answer(server: str, path: str, **headers: str) -> tuple[int, bytes]:
    """Status and body; the path goes out exactly as it stands here."""
    connection = http.client.HTTPConnection(server.removeprefix("http://"), timeout=30)
    connection.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    found = connection.getresponse()
    return found.status, found.read()


CLIMBING = ("../../../../../../etc/passwd", "%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "..%2f..%2f..%2fetc%2fpasswd",
            "/etc/passwd", "%00", "....//....//etc/passwd", "fan/test/../../../../../etc/passwd", "%5c..%5c..")  # fmt: skip
ROUTES = ("sounds/workshop/near/{}", "sounds/workshop/both/{}", "sounds/{}/near/x.wav", "sounds/generated:{}/both/x.wav",
          "sounds/uploads:{}/both/x.wav", "spectrograms/workshop/near-mel/{}", "spectrograms/workshop/{}/x.wav",
          "difference/workshop/near-mel/{}", "anomaly/{}/x.wav", "anomaly/logmel-maha--workshop--quick--seed0/{}")  # fmt: skip


@pytest.mark.parametrize("route", ROUTES)
def test_no_route_leaves_the_workspace(server, route):
    for climbing in CLIMBING:
        status, body = answer(server, "/asd/" + route.format(climbing))
        assert status in (400, 404) or b"<!doctype html>" in body.lower(), climbing  # the app's own front page
        assert b"root:" not in body


def test_only_this_machine_is_served(server):
    host = server.removeprefix("http://")
    assert answer(server, GOOD)[0] == 200
    assert answer(server, GOOD, Range="bytes=0-99")[0] == 206
    assert answer(server, GOOD, Host="example.org")[0] == 400
    assert answer(server, "/", Host="example.org")[0] == 400
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    assert answer(server, "/_stcore/stream", Origin="http://example.org", **upgrade)[0] == 403
    assert answer(server, "/_stcore/stream", Host="example.org", Origin=f"http://{host}", **upgrade)[0] in (400, 403)


def test_no_foreign_page_may_read_or_frame(server):
    with urllib.request.urlopen(server + GOOD) as found:
        headers = found.headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert "access-control-allow-origin" not in headers


@pytest.fixture(scope="module")
def marked_up(tmp_path_factory) -> Workspace:
    """Recordings whose names are markup."""
    folder = tmp_path_factory.mktemp("marked")
    rng = np.random.default_rng(0)
    names = [f"train/section_00_source_train_normal_{i:04d}_{MARKUP}.wav" for i in range(6)]
    names += [
        f"test/section_00_{domain}_test_{label}_{i:04d}_{MARKUP}.wav"
        for domain in ("source", "target")
        for label in ("normal", "anomaly")
        for i in range(2)
    ]
    for name in names:
        audio.write(folder / "sounds" / "fan" / name, 0.1 * rng.standard_normal((2, 8000)))
    data = scan(folder / "sounds", "marked", "local recordings")
    workspace = Workspace(folder / "workspace")
    about = {"name": data.name, "kind": "<b>local</b>", "root": str(data.root)}
    write_json(workspace.dataset(data.name) / "dataset.json", about)
    for system in ("logmel-maha", "logmel-knn"):
        example.add_run(workspace, data, system, 1.0)
    return workspace


def test_names_are_text_everywhere(tab, marked_up):
    foreign: list[str] = []
    with serving(marked_up) as address:
        tab.on("request", lambda request: None if request.url.startswith(
            (address, address.replace("http", "ws"), "data:", "blob:")) else foreign.append(request.url))  # fmt: skip
        clip = api.runs(marked_up)[0].scores["clip_id"].iloc[-1]
        for page in PAGES[1:]:
            tab.goto(f"{address}/{page}?{urllib.parse.urlencode({'clip': clip, 'show': 'By name'})}")
            tab.get_by_role("heading").first.wait_for()
            tab.wait_for_function(
                "() => document.querySelector('[data-testid=stApp]').dataset.testScriptState !== 'running'"
            )
            assert tab.evaluate("() => window.pwned") is None
            assert tab.locator("img[src='x']").count() == 0
            assert tab.locator("a[href^='javascript'], a[href*='evil.example']").count() == 0
        tab.goto("about:blank")
    assert not foreign


def test_two_tabs_pressing_train_make_one_job(chromium, tmp_path):
    workspace = example.build(tmp_path)
    with serving(workspace) as address:
        tabs = [chromium.new_page() for _ in range(2)]
        buttons = []
        for one in tabs:
            one.set_default_timeout(30_000)
            one.goto(f"{address}/train?system=logmel-maha")
            buttons.append(one.get_by_role("button", name="Train with seed 1"))
            buttons[-1].wait_for()
        for button in buttons:
            button.click(no_wait_after=True)
        for one in tabs:
            one.get_by_text("last sign of life").wait_for()
        (job,) = jobs.list_jobs(workspace.jobs)
        for one in tabs:
            address_has(one, f"job={job.id}")
            one.close()
        jobs.cancel(job.folder, force=True)
