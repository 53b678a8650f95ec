"""Dropping recordings in a browser: what is refused says why, what is taken can be scored, seen and heard."""

import pytest

from asd_core import api, jobs
from tests.app.test_score import RUN, judged, sound
from tests.browser.driver import address_has, heading, needs_browser

pytestmark = needs_browser


@pytest.fixture
def dropped(tmp_path) -> list[str]:
    """A good recording with markup in its name, and words called .wav."""
    good, bad = tmp_path / "<img src=x onerror=alert(1)>.wav", tmp_path / "words.wav"
    good.write_bytes(sound(2.0, rate=48_000))
    bad.write_bytes(b"not a sound")
    return [str(good), str(bad)]


def test_from_the_drop_to_the_sound(tab, server, workspace, dropped):
    said: list[str] = []
    tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    tab.goto(f"{server}/score?run={RUN}&machine=fan")
    heading(tab, "Score a clip")
    tab.locator("input[type=file]").set_input_files(dropped)
    tab.get_by_text("words.wav cannot be read as sound").wait_for()
    tab.get_by_text("<img src=x onerror=alert(1)>.wav", exact=True).last.wait_for()
    tab.get_by_text("Resampled from 48,000 Hz").wait_for()
    tab.locator(".st-key-score button:not([disabled])").click()
    tab.wait_for_function("() => location.href.includes('scored=')")
    (one,) = api.uploads(workspace).values()
    for job in jobs.list_jobs(workspace.jobs):  # of the stand-in worker, which scores nothing
        jobs.cancel(job.folder, force=True)
    key = judged(workspace, one)
    address_has(tab, f"scored={key}")
    tab.goto(f"{server}/score?scored={key}")
    heading(tab, "Judged as fan by logmel-knn")
    player = tab.locator(".st-key-player [data-clip]")
    player.wait_for()
    assert player.get_attribute("data-clip") == one.clip_id
    tab.wait_for_function(
        "() => [...document.querySelectorAll('*')].some((host) =>"
        " (host.shadowRoot ?? host).querySelector?.('[data-state=paused]'))"
    )
    tab.get_by_role("button", name="Delete this result").click()
    tab.get_by_text("Judged as fan by logmel-knn").wait_for(state="detached")
    assert not api.uploads(workspace)
    assert not said, "a name was run as a script"


def test_the_list_of_training_clips_leads_to_the_sound(tab, server):
    tab.goto(f"{server}/data?machine=valve&part=Listen")
    heading(tab, "Training clips of valve")
    heading(tab, "source_train_normal_0000_speed_1")
    tab.locator(".st-key-next button:not([disabled])").wait_for()
    tab.locator(".st-key-inspector_player [data-clip], [data-state=paused]").first.wait_for()
    tab.keyboard.press("j")
    heading(tab, "source_train_normal_0001_speed_2")
    address_has(tab, "train_normal_0001")
