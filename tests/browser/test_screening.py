"""Screening in a browser: one key per verdict, the next clip comes by itself, and a blind round tells no names."""

import pytest

from asd_core import api
from tests.app import example
from tests.browser.driver import heading, needs_browser, serving, settled

pytestmark = needs_browser


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> api.Workspace:
    workspace = example.build(tmp_path_factory.mktemp("browser"), unlabelled=False)
    example.add_generated(workspace, api.data_set(workspace, "workshop"))
    return workspace


@pytest.fixture(scope="module")
def server(workspace):
    with serving(workspace) as address:
        yield address


def test_a_key_per_verdict_and_undo_after_the_last(tab, server, workspace):
    (made,) = api.generated_sets(workspace, "workshop")

    def said() -> list[str]:
        table = api.screened(workspace, made, api.candidates(workspace, made))
        return [one for one in table["said"] if one]

    tab.goto(f"{server}/screening")
    tab.get_by_text("0 / 12 judged").wait_for()
    tab.locator(".st-key-review_player .player[data-clip]").wait_for()
    settled(tab)  # the address is written last
    first = tab.url
    for number, key in enumerate("123", 1):
        before = tab.url
        tab.keyboard.press(key)
        tab.get_by_text(f"{number} / 12 judged").wait_for()
        tab.wait_for_function("before => location.href !== before", arg=before)
        settled(tab)
    assert sorted(said()) == ["drop", "keep", "unsure"]
    for number in (2, 1, 0):
        tab.keyboard.press("z")
        tab.get_by_text(f"{number} / 12 judged").wait_for()
    tab.wait_for_function("first => location.search.includes(first)", arg=first.partition("clip=")[2].partition("&")[0])
    assert said() == []


def test_the_player_switches_to_the_matched_recording(tab, server):
    tab.goto(f"{server}/screening")
    root = tab.locator(".st-key-review_player .player")
    root.and_(tab.locator("[data-heard=clip]")).wait_for()
    tab.locator(".st-key-review_player").get_by_text("Generated: ").first.wait_for()
    tab.keyboard.press("b")
    tab.locator(".st-key-review_player").get_by_text("Recorded: ").first.wait_for()
    beside = tab.get_by_alt_text("Spectrogram of the matched recording, near microphone")
    beside.wait_for()
    assert beside.evaluate("image => image.decode().then(() => image.naturalHeight)") == 256
    tab.get_by_text("Difference", exact=True).click()
    tab.get_by_alt_text("less that of the matched recording, far microphone").wait_for()


def test_a_blind_round_tells_no_names(tab, server):
    tab.goto(f"{server}/screening?screen=Blind+test")
    tab.get_by_role("button", name="Start a round").click()
    tab.get_by_text("Clip 1 of 12").first.wait_for()
    assert "clip=" not in tab.url
    tab.locator(".st-key-blind_player .player[data-clip='Clip 1 of 12']").wait_for()
    assert "_normal_" not in tab.locator("[data-testid=stMain]").inner_text()
    for number in range(2, 13):
        tab.keyboard.press("1")
        tab.get_by_text(f"Clip {number} of 12").first.wait_for()
    tab.keyboard.press("2")
    heading(tab, "This round")
    tab.get_by_text("right,").first.wait_for()
