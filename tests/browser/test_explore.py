"""The map in a browser: drawing round points, the ring, stepping, and what all of it costs to send."""

import pytest
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from asd_core import api
from asd_core.artifacts import load_run
from asd_core.pipeline.projection import plan_projection, project
from tests.app import example
from tests.browser.driver import needs_browser, serving, settled

pytestmark = needs_browser
RUN = "logmel-maha--workshop--quick--seed0"
GRAPH = "document.querySelector('.st-key-clip_map .js-plotly-plot')"
RING = f"{GRAPH}?.querySelector('.asd-map-ring')"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> api.Workspace:
    made = example.build(tmp_path_factory.mktemp("explore"), clips=4, seconds=0.5)
    example.add_artefacts(made, api.data_set(made, "workshop"), RUN)
    project(made, plan_projection(made, load_run(made, RUN), method="pca"))
    return made


@pytest.fixture(scope="module")
def server(workspace):
    with serving(workspace) as address:
        yield address


@pytest.fixture
def sent(tab) -> list[tuple[int, str]]:
    """(bytes, what) of every message from the server; a test may clear it."""
    messages: list[tuple[int, str]] = []

    def read(payload: bytes | str) -> None:
        if isinstance(payload, bytes):
            message = ForwardMsg.FromString(payload)
            new = message.delta.new_element.WhichOneof("type") if message.WhichOneof("type") == "delta" else ""
            messages.append((len(payload), new or str(message.WhichOneof("type"))))

    tab.on("websocket", lambda socket: socket.on("framereceived", read))
    return messages


def open_map(tab, server: str, more: str = "") -> None:
    tab.set_default_timeout(60_000)  # WebGL without a graphics card
    tab.goto(f"{server}/explore?run={RUN}&machine=fan{more}")
    tab.wait_for_function(f"() => {RING}?.dataset.clip && {RING}.style.left")


def ringed(tab, other_than: str = "") -> str:
    """The clip with the ring, once it is another one."""
    tab.wait_for_function(f"other => {RING}?.dataset.clip && {RING}.dataset.clip !== other", arg=other_than)
    return tab.evaluate(f"{RING}.dataset.clip")


def asked_clip(tab) -> str:
    return tab.evaluate("new URLSearchParams(location.search).get('clip')")


def draw(tab, *corners: tuple[float, float]) -> None:
    """Drag over the map, corners as fractions of its width and height."""
    area = tab.locator(".st-key-clip_map .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    places = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in corners]
    tab.mouse.move(*places[0])
    tab.mouse.down()
    for place in places[1:]:
        tab.mouse.move(*place, steps=4)
    tab.mouse.up()


def corner_of(tab) -> tuple[float, float, float]:
    """Where the ring is, and the left end of the visible map in its own units: both move when the map is zoomed."""
    return tuple(
        tab.evaluate(f"[parseFloat({RING}.style.left), parseFloat({RING}.style.top), {GRAPH}.layout.xaxis.range[0]]")
    )


def test_a_lasso_makes_a_list_that_is_stepped_through(tab, server, sent, workspace):
    open_map(tab, server)
    draw(tab, (0.01, 0.01), (0.99, 0.01), (0.99, 0.99), (0.01, 0.99), (0.01, 0.02))
    tab.get_by_role("button", name="Listen through").click()
    everything = len(load_run(workspace, RUN).scores)
    tab.get_by_text(f"{everything} of {everything} clips").wait_for()
    tab.get_by_text(f"1 of {everything}", exact=True).wait_for()
    settled(tab)  # the address is written last
    before = asked_clip(tab)
    tab.wait_for_function(f"clip => {RING}?.dataset.clip === clip", arg=before)
    sent.clear()
    tab.keyboard.press("j")
    after = ringed(tab, before)
    tab.get_by_text(f"2 of {everything}", exact=True).wait_for()
    settled(tab)
    assert asked_clip(tab) == after
    assert tab.evaluate(f"{GRAPH}.layout.selections.length") == 1, "what was drawn stays"
    assert sum(size for size, _ in sent) < 100_000
    tab.get_by_role("button", name="Save selection").click()
    tab.wait_for_function("() => location.href.includes('selection=')")
    (saved,) = api.selections(workspace, "workshop")
    assert len(saved.ids) == everything
    assert saved.ids[:2] == (before, after)


def test_a_click_on_a_point_plays_that_clip_and_zoom_stays(tab, server):
    open_map(tab, server, "&colour=label")
    before = ringed(tab)
    tab.keyboard.press("j")
    there = ringed(tab, before)
    left, top, _ = corner_of(tab)
    tab.keyboard.press("k")
    assert ringed(tab, there) == before
    box = tab.locator(".st-key-clip_map .js-plotly-plot").bounding_box()
    tab.mouse.move(box["x"] + left, box["y"] + top)
    tab.mouse.click(box["x"] + left, box["y"] + top)  # the lasso is the tool in hand, and a click is a click
    clicked = ringed(tab, before)
    x, y, whole = corner_of(tab)
    assert (x, y) == (pytest.approx(left, abs=7), pytest.approx(top, abs=7)), "the point under the mouse"
    tab.mouse.wheel(0, -400)
    tab.wait_for_function(f"whole => {GRAPH}.layout.xaxis.range[0] > whole + 100", arg=whole)
    zoomed = corner_of(tab)
    tab.keyboard.press("j")
    ringed(tab, clicked)
    assert corner_of(tab)[2] == zoomed[2]


def test_a_saved_selection_is_lit_and_another_colour_keeps_it(tab, server, workspace):
    own = [one for one in load_run(workspace, RUN).scores["clip_id"] if one.startswith("valve/")]
    name = api.save_selection(workspace, own, {"data": "workshop"})
    open_map(tab, server, f"&selection={name}")
    lit = f"() => {GRAPH}?._fullData.reduce((sum, one) => sum + (one.selectedpoints?.length ?? 0), 0)"
    tab.wait_for_function(f"count => ({lit})() === count", arg=len(own))
    before = tab.evaluate(f"{GRAPH}.layout.meta")
    tab.locator(".st-key-colour_picker").click()
    tab.get_by_role("option", name="Split", exact=True).click()
    tab.wait_for_function(f"before => {GRAPH}?.layout.meta !== before", arg=before)
    assert tab.evaluate(lit) == len(own)
    tab.get_by_role("button", name="Clear", exact=True).click()
    tab.get_by_text("Nothing is selected.").wait_for()
    tab.wait_for_function(f"() => {GRAPH}?._fullData.every(one => !one.selectedpoints)")
