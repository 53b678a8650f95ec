"""app.py again, except that its jobs run the tests' stand-in worker. (`streamlit run` looks for st.App in the text.)"""

import sys
from pathlib import Path

import streamlit as st

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from asd_core import jobs  # noqa: E402  found by the line above
from pages.shell.routes import middleware, routes  # noqa: E402

jobs.WORKER = (sys.executable, str(ROOT / "tests" / "app" / "fake_worker.py"))
app = st.App(ROOT / "pages" / "shell" / "main.py", routes=routes, middleware=middleware)
