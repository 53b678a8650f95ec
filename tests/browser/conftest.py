"""One server of the app per module and a tab of Chromium whose console must stay clean."""

import pytest

from asd_core import api
from tests.app import example
from tests.browser.driver import CHROMIUM, FIND, FLAGS, PROBE, serving


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> api.Workspace:
    return example.build(tmp_path_factory.mktemp("browser"), clips=4, seconds=2.0)


@pytest.fixture(scope="module")
def server(workspace):
    with serving(workspace) as address:
        yield address


@pytest.fixture(scope="session")
def chromium():
    playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium):
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(30_000)
    page.add_init_script(FIND)
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "console",
        lambda line: said.append(line.text) if line.type == "error" and PROBE not in line.location["url"] else None,
    )
    yield page
    page.close()
    assert not said
