"""Starts the app: ``streamlit run app.py``, or with another workspace ``streamlit run app.py -- --workspace DIR``.

This file draws nothing. The router lives in pages/shell/main.py, because a script that sits beside a folder called
``pages`` may find Streamlit running one of those files in its place when a deep link is a new server's first request.
"""

from pathlib import Path

import streamlit as st

from pages.shell.routes import middleware, routes

app = st.App(Path(__file__).parent / "pages" / "shell" / "main.py", routes=routes, middleware=middleware)
