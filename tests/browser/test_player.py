"""The player in a browser: what is heard, measured behind everything that shapes it, and what is shown of it."""

import re

import pytest

from tests.app import example
from tests.browser.driver import FIND, needs_browser, serving

pytestmark = needs_browser
SECONDS = 12.0  # long enough that no clip ends while a slow machine looks elsewhere


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return example.build(tmp_path_factory.mktemp("player"), clips=2, seconds=SECONDS, unlabelled=False)


@pytest.fixture(scope="module")
def server(workspace):
    with serving(workspace, script="player_app.py") as address:
        yield address


@pytest.fixture
def open_player(tab, server):
    """open_player(odd="mono", …) → the tab, with a player that has its sound (or says that it has none)."""

    def open_page(**query: str):
        tab.goto(f"{server}/?" + "&".join(f"{name}={value}" for name, value in query.items()))
        tab.wait_for_function("['paused', 'error'].includes(window.find()?.dataset.state)")
        return tab

    return open_page


def says(tab, name: str) -> str:
    return tab.evaluate("name => window.find().dataset[name]", name)


def until(tab, condition: str, arg=None) -> None:
    """Waits for an expression over `p`, the player's element, and `arg`."""
    tab.wait_for_function("([condition, arg]) => new Function('p', 'arg', `return ${condition}`)(window.find(), arg)",
                          arg=[condition, arg])  # fmt: skip


def time(tab) -> float:
    return tab.evaluate("window.find().player.time()")


def button(tab, action: str):
    return tab.locator(f".player [data-do={action}]").first


def frame(tab, number: int = 0) -> dict:
    area = tab.locator(".player .frame").nth(number)
    area.scroll_into_view_if_needed()
    return area.bounding_box()


def start(tab) -> None:
    button(tab, "play").click()
    until(tab, "p.dataset.state === 'playing' && p.player.time() > 0.05 && p.player.rms() > 0")


def test_sound_and_cursor_advance_together(open_player):
    tab = open_player()
    start(tab)
    first = time(tab)
    until(tab, "p.player.time() > arg + 0.3", first)
    until(tab, "parseFloat(p.dataset.time) > arg", first)
    until(tab, "Math.abs(parseFloat(p.querySelector('.cursor').style.left) - 100 * p.player.time() / 12) < 5")
    tab.keyboard.press("Space")
    assert says(tab, "state") == "paused"
    until(tab, "!p.player.running()")  # nothing is left to be computed


def test_it_ends_and_begins_again(open_player):
    tab = open_player()
    tab.locator(".player .wave").focus()
    tab.keyboard.press("End")
    tab.keyboard.press("ArrowLeft")
    assert time(tab) == pytest.approx(SECONDS - 1, abs=1e-3)
    start(tab)
    until(tab, "p.dataset.state === 'paused' && p.player.time() === 12")
    start(tab)
    assert time(tab) < SECONDS - 1


def test_from_near_to_far_without_a_gap(open_player):
    tab = open_player()
    button(tab, "loop").click()
    start(tab)
    near = tab.evaluate("window.find().player.rms()")
    before = time(tab)
    tab.keyboard.press("n")
    assert (says(tab, "channel"), says(tab, "state")) == ("far", "playing")
    until(tab, "p.player.rms() < 0.6 * arg && p.player.rms() > 0", near)  # the far recording is the fainter one
    assert before <= time(tab)
    button(tab, "matched").click()
    until(tab, "p.player.rms() > 0.7 * arg", near)
    assert re.search(r"matched: far [+−]\d", tab.locator(".player .said").inner_text())
    button(tab, "matched").click()
    tab.keyboard.press("n")
    assert says(tab, "channel") == "near"


def test_a_click_seeks_to_the_millisecond(open_player):
    tab = open_player()
    box = frame(tab)
    for part in (0.25, 0.8):
        x = round(box["x"] + part * box["width"])
        tab.mouse.click(x, box["y"] + 40)
        assert time(tab) == pytest.approx((x - box["x"]) / box["width"] * SECONDS, abs=1e-3)


def test_a_drag_loops_its_span(open_player):
    tab = open_player()
    box = frame(tab)
    tab.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 30)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 40, steps=4)
    tab.mouse.up()
    first, last = map(float, says(tab, "loop").split("-"))
    assert (first, last) == pytest.approx((6.0, 7.2), abs=0.03)
    start(tab)
    seen = tab.evaluate(
        """() => new Promise(done => {
             const times = []
             const look = () => {
               times.push(window.find().player.time())
               const wraps = times.filter((t, i) => t < times[i - 1]).length
               wraps > 1 ? done(times) : requestAnimationFrame(look)
             }
             look()
           })"""
    )
    assert first <= min(seen)
    assert max(seen) <= last
    tab.keyboard.press("Escape")
    assert says(tab, "loop") == ""
    until(tab, "p.player.time() > 7.5")


def test_a_box_is_heard_through_its_band(open_player):
    tab = open_player()
    button(tab, "loop").click()
    start(tab)
    low, high = (tab.evaluate(f"window.find().player.power({band})") for band in ("80, 700", "2000, 4000"))
    box = frame(tab)
    tab.keyboard.down("Alt")
    tab.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.1 * box["height"])
    tab.mouse.down()
    tab.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.45 * box["height"], steps=4)
    tab.mouse.up()
    tab.keyboard.up("Alt")
    bottom, top = map(float, says(tab, "band").split("-"))
    assert 1500 < bottom < 2500
    assert 5500 < top < 7500
    until(tab, "p.player.power(80, 700) < arg / 1000", low)
    until(tab, "p.player.power(2000, 4000) > arg / 10", high)
    tab.locator(".player .wave").focus()
    tab.keyboard.press("Escape")
    assert says(tab, "band") == ""
    until(tab, "p.player.power(80, 700) > arg / 10", low)


def test_twice_the_speed_is_an_octave(open_player):
    tab = open_player()
    button(tab, "loop").click()
    start(tab)
    hum = tab.evaluate("window.find().player.power(70, 110)")  # bearings of the example hum at 90 Hz
    tab.locator(".player select").select_option("2")
    assert says(tab, "state") == "playing"
    until(tab, "p.player.power(70, 110) < arg / 20 && p.player.power(160, 200) > arg / 10", hum)
    tab.locator(".player select").select_option("1")


def test_the_hottest_patch_sets_loop_and_band(open_player):
    tab = open_player()
    button(tab, "hottest").click()
    until(tab, "p.dataset.state === 'playing'")
    assert (says(tab, "loop"), says(tab, "band")) == ("7.000-8.000", "1000.0-2000.0")
    assert "place 1 of 3" in tab.locator(".player .said").inner_text()
    button(tab, "hottest").click()
    assert says(tab, "loop") == "8.000-9.000"


def test_the_other_clip_at_the_same_place(open_player):
    tab = open_player()
    until(tab, "p.player.sounds().includes('other')")
    start(tab)
    picture = tab.locator(".player img").first.get_attribute("src")
    moved = tab.evaluate("""() => {
        const p = window.find(), before = p.player.time()
        p.querySelector("[data-do=other]").click()
        return p.player.time() - before
    }""")
    assert 0 <= moved < 0.1
    assert (says(tab, "heard"), says(tab, "state")) == ("other", "playing")
    assert tab.locator(".player .title").inner_text().startswith("B: ")
    assert tab.locator(".player img").first.get_attribute("src") != picture
    assert tab.locator(".player .frame canvas").first.is_hidden(), "the map belongs to the clip"
    tab.keyboard.press("b")
    assert says(tab, "heard") == "clip"
    tab.keyboard.press("o")
    until(tab, "p.dataset.heard === 'anomaly'")
    assert tab.locator(".player .said").inner_text().startswith("Playing only the anomaly · near")


def test_a_map_s_colours_go_to_the_clip_s_highest(open_player):
    tab = open_player()
    assert tab.locator(".player .legend span").all_inner_texts() == ["0.1", "0.85", "0.9 highest"]
    assert "Branch local. local score" in tab.locator(".player .about").inner_text()
    low, calm, top, highest = tab.evaluate(
        """() => {
             const canvas = window.find().querySelector('.frame canvas'), { width, height } = canvas
             const at = (seconds, up) => [...canvas.getContext('2d').getImageData(
               Math.round((seconds / 12) * width), Math.round((1 - up) * height), 1, 1).data]
             const mel = hertz => Math.log1p(hertz / 700) / Math.log1p(8000 / 700)
             return [at(0.5, mel(125)), at(3.5, mel(375)), at(8.5, mel(1500)), at(7.5, mel(1500))]
           }"""
    )
    assert max(low[3], calm[3]) < top[3] < highest[3], "clearer where the score is lower"
    assert highest[1] < top[1], "redder where it is above the scale"


def test_the_keys_are_listed_over_the_player(open_player):
    tab = open_player()
    tab.locator(".player .wave").focus()
    before = tab.evaluate("window.find().offsetHeight")
    tab.keyboard.press("h")
    tab.get_by_text("go to that moment").wait_for()
    inside = tab.evaluate("""() => {
        const [outer, list] = [window.find(), window.find().querySelector('dl')].map(e => e.getBoundingClientRect())
        return outer.left <= list.left && list.right <= outer.right && list.bottom <= innerHeight && list.top >= outer.top
    }""")
    assert inside
    assert tab.evaluate("window.find().offsetHeight") == before
    tab.keyboard.press("l")
    tab.keyboard.press("Escape")
    tab.get_by_text("go to that moment").wait_for(state="hidden")
    assert says(tab, "loop") != "", "one step at a time"


def test_other_reruns_leave_it_alone(open_player):
    tab = open_player()
    button(tab, "loop").click()
    start(tab)
    tab.evaluate("() => { window.seen = []; new MutationObserver(() => window.seen.push(window.find().dataset.state))"
                 ".observe(window.find(), {attributeFilter: ['data-state']}) }")  # fmt: skip
    ends = tab.locator(".st-key-runs")
    before = ends.inner_text()
    tab.get_by_role("button", name="Run again").click()
    tab.wait_for_function("before => document.querySelector('.st-key-runs').innerText !== before", arg=before)
    tab.get_by_text("log", exact=True).click()  # another frequency axis: new pictures, the same sound
    tab.wait_for_function("window.find().querySelector('img').src.includes('-log/')")
    first = time(tab)
    until(tab, "p.player.time() !== arg", first)
    assert set(tab.evaluate("window.seen")) <= {"playing"}


def test_keys_are_silent_where_they_are_typed(open_player):
    tab = open_player()
    tab.get_by_label("Text").fill("")
    tab.get_by_label("Text").press_sequentially("n m l b o h")
    assert tab.get_by_label("Text").input_value() == "n m l b o h"
    assert (says(tab, "channel"), says(tab, "loop"), says(tab, "heard"), says(tab, "state")) == (
        "near", "", "clip", "paused",
    )  # fmt: skip
    tab.get_by_label("Text").blur()
    tab.keyboard.press("Control+l")
    assert says(tab, "loop") == ""
    tab.keyboard.press("l")
    assert says(tab, "loop") == "0.000-12.000"
    tab.keyboard.press("Space")
    until(tab, "p.dataset.state === 'playing'")


def test_space_plays_from_the_table(open_player):
    tab = open_player()
    table = tab.locator("[data-testid='stDataFrame']").first
    box = table.bounding_box()
    tab.mouse.click(box["x"] + 16, box["y"] + 52)  # the tick box of the first row
    tab.keyboard.press("Space")
    until(tab, "p.dataset.state === 'playing'")
    tab.mouse.click(box["x"] + 120, box["y"] + 52)  # a cell, which Space would open
    tab.keyboard.press("Space")
    until(tab, "p.dataset.state === 'paused'")
    assert tab.locator(".gdg-growing-entry, [id^=gdg-overlay]").count() == 0


def test_space_plays_with_the_focus_on_a_link(open_player):
    tab = open_player()
    tab.evaluate("() => Object.assign(document.body.appendChild(document.createElement('a')), {href: '#'}).focus()")
    tab.keyboard.press("Space")
    until(tab, "p.dataset.state === 'playing'")


def test_the_next_clip_plays_by_itself(open_player):
    tab = open_player(autoplay="1")
    assert says(tab, "state") == "paused", "the clip of a page that is loaded waits"
    clip = says(tab, "clip")
    tab.keyboard.press("j")
    until(tab, "p.dataset.clip !== arg && p.dataset.state === 'playing'", clip)


def test_it_falls_silent_when_it_leaves_the_page(open_player):
    tab = open_player()
    button(tab, "loop").click()
    start(tab)
    tab.evaluate("window.gone = window.find()")
    tab.get_by_text("Away", exact=True).click()
    tab.wait_for_function("!window.find() && !window.gone.player.running()")


def test_of_two_players_one_plays_and_the_last_has_the_keys(open_player):
    tab = open_player(two="1")
    tab.wait_for_function("window.all()[1]?.dataset.state === 'paused'")
    both = "states => window.all().map(p => p.dataset.state).join() === states"
    tab.keyboard.press("l")  # so that neither ends by itself
    tab.keyboard.press("Space")
    tab.wait_for_function(both, arg="paused,playing")
    button(tab, "loop").click()
    button(tab, "play").click()
    tab.wait_for_function(both, arg="playing,paused")
    tab.keyboard.press("Space")  # now the first one has the focus
    tab.wait_for_function(both, arg="paused,paused")


def test_a_missing_sound_is_named(browser_page, server):
    tab = browser_page
    tab.add_init_script(FIND)
    tab.goto(f"{server}/?odd=missing")
    until(tab, "p?.dataset.state === 'error'")
    assert "could not be loaded (404)" in tab.locator(".player .said").inner_text()
    assert tab.locator(".player img").first.evaluate("image => image.decode().then(() => image.naturalHeight)") == 256


@pytest.fixture
def browser_page(chromium):
    """A tab whose console may complain: of the 404 that is provoked."""
    page = chromium.new_page()
    page.set_default_timeout(30_000)
    yield page
    page.close()


def test_one_microphone_only(open_player):
    tab = open_player(odd="mono")
    assert button(tab, "pick").nth(0).is_enabled()
    assert tab.locator(".player [data-channel=far]").is_disabled()
    assert "one channel only" in tab.locator(".player .absent").nth(1).inner_text()
    tab.keyboard.press("n")
    assert says(tab, "channel") == "near"


def test_without_a_map_the_reason_is_told(open_player):
    tab = open_player(odd="no-map")
    assert button(tab, "heat").is_disabled()
    assert button(tab, "hottest").is_disabled()
    assert "keeps no map" in tab.locator(".player .about").inner_text()


def test_the_pointer_reads_time_frequency_level_and_score(open_player):
    tab = open_player()
    box = frame(tab)
    tab.locator(".player img").first.evaluate("image => image.decode()")
    tab.mouse.move(box["x"] + 0.61 * box["width"], box["y"] + 0.49 * box["height"])
    said = tab.locator(".player .read").inner_text()
    seconds, hertz, level, patch = said.split(" · ")
    assert float(seconds.removesuffix(" s")) == pytest.approx(7.32, abs=0.03)
    assert 1.7 < float(hertz.removesuffix(" kHz")) < 2.0
    assert re.fullmatch(r"[≤≥]? ?−\d+ dB", level)
    assert patch == "patch 0.9"


def test_a_double_click_tells_python(open_player):
    tab = open_player()
    box = frame(tab)
    tab.mouse.dblclick(box["x"] + 0.5 * box["width"], box["y"] + 60)
    tab.get_by_text("Marker at 6.0").wait_for()


@pytest.mark.parametrize("width", [380, 700, 1400])
def test_it_fits(open_player, width):
    tab = open_player(rest=3)
    tab.set_viewport_size({"width": width, "height": 900})
    until(tab, "innerWidth === arg && p.scrollWidth <= p.clientWidth && document.body.scrollWidth <= innerWidth", width)
