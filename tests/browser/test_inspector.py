"""The inspector in a browser: sound goes on while tabs are opened, and what is picked there reaches the player."""

import pytest

from asd_core import api
from asd_core.data.manifest import scan
from tests.app import example
from tests.browser.driver import needs_browser

pytestmark = needs_browser
RUN = "logmel-knn--workshop--quick--seed0"
CLIP = "fan/test/section_00_target_test_anomaly_0001_speed_9.wav"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> api.Workspace:
    folder = tmp_path_factory.mktemp("inspector")
    made = example.build(folder, clips=4, seconds=4.0)
    example.add_artefacts(made, scan(folder / "sounds", "workshop", "simulated"), RUN)
    return made


@pytest.fixture
def opened(tab, server):
    """Results with a clip picked and its sound there."""
    tab.goto(f"{server}/results?run={RUN}&machine=fan&show=By+name&clip={CLIP}")
    until(tab, "p?.dataset.state === 'paused'")
    return tab


def until(tab, condition: str, arg: str = "") -> None:
    """Waits for an expression over `p`, the player's element, and `arg`."""
    tab.wait_for_function("([condition, arg]) => new Function('p', 'arg', `return ${condition}`)(window.find(), arg)",
                          arg=[condition, arg])  # fmt: skip


def press(tab, action: str) -> None:
    tab.locator(f".player [data-do={action}]").first.click()


def test_tabs_leave_the_sound_alone(opened):
    press(opened, "loop")
    press(opened, "play")
    until(opened, "p.dataset.state === 'playing'")
    for name, sign in {
        "Why": "Hottest places",
        "Scores by system": "flag this clip",
        "Difference": "less the mean",
        "File": "sha256",
    }.items():
        opened.get_by_role("tab", name=name, exact=True).click()
        opened.get_by_text(sign).first.wait_for()
        assert opened.evaluate("window.find().dataset.state") == "playing"
    opened.get_by_role("tab", name="Difference", exact=True).click()
    picture = "img[src*='/asd/difference/']"
    opened.wait_for_function("css => document.querySelector(css)?.naturalWidth > 0", arg=picture)


def test_what_the_map_marks_can_be_heard_alone(opened):
    press(opened, "play")
    press(opened, "anomaly")
    until(opened, "p.dataset.heard === 'anomaly'")
    press(opened, "anomaly")
    until(opened, "p.dataset.heard === 'clip'")


def test_the_picked_neighbour_is_what_a_b_switches_to(opened):
    opened.get_by_text("the nearest normal training clip").first.wait_for()
    table = opened.locator(".st-key-inspector_neighbours canvas").first
    table.scroll_into_view_if_needed()
    box = table.bounding_box()
    opened.mouse.click(box["x"] + 70, box["y"] + 35 + 44 * 2.5)  # the thumbnail of the third row
    opened.get_by_text("normal training clip number 3").first.wait_for()
    press(opened, "other")
    until(opened, "p.dataset.heard === 'other'")


def test_a_neighbour_is_played_at_once(opened):
    table = opened.locator(".st-key-inspector_neighbours canvas").first
    table.scroll_into_view_if_needed()
    box = table.bounding_box()
    for row, name in ((2.5, "number 3"), (1.5, "number 2")):  # from silence, then while another one sounds
        opened.mouse.click(box["x"] + 130, box["y"] + 35 + 44 * row)
        opened.get_by_text(f"normal training clip {name}").first.wait_for()
        until(opened, "p.dataset.heard === 'other' && p.dataset.state === 'playing'")
    press(opened, "play")
    opened.get_by_role("tab", name="File", exact=True).click()
    opened.get_by_text("sha256").first.wait_for()
    assert opened.evaluate("window.find().dataset.state") == "paused", "it was asked for once"


def test_verdict_transport_and_pictures_are_in_view_together(opened):
    fits = """() => {
        const column = document.querySelector('.st-key-inspector').closest('[data-testid=stColumn]')
        const frames = [...window.find().querySelectorAll('.frame')]
        const below = column.getBoundingClientRect().top
        return frames.length === 2 && frames.at(-1).getBoundingClientRect().bottom - below < innerHeight - 64
    }"""
    opened.wait_for_function(fits)
    opened.set_viewport_size({"width": 1024, "height": 768})  # here the clip stands below the table, not beside it
    opened.wait_for_function("() => { const { width } = window.find().getBoundingClientRect();"
                             " return width > 500 && document.querySelector('[data-testid=stMain]').scrollWidth <= 1024 }")  # fmt: skip


def test_in_a_narrow_window_the_clip_follows_its_list(opened):
    order = """() => {
        const top = (key) => document.querySelector(`.st-key-${key}`).getBoundingClientRect().top
        return ['clips', 'inspector', 'figures'].sort((a, b) => top(a) - top(b)).join()
    }"""
    opened.set_viewport_size({"width": 1024, "height": 768})
    opened.wait_for_function(f"() => ({order})() === 'clips,inspector,figures'")
    opened.set_viewport_size({"width": 1400, "height": 900})
    opened.wait_for_function(f"() => ({order})() !== 'clips,inspector,figures'")


def test_in_a_narrow_window_the_halves_of_a_tab_are_stacked(tab, server):
    tab.set_viewport_size({"width": 1024, "height": 768})
    tab.goto(f"{server}/data?part=Listen")
    tab.get_by_role("tab", name="Listen", exact=True).click()
    tab.wait_for_function("() => window.find()?.getBoundingClientRect().width > 500")


def test_another_clip_is_seen_from_its_top(opened):
    column = "document.querySelector('.st-key-inspector').closest('[data-testid=stColumn]')"
    opened.wait_for_function(f"() => {{ const c = {column}; c.scrollTop = 9999; return c.scrollTop > 100 }}")
    opened.keyboard.press("j")
    until(opened, "p?.dataset.clip !== arg", CLIP)
    opened.wait_for_function(f"() => {column}.scrollTop === 0")


def test_keys_step_through_the_list(opened):
    opened.locator("h1").first.click()
    opened.keyboard.press("j")
    until(opened, "p?.dataset.clip !== arg", CLIP)
    opened.keyboard.press("k")
    until(opened, "p?.dataset.clip === arg", CLIP)
