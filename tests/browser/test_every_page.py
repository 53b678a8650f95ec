"""What holds for every page: nothing serious for axe-core, a clean console (the fixture sees to it), a light load."""

import re
from importlib.resources import files

import pytest

from pages.shell.places import PLACES
from tests.browser.driver import needs_browser

pytestmark = needs_browser
PAGES = [name for places in PLACES.values() for name, *_ in places]
BUNDLE = re.compile(r"/static/|/_stcore/|/component")  # Streamlit's own front end, which the browser keeps
LOAD = 2_000_000  # bytes of one page without it


def open_page(tab, server: str, page: str) -> None:
    tab.goto(f"{server}/{page if page != 'home' else ''}")
    tab.get_by_role("heading").first.wait_for()
    tab.wait_for_function(
        "() => !document.querySelector('[data-testid=stStatusWidget], [data-testid=stSkeleton]') "
        "&& document.querySelector('[data-testid=stApp]').dataset.testScriptState !== 'running'"
    )
    assert tab.get_by_test_id("stException").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_no_serious_barrier(tab, server, page, scheme):
    tab.emulate_media(color_scheme=scheme)
    open_page(tab, server, page)
    tab.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
    found = tab.evaluate("() => axe.run()")["violations"]
    serious = [
        f"{one['id']}: {one['help']} {[node['html'][:200] for node in one['nodes'][:3]]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert not serious


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_a_light_load(tab, server, page):
    received: list[int] = []
    tab.on("websocket", lambda socket: socket.on("framereceived", lambda frame: received.append(len(frame))))
    tab.on(
        "response",
        lambda answer: (
            received.append(int(answer.headers.get("content-length", 0))) if not BUNDLE.search(answer.url) else None
        ),
    )
    open_page(tab, server, page)
    assert 0 < sum(received) < LOAD
