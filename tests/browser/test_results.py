"""Results and Train in a browser: brushing, picking points and cells, ticking rows; what no AppTest can click."""

from tests.app import example
from tests.browser.driver import heading, needs_browser, serving

pytestmark = needs_browser
ROW = 35  # pixels, and of the header


def settled(tab) -> None:
    """Wait until the script has run and what it drew is there."""
    tab.locator("[data-testid='stApp'][data-test-script-state='notRunning']").wait_for()
    tab.wait_for_function("() => !document.querySelector('[data-stale=true]')")


def address_has(tab, text: str) -> None:
    tab.wait_for_function("text => decodeURIComponent(location.search).includes(text)", arg=text)
    settled(tab)


def address_lacks(tab, text: str) -> None:
    tab.wait_for_function("text => !decodeURIComponent(location.search).includes(text)", arg=text)
    settled(tab)


def box(tab, selector: str) -> dict:
    """Where an element is now that it is in view."""
    found = tab.locator(selector).first
    found.wait_for()
    found.scroll_into_view_if_needed()
    return found.bounding_box()


def test_a_band_of_scores_is_brushed_and_a_threshold_picked(tab, server):
    tab.goto(f"{server}/results?run=logmel-maha--workshop--quick--seed0&machine=fan")
    heading(tab, "Scores of fan")
    settled(tab)
    assert tab.get_by_text("16 of 16").count() == 0, "false alarms alone"
    plot = box(tab, ".st-key-histograms .nsewdrag")
    middle = plot["y"] + plot["height"] / 2
    tab.mouse.move(plot["x"] + 0.3 * plot["width"], middle)
    tab.mouse.down()
    for part in (0.4, 0.6, 0.8):
        tab.mouse.move(plot["x"] + part * plot["width"], middle)
    tab.mouse.up()
    address_has(tab, "band=")
    chip = tab.locator(".st-key-chip_band").get_by_role("button", name="score")
    chip.wait_for()
    address_has(tab, "show=Highest")
    assert tab.get_by_text("16 of 16").count() == 0
    point = box(tab, ".st-key-roc .scatterlayer .trace:nth-child(2) .points path:nth-child(3)")
    tab.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    tab.locator(".st-key-roc .hoverlayer .hovertext").first.wait_for()
    tab.mouse.down()
    tab.mouse.up()
    address_has(tab, "threshold=")
    tab.locator(".st-key-own_threshold").wait_for()
    assert "band=" in tab.url, "both stay"
    chip.click()
    address_lacks(tab, "band=")
    tab.locator(".st-key-own_threshold").get_by_role("button").first.click()
    address_lacks(tab, "threshold=")
    tab.get_by_text("16 of 16").wait_for()


def test_a_cell_of_the_matrix_sets_machine_and_domain(tab, server):
    tab.goto(f"{server}/results?machine=fan&show=By+name")
    heading(tab, "Machines")
    settled(tab)
    table = box(tab, ".st-key-matrix [data-testid='stDataFrame']")
    tab.mouse.click(table["x"] + 40, table["y"] + ROW * 3.5)
    address_has(tab, "machine=valve")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    address_has(tab, "domain=target")
    heading(tab, "Scores of valve")
    tab.get_by_text("8 of 16").wait_for()


def test_one_step_back_undoes_one_choice(tab, server):
    tab.goto(f"{server}/results?machine=fan&show=By+name")
    heading(tab, "Scores of fan")
    address_has(tab, "clip=fan/")
    before = tab.url
    table = box(tab, ".st-key-matrix [data-testid='stDataFrame']")
    tab.mouse.click(table["x"] + 40, table["y"] + ROW * 3.5)
    address_has(tab, "clip=valve/")
    heading(tab, "Scores of valve")
    tab.go_back()
    heading(tab, "Scores of fan")
    settled(tab)
    assert tab.url == before


def test_a_cell_of_the_leaderboard_picks_its_system(tab, server):
    tab.goto(f"{server}/results?machine=fan")
    heading(tab, "Systems")
    settled(tab)
    before = tab.evaluate("new URLSearchParams(location.search).get('run')")
    table = box(tab, ".st-key-leaderboard [data-testid='stDataFrame']")
    tab.mouse.click(table["x"] + 90, table["y"] + ROW * 2.5)
    tab.wait_for_function("before => new URLSearchParams(location.search).get('run') !== before", arg=before)
    settled(tab)
    table = box(tab, ".st-key-leaderboard [data-testid='stDataFrame']")
    tab.mouse.click(table["x"] + 90, table["y"] + ROW * 1.5)
    address_has(tab, f"run={before}")


def test_ticked_systems_and_the_queue(tab, tmp_path):
    workspace = example.build(tmp_path)
    with serving(workspace) as address:
        tab.goto(f"{address}/train?family=SATLab")
        heading(tab, "Train")
        settled(tab)
        table = box(tab, ".st-key-systems [data-testid='stDataFrame']")
        tab.mouse.click(table["x"] + 60, table["y"] + ROW * 2.5)  # a cell: the system in view
        address_has(tab, "system=satlab-1")
        for number in (1, 2, 3):
            table = box(tab, ".st-key-systems [data-testid='stDataFrame']")
            tab.mouse.click(table["x"] + 16, table["y"] + ROW * (number + 0.5))
            tab.get_by_role("button", name=f"Train selected ({number})").wait_for()
            settled(tab)
        tab.get_by_role("button", name="Train selected (3)").click()
        heading(tab, "Queue")
        settled(tab)
        # the running job may end at any time and the queue move on, so only what was touched is looked at
        last = tab.locator("[class*='st-key-earlier_']").last.get_attribute("class")
        tab.locator("[class*='st-key-earlier_']").last.get_by_role("button").click()
        tab.wait_for_function(
            "last => [...document.querySelectorAll('[class*=st-key-earlier_]')].at(-1)?.className !== last", arg=last
        )
        settled(tab)
        removed = tab.locator("[class*='st-key-remove_']").last.get_attribute("class").split("st-key-")[1].split()[0]
        tab.locator(f".st-key-{removed}").get_by_role("button").click()
        tab.locator(f".st-key-{removed}").wait_for(state="detached")
        tab.get_by_test_id("stSidebar").get_by_role("button", name="Cancel").first.wait_for()
        tab.goto("about:blank")
