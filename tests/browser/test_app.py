"""The app in a browser: what only a browser can tell. One server per module, except where a fresh one is the point."""

import os
import signal

from asd_core import jobs
from asd_core.files import read_json
from tests.app import example
from tests.browser.driver import address_has, heading, needs_browser, serving, settled

pytestmark = needs_browser


def test_a_deep_link_may_be_the_first_request_of_a_server(tab, workspace):
    clip_id = "valve/test/section_00_target_test_anomaly_0001_speed_9.wav"
    with serving(workspace) as address:
        tab.goto(f"{address}/results?machine=valve&clip={clip_id}&show=By+name")
        heading(tab, "target_test_anomaly_0001_speed_9")
        navigation = tab.get_by_test_id("stSidebar")
        for name in ("Home", "Results", "Train", "Export"):
            navigation.get_by_text(name, exact=True).wait_for()  # exactly one: two would be an error
        address_has(tab, "machine=valve")
        address_has(tab, f"clip={clip_id}")
        navigation.get_by_text("Train", exact=True).click()
        heading(tab, "Train")
        tab.goto("about:blank")  # a tab left behind would complain about the server's end


def opened(tab) -> None:
    """Wait for the first clip by name and its player."""
    heading(tab, "source_test_anomaly_0000")
    tab.wait_for_function("() => window.find()?.dataset.state === 'paused'")
    settled(tab)


def test_from_the_table_to_the_sound(tab, server):
    answers: dict[str, int] = {}
    tab.on("response", lambda response: answers.update({response.url: response.status}))
    tab.goto(f"{server}/results?machine=fan&show=By+name")
    opened(tab)
    tab.keyboard.press("j")
    heading(tab, "source_test_anomaly_0001")
    settled(tab)
    table = tab.locator(".st-key-clips [data-testid='stDataFrame']")
    table.scroll_into_view_if_needed()
    box = table.bounding_box()
    tab.mouse.click(box["x"] + 16, box["y"] + 36 + 44 * 4.5)  # the tick box of the fifth row
    heading(tab, "source_test_normal_0000")
    address_has(tab, "normal_0000")
    tab.wait_for_function(
        "() => window.find()?.dataset.clip.includes('normal_0000') && find().dataset.state === 'paused'"
    )
    tab.keyboard.press("Space")
    tab.wait_for_function("() => window.find().player.rms() > 0 && window.find().player.time() > 0.1")
    assert {status for url, status in answers.items() if "/asd/sounds/" in url} <= {200, 206}
    assert {status for url, status in answers.items() if "/asd/spectrograms/" in url} == {200}


def test_a_cell_stands_for_its_row(tab, server):
    tab.goto(f"{server}/results?machine=fan&show=By+name")
    opened(tab)
    table = tab.locator(".st-key-clips [data-testid='stDataFrame']")
    table.scroll_into_view_if_needed()
    box = table.bounding_box()
    tab.mouse.click(box["x"] + 70, box["y"] + 36 + 44 * 2.5)  # the thumbnail
    heading(tab, "source_test_anomaly_0002")
    settled(tab)
    tab.keyboard.press("ArrowDown")
    heading(tab, "source_test_anomaly_0003")
    settled(tab)
    tab.keyboard.press("k")
    heading(tab, "source_test_anomaly_0002")
    settled(tab)
    tab.mouse.click(box["x"] + 16, box["y"] + 36 + 44 * 0.5)  # its tick box
    heading(tab, "source_test_anomaly_0000")


def test_typing_is_no_command(tab, server):
    tab.goto(f"{server}/results?machine=fan&show=By+name")
    opened(tab)
    tab.get_by_label("Name or attribute").click()
    tab.keyboard.type("jk normal")
    tab.keyboard.press("Enter")
    tab.get_by_text("No clip fits").wait_for()
    address_has(tab, "text=jk")
    tab.get_by_label("Name or attribute").fill("normal")
    tab.keyboard.press("Enter")
    tab.get_by_text("8 of 16").wait_for()
    heading(tab, "source_test_normal_0000")  # the first of them: neither J nor K was a command


def test_every_click_on_a_filter_counts(tab, server):
    tab.goto(f"{server}/results?machine=fan&show=By+name")
    opened(tab)
    for count in ("8 of 16", "16 of 16", "8 of 16"):  # the tables say again what is picked in them, which is no wish
        tab.locator(".st-key-domain button").nth(1).click()
        tab.get_by_text(count).first.wait_for()
        settled(tab)


def test_a_click_sends_little(tab, server):
    received = [0]
    tab.on("websocket", lambda socket: socket.on(
        "framereceived", lambda frame: received.__setitem__(0, received[0] + len(frame))))  # fmt: skip
    tab.goto(f"{server}/results?machine=fan&show=By+name")
    opened(tab)
    for key, name in (("j", "anomaly_0001"), ("j", "anomaly_0002"), ("k", "anomaly_0001")):
        received[0] = 0
        tab.keyboard.press(key)
        heading(tab, f"source_test_{name}")
        tab.wait_for_function("name => window.find()?.dataset.clip.includes(name)", arg=name)
        settled(tab)
        assert 0 < received[0] < 100_000


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
        address_has(tab, f"job={job.id}")
        second = tab.context.browser.new_page()
        second.goto(tab.url)
        second.get_by_text("last sign of life").wait_for(timeout=30_000)
        second.close()
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
        os.kill(read_json(job.folder / "process.json")["pid"], signal.SIGKILL)
        tab.locator(f".st-key-resume_{job.id}").wait_for()
        assert jobs.read(job.folder).state == jobs.INTERRUPTED
        tab.get_by_text("killed, out of memory, or a power cut").wait_for()
        tab.goto("about:blank")
