"""From two runs to a package: fused, exported, downloaded, and checked again."""

import pytest

from asd_core import api
from tests.app import example
from tests.browser.driver import heading, needs_browser, serving

pytestmark = needs_browser


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> api.Workspace:
    return example.build(tmp_path_factory.mktemp("export"), clips=4, seconds=0.5)


def run_of(workspace: api.Workspace, system: str) -> str:
    return next(run.record["run_id"] for run in api.runs(workspace) if run.record["system"] == system)


def fill(tab, label: str, text: str) -> None:
    box = tab.get_by_label(label, exact=True)
    box.fill(text)
    box.press("Tab")  # only what was left counts as entered


def test_two_systems_become_one_package(tab, workspace, tmp_path):
    members = ",".join(run_of(workspace, name) for name in ("logmel-maha", "logmel-knn"))
    with serving(workspace) as address:
        tab.goto(f"{address}/fusion?members={members}")
        heading(tab, "Save as system")
        tab.get_by_text("systems/fusion-1.yaml").wait_for()
        tab.get_by_role("button", name="Save").click()
        tab.get_by_text("fusion-1 is saved.").wait_for()
        run_id = run_of(workspace, "fusion-1")

        tab.get_by_test_id("stSidebar").get_by_role("link", name="Export").click()
        heading(tab, "Systems (up to 4)")
        runs = tab.locator(".st-key-export_runs")
        runs.get_by_text("fusion-1", exact=False).first.wait_for()  # the best, so it is picked already
        runs.get_by_role("combobox").first.click()
        tab.get_by_role("option", name="official-mse").click()  # the second system
        tab.keyboard.press("Escape")
        tab.get_by_label("System 2: name").wait_for()
        build = tab.get_by_role("button", name="Build and check")
        assert build.is_disabled()
        tab.get_by_text("Still missing or not in the right form").wait_for()
        for label, text in {
            "First name": "Ada",
            "Last name": "Byron",
            "E-mail": "ada@example.org",
            "Institution, in full": "London University",
            "Institute, short": "LU",
        }.items():
            fill(tab, label, text)
        tab.get_by_text("Still missing or not in the right form: technical report").wait_for()
        assert build.is_disabled()

        paper = b"%PDF-1.7\n1 0 obj <</Type /Page>> endobj\n%%EOF\n"
        report = {"name": "report.pdf", "mimeType": "application/pdf", "buffer": paper}
        tab.locator(".st-key-report input[type=file]").set_input_files(report)
        tab.get_by_text("report.pdf").first.wait_for()
        tab.locator(".st-key-build button:not([disabled])").first.click()
        ready = tab.locator(".st-key-download_new button:not([disabled])").first
        ready.wait_for()
        with tab.expect_download() as caught:
            ready.click()
        caught.value.save_as(tmp_path / "package.zip")
        tab.goto("about:blank")

    payload = (tmp_path / "package.zip").read_bytes()
    found = api.check_package(payload, api.expected_of(workspace, "workshop"))
    assert not (found["ok"] == "fail").any(), found[found["ok"] == "fail"]
    folders = {name.split("/")[1] for name in found["file"] if name.count("/") > 1}
    assert folders <= {"Byron_LU_task2_1", "Byron_LU_task2_2"}
    made = api.packages(workspace)[0]
    assert made.path.read_bytes() == payload
    assert run_id in {run.record["run_id"] for run in api.runs(workspace)}
