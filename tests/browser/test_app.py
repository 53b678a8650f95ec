"""The app in a browser: what only a browser can tell. One server per module, except where a fresh one is the point."""

import urllib.error
import urllib.request

import pytest

from asd_core import jobs
from tests.app import example
from tests.browser.driver import heading, needs_browser, serving

pytestmark = needs_browser


def test_a_deep_link_may_be_the_first_request_of_a_server(tab, workspace):
    clip_id = "valve/test/section_00_target_test_anomaly_0001_speed_9.wav"
    with serving(workspace) as address:
        tab.goto(f"{address}/results?machine=valve&clip={clip_id}&show=By+name")
        heading(tab, "section_00_target_test_anomaly_0001_speed_9")
        navigation = tab.get_by_test_id("stSidebar")
        assert [
            navigation.get_by_text(name, exact=True).count() for name in ("Home", "Results", "Train", "Export")
        ] == [1] * 4
        assert "machine=valve" in tab.url
        assert f"clip={clip_id.rpartition('/')[2]}" in tab.url.replace("valve%2Ftest%2F", "")
        navigation.get_by_text("Train", exact=True).click()
        heading(tab, "Train")
        tab.goto("about:blank")  # a tab left behind would complain about the server's end


def test_from_the_table_to_the_sound(tab, server):
    answers: dict[str, int] = {}
    tab.on("response", lambda response: answers.update({response.url: response.status}))
    tab.goto(f"{server}/results?machine=fan&show=By+name")
    heading(tab, "Clips")
    first = tab.locator(".st-key-clip_view img").first
    first.wait_for()
    assert first.evaluate("image => image.decode().then(() => image.naturalHeight)") == 256
    before = tab.url
    tab.keyboard.press("j")
    tab.wait_for_function("before => location.href !== before", arg=before)
    heading(tab, "section_00_source_test_anomaly_0001")
    table = tab.locator(".st-key-clips [data-testid='stDataFrame']")
    table.scroll_into_view_if_needed()
    before, box = tab.url, table.bounding_box()
    tab.mouse.click(box["x"] + 16, box["y"] + 36 + 44 * 4.5)  # the tick box of the fifth row
    tab.wait_for_function("before => location.href !== before", arg=before)
    assert "normal_0000" in tab.url
    heading(tab, "section_00_source_test_normal_0000")
    near, far = (tab.locator(".st-key-clip_view audio").nth(i) for i in (0, 1))
    near.evaluate("async sound => { sound.muted = true; await sound.play() }")
    tab.wait_for_function("sound => sound.currentTime > 0.1", arg=near.element_handle())
    assert near.evaluate("sound => sound.duration") == pytest.approx(2.0, abs=0.01)
    far.evaluate("async sound => { sound.muted = true; await sound.play() }")
    assert near.evaluate("sound => sound.paused"), "one channel at a time"
    sounds = {url: status for url, status in answers.items() if "/asd/sounds/" in url}
    assert set(sounds.values()) == {206}
    pictures = {url: status for url, status in answers.items() if "/asd/spectrograms/" in url}
    assert set(pictures.values()) == {200}


def test_a_training_survives_the_tab_and_the_server(tab, tmp_path):
    workspace = example.build(tmp_path)
    with serving(workspace) as address:
        port = int(address.rpartition(":")[2])
        tab.goto(f"{address}/train?system=logmel-maha")
        tab.get_by_role("button", name="Train with seed 1").click()
        tab.get_by_test_id("stProgress").first.wait_for()
        tab.reload()
        tab.get_by_text("last sign of life").wait_for()
        (job,) = jobs.list_jobs(workspace.jobs)
        assert f"job={job.id}" in tab.url
        tab.goto("about:blank")
    assert jobs.read(job.folder).state == jobs.RUNNING
    with serving(workspace, port) as address:
        tab.goto(f"{address}/train?job={job.id}")
        tab.get_by_text("last sign of life").wait_for()
        tab.locator(f".st-key-cancel_{job.id}").get_by_role("button", name="Cancel").click()
        tab.locator(f".st-key-resume_{job.id}").wait_for()
        assert jobs.read(job.folder).state == jobs.CANCELLED
        tab.get_by_text("No job running.").wait_for()  # by now nothing looks again by itself
        tab.locator(f".st-key-resume_{job.id}").get_by_role("button", name="Resume").click()
        progress = tab.get_by_test_id("stMain").get_by_test_id("stProgress")
        seen = progress.inner_text()
        tab.wait_for_function(
            "seen => !document.querySelector('[data-testid=stMain] [data-testid=stProgress]').innerText.includes(seen)",
            arg=seen.partition("·")[0].strip(),
        )  # a resumed job is watched, not only started
        jobs.cancel(job.folder, force=True)
        tab.locator(f".st-key-resume_{job.id}").wait_for()
        tab.goto("about:blank")


def test_routes_are_for_this_machine_and_for_known_ids(server, workspace):
    def status(path: str, **headers: str) -> tuple[int, dict]:
        try:
            with urllib.request.urlopen(urllib.request.Request(server + path, headers=headers)) as answer:
                return answer.status, dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, {}

    good = "/asd/sounds/workshop/far/fan/test/section_00_source_test_normal_0000_speed_1.wav"
    code, headers = status(good, Range="bytes=0-99")
    assert (code, headers["x-content-type-options"]) == (206, "nosniff")
    assert status(good, Host="example.org")[0] == 400
    for bad in ("workshop/near/../../../etc/passwd", "workshop/near/%2e%2e/%2e%2e/secret.wav", "nowhere/near/x.wav"):
        assert status(f"/asd/sounds/{bad}")[0] in (400, 404)
    assert status(good.replace("/far/", "/middle/"))[0] == 404
