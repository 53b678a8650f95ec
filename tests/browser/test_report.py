"""A report as a browser shows it, and the tour across pages and a refresh."""

from importlib.resources import files

import pytest

from asd_core import api, report
from tests.browser.driver import needs_browser

pytestmark = needs_browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_is_readable_by_all_and_asks_nobody(chromium, workspace, tmp_path, scheme):
    run, other = (api.load_run(workspace, f"{name}--workshop--quick--seed0") for name in ("logmel-maha", "logmel-knn"))
    path = tmp_path / "report.html"
    path.write_text(report.to_html(report.build(workspace, run, other, clips=2)))
    page = chromium.new_page(viewport={"width": 420, "height": 900}, color_scheme=scheme, bypass_csp=True)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if not request.url.startswith("data:") else None)
    page.goto(path.as_uri())
    assert asked == [path.as_uri()]
    drawn = page.evaluate("() => [...document.images].map((one) => one.complete && one.naturalWidth)")
    assert drawn
    assert all(drawn)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 420
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
    assert [one["id"] for one in page.evaluate("() => axe.run()")["violations"]] == []
    page.close()


def test_the_tour_goes_on_after_a_refresh_and_ends(tab, server):
    tab.goto(f"{server}/?tour=1")
    tab.locator(".st-key-tour_next button").click()
    tab.get_by_text("Tour 2 of 9").wait_for()
    tab.wait_for_url("**/results?**tour=2**")
    tab.reload()
    tab.get_by_text("Tour 2 of 9").wait_for()
    tab.get_by_role("link", name="Weights").click()
    tab.get_by_role("button", name="Show me").click()  # the tour goes along and leads back
    tab.wait_for_url("**/results?**tour=2**")
    tab.get_by_role("button", name="End the tour").click()
    tab.get_by_text("Tour 2 of 9").wait_for(state="detached")
    tab.wait_for_function("() => !location.search.includes('tour')")
