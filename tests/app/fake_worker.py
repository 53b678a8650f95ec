"""Stands in for ``python -m asd_core`` in tests of jobs: ``fake_worker.py <what> [options] --job FOLDER``."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from asd_core import jobs
from asd_core.types import AsdError

STEPS = 1200  # a minute: a slow browser must not miss the end


def main() -> None:
    what, folder = sys.argv[1], Path(sys.argv[sys.argv.index("--job") + 1])
    if what == "crash-early":
        raise SystemExit("no such command")
    checkpoint = folder / "checkpoint"
    first = int(checkpoint.read_text()) if checkpoint.exists() else 0
    print(f"starting at step {first}", flush=True)
    with jobs.reporting(folder) as progress:
        if what == "fail":
            raise AsdError("The data are missing. Get them first.")
        if what == "bug":
            raise ZeroDivisionError("division by zero")
        for step in range(first, 2 if what == "short" else STEPS):
            checkpoint.write_text(str(step))
            progress(step / STEPS, f"train stand-in: step {step}", loss=1 / (1 + step), epoch=step)
            print("step", step, flush=True)
            time.sleep(0.05)


if __name__ == "__main__":
    main()
