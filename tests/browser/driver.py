"""Running the app for a browser, and a few words for what a visitor does there."""

import contextlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from asd_core import api

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--autoplay-policy=no-user-gesture-required",
]
ROOT = Path(__file__).resolve().parents[2]
PROBE = "_stcore/"  # on a deep link Streamlit's own front end first asks for these below the page's path and gets 404
# the players of a page, which live in shadow roots: all of them, and the first
FIND = """
window.all = () => [...document.querySelectorAll('*')].map(e => e.shadowRoot?.querySelector('.player')).filter(Boolean)
window.find = () => window.all()[0]
"""

needs_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@contextlib.contextmanager
def serving(workspace: api.Workspace, port: int = 0, script: str = "app_with_fake_jobs.py") -> Iterator[str]:
    """The address of a fresh server, which ends with the block."""
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(Path(__file__).with_name(script))]
    command += ["--server.headless", "true", "--server.port", str(port), "--", "--workspace", str(workspace.root)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):  # a starved machine takes its time
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health"):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:  # how it ends is not what is tested here
            server.kill()


def heading(tab, text: str) -> None:
    """Wait for a heading."""
    tab.get_by_role("heading", name=text).first.wait_for()


def settled(tab) -> None:
    """Wait until the script has run and what it drew is there."""
    tab.locator("[data-testid='stApp'][data-test-script-state='notRunning']").wait_for()
    tab.wait_for_function("() => !document.querySelector('[data-stale=true]')")


def address_has(tab, text: str) -> None:
    """Wait until the address, which is written at the end of a run, holds a text."""
    tab.wait_for_function("text => decodeURIComponent(location.search).replaceAll('+', ' ').includes(text)", arg=text)
