"""What the app costs at the size of the challenge, measured in Chromium: ``python -m tests.bench_app [--minutes 30]``.

Builds the workspace of `tests.fullscale` (or takes one: ``--folder DIR``), opens the real app on it and prints, against
the budgets: times from a key or click to what a visitor sees or hears, bytes over the wire per click, and the server's
memory before and after scripted browsing. Medians of several tries; the first visit of a page is told apart.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from playwright.sync_api import Page, sync_playwright

from asd_core.artifacts import Workspace
from tests import fullscale
from tests.browser.driver import CHROMIUM, FIND, FLAGS, serving
from tests.browser.test_explore import RING, draw

QUIET = "() => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"
PLAYER = "() => ['paused', 'playing'].includes(window.find()?.dataset.state)"
LOUD = "before => { const p = window.find(); return p && p.dataset.clip !== before && p.player.rms() > 0 }"


class Wire:
    """Counts what the browser receives, on sockets and as answers, without Streamlit's own front end."""

    def __init__(self, tab: Page) -> None:
        self.received = 0
        tab.on("websocket", lambda socket: socket.on("framereceived", lambda frame: self._add(len(frame))))
        tab.on("response", lambda answer: self._add(int(answer.headers.get("content-length", 0)))
               if "/asd/" in answer.url else None)  # fmt: skip

    def _add(self, number: int) -> None:
        self.received += number

    def take(self) -> int:
        taken, self.received = self.received, 0
        return taken


def quiet(tab: Page) -> None:
    tab.wait_for_function(QUIET)


def timed(act: Callable[[], object], seen: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    seen()
    return time.perf_counter() - started


def report(what: str, value: float, budget: float, unit: str) -> None:
    verdict = "ok" if value <= budget else "MISSED"
    print(f"{what:58s} {value:9.3g} {unit:3s} (budget {budget:g}) {verdict}", flush=True)


def paint(tab: Page, server: str, wire: Wire) -> None:
    pages = {
        "home": ("", "Readiness"),
        "results": ("results?machine=machine03", "Clips"),
        "explore": ("explore?machine=machine03", "Explore"),
        "data": ("data?machine=machine03", "Data"),
        "train": ("train", "Train"),
        "fusion": ("fusion", "Fusion"),
        "score": ("score", "Score a clip"),
        "screening": ("screening", "Screening"),
        "export": ("export", "Export"),
    }
    for name, (path, words) in pages.items():

        def visit(path: str = path, words: str = words) -> float:
            heading = tab.get_by_role("heading", name=words).first
            return timed(lambda: tab.goto(f"{server}/{path}"), heading.wait_for)

        first = visit()
        quiet(tab)
        wire.take()
        again, whole = [], []
        for _ in range(3):
            again.append(visit())
            whole.append(again[-1] + timed(lambda: None, lambda: quiet(tab)))
        size = wire.take() / 3
        report(f"{name}: its first visit (cold caches)", first, 3.0, "s")
        report(f"{name}: paint", statistics.median(again), 1.0, "s")
        report(f"{name}: all of it", statistics.median(whole), 2.0, "s")
        report(f"{name}: load without the front end", size / 1e6, 2.0, "MB")


def clips(tab: Page, server: str, wire: Wire) -> None:
    tab.goto(f"{server}/results?machine=machine05&show=By+name")
    tab.wait_for_function(PLAYER)
    quiet(tab)
    tab.keyboard.press("Space")
    tab.wait_for_function(LOUD, arg="")
    for visit, key in (("new clip", "j"), ("cached clip", "k")):
        times, sizes = [], []
        for _ in range(6):
            before = tab.evaluate("() => window.find().dataset.clip")
            wire.take()
            times.append(timed(
                lambda key=key: tab.keyboard.press(key),
                lambda before=before: tab.wait_for_function(LOUD, arg=before),
            ))  # fmt: skip
            quiet(tab)
            sizes.append(wire.take())
        report(f"results: {visit}, key to sound", statistics.median(times), 0.3 if key == "k" else 0.6, "s")
        report(f"results: {visit}, bytes with its sound and pictures", statistics.median(sizes) / 1e3, 2000, "kB")


def socket_bytes(tab: Page, server: str) -> None:
    received = [0]
    tab.on("websocket", lambda socket: socket.on(
        "framereceived", lambda frame: received.__setitem__(0, received[0] + len(frame))))  # fmt: skip
    tab.goto(f"{server}/results?machine=machine05&show=By+name")
    tab.wait_for_function(PLAYER)
    quiet(tab)
    for what, act in (
        ("next clip", lambda: tab.keyboard.press("j")),
        ("domain filter", lambda: tab.locator(".st-key-domain button").nth(1).click()),
        ("preset", lambda: pick(tab, "Show", "Highest scores")),
    ):
        received[0] = 0
        act()
        tab.wait_for_timeout(400)
        quiet(tab)
        report(f"results: {what}, bytes on the socket", received[0] / 1e3, 100, "kB")


def pick(tab: Page, label: str, option: str) -> None:
    tab.get_by_role("combobox", name=label).click()
    tab.get_by_role("option", name=option).click()


def filters(tab: Page, server: str) -> None:
    tab.goto(f"{server}/results?machine=machine05&show=By+name")
    tab.get_by_text("200 of 200").wait_for()
    quiet(tab)
    times = []
    for words in ("100 of 200", "200 of 200") * 3:
        times.append(timed(
            lambda: tab.locator(".st-key-domain button").nth(1).click(),
            lambda words=words: tab.get_by_text(words).first.wait_for(),
        ))  # fmt: skip
        quiet(tab)
    report("results: filter", statistics.median(times), 0.4, "s")


def mapped(tab: Page, server: str, run: str) -> None:
    """The map of all 14,400 clips. WebGL runs on the processor here, and the browser's part of a lasso with it."""
    received = [0]
    tab.on("websocket", lambda socket: socket.on(
        "framereceived", lambda frame: received.__setitem__(0, received[0] + len(frame))))  # fmt: skip
    ring = f"() => {RING}?.dataset.clip && {RING}.style.left"
    address = f"{server}/explore?run={run}&machine=machine03"
    report(
        "explore: map of 14,400 clips", timed(lambda: tab.goto(address), lambda: tab.wait_for_function(ring)), 3, "s"
    )
    quiet(tab)
    before = tab.evaluate(f"{RING}.dataset.clip")
    received[0] = 0
    step = timed(
        lambda: tab.keyboard.press("j"),
        lambda: tab.wait_for_function(f"clip => {RING}?.dataset.clip !== clip", arg=before),
    )
    quiet(tab)
    report("explore: next clip, key to ring", step, 0.3, "s")
    report("explore: next clip, bytes on the socket", received[0] / 1e3, 100, "kB")
    received[0] = 0
    lasso = timed(
        lambda: draw(tab, (0.05, 0.3), (0.25, 0.3), (0.25, 0.6), (0.05, 0.6), (0.05, 0.31)),
        lambda: tab.get_by_role("button", name="Listen through").wait_for(),
    )
    quiet(tab)
    report("explore: lasso, from its beginning to the list", lasso, 2, "s")
    report("explore: lasso, bytes on the socket", received[0] / 1e3, 100, "kB")


def browse(tab: Page, server: str, process: psutil.Process, minutes: float) -> None:
    """Round and round: pages, machines, clips."""
    memory = lambda: sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 1e6  # noqa: E731
    before, end, rounds = memory(), time.monotonic() + 60 * minutes, 0
    seen = [before]
    for number in itertools.count():
        if time.monotonic() > end:
            break
        machine = fullscale.MACHINES[number % len(fullscale.MACHINES)]
        for path in (
            f"results?machine={machine}",
            f"explore?machine={machine}",
            f"data?machine={machine}",
            "train",
            "fusion",
        ):
            tab.goto(f"{server}/{path}")
            tab.get_by_role("heading").first.wait_for()
            quiet(tab)
            if path.startswith("results"):
                for _ in range(5):
                    tab.keyboard.press("j")
                    tab.wait_for_timeout(300)
                quiet(tab)
        rounds += 1
        seen.append(memory())
    report(f"server memory, {rounds} rounds in {minutes:g} min (from {before:.0f} MB)", max(seen), 1000, "MB")
    half = len(seen) // 2
    print(f"  after half of it {seen[half]:.0f} MB, at the end {seen[-1]:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--minutes", type=float, default=2.0)
    asked = parser.parse_args()
    if CHROMIUM is None:
        print("No Chromium on this machine: the app is not measured.")
        return
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        workspace = Workspace(asked.folder / "workspace") if asked.folder else fullscale.build(Path(scratch))
        run = workspace.run_ids()[0]
        words = ["project", "--run", run, "--method", "pca", "--workspace", str(workspace.root)]
        subprocess.run([sys.executable, "-m", "asd_core", *words], check=True, capture_output=True)
        with serving(workspace) as server:
            (process,) = [
                psutil.Process(link.pid)
                for link in psutil.net_connections("tcp")
                if link.status == "LISTEN" and link.laddr.port == int(server.rpartition(":")[2])
            ]
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            tab = browser.new_page(viewport={"width": 1400, "height": 900})
            tab.set_default_timeout(60_000)
            tab.add_init_script(FIND)
            wire = Wire(tab)
            paint(tab, server, wire)
            clips(tab, server, wire)
            filters(tab, server)
            socket_bytes(tab, server)
            mapped(tab, server, run)
            browse(tab, server, process, asked.minutes)
            browser.close()


if __name__ == "__main__":
    main()
