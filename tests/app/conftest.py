"""Workspaces for the app's tests, and the app itself under AppTest."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from asd_core import jobs
from asd_core.artifacts import Workspace
from pages.components import context
from tests.app import example

MAIN = context.PAGES / "shell" / "main.py"


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("example")
    example.build(folder)
    return folder


@pytest.fixture
def full(built: Path, tmp_path: Path) -> Workspace:
    """A copy that a test may break; the recordings are shared unless it copies them too."""
    shutil.copytree(built / "workspace", tmp_path / "workspace")
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def empty(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "empty")


@pytest.fixture(autouse=True)
def fake_jobs(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(jobs, "WORKER", (sys.executable, str(Path(__file__).with_name("fake_worker.py"))))
    yield
    context.workspace.cache_clear()


@pytest.fixture
def open_app(monkeypatch) -> Callable[..., AppTest]:
    """open_app(workspace, "results", machine="fan", …) → the app on that page, run once."""

    def open_page(workspace: Workspace, page: str = "home", **query: str) -> AppTest:
        monkeypatch.setattr(sys, "argv", ["app.py", "--workspace", str(workspace.root)])
        context.workspace.cache_clear()
        app = AppTest.from_file(str(MAIN), default_timeout=30)
        for name, value in query.items():
            app.query_params[name] = value
        app.switch_page(context.page(page))
        app.run()
        assert not app.exception, [one.value + "\n" + "\n".join(one.stack_trace) for one in app.exception]
        return app

    return open_page
