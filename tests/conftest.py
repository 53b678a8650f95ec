"""Shared by all tests: a small simulated data set, and the command line as a user calls it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: idle threads that spin would starve the others
    os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
SYSTEMS = Path(__file__).parent / "systems"


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A few simulated machines with a few short clips each; read it, do not change it."""
    from asd_core.data.simulate import simulate

    root = tmp_path_factory.mktemp("data") / "tiny"
    simulate(root, "tiny")
    return root


def asd(*arguments: object, **options) -> subprocess.CompletedProcess:
    """``python -m asd_core …`` in a process of its own, on one thread: tests run side by side."""
    command = [sys.executable, "-m", "asd_core", *map(str, arguments)]
    options.setdefault("env", ENVIRONMENT)
    options.setdefault("timeout", 300)
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, **options)


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run the command line in this process; returns exit code, stdout and stderr on single lines."""
    from asd_core.__main__ import main

    monkeypatch.setenv("COLUMNS", "500")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["asd_core", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err + captured.out
        return code, captured.out, " ".join(captured.err.split())

    return call
