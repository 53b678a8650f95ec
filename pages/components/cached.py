"""Readers of `asd_core.api` with a memory; the key of each is what the data on disk say about themselves."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from asd_core import api
from pages.components.context import workspace


def runs() -> dict[str, api.Run]:
    """Finished runs by id, newest first."""
    return {run.record["run_id"]: run for run in api.runs(workspace())}


def leaderboard() -> pd.DataFrame:
    return _leaderboard(str(workspace().root), tuple(map(api.run_stamp, runs().values())))


def clip_table(run: api.Run) -> pd.DataFrame:
    return _clip_table(run.record["run_id"], str(workspace().root), api.run_stamp(run))


def machine_matrix(run: api.Run) -> pd.DataFrame:
    return _machine_matrix(run.record["run_id"], str(workspace().root), api.run_stamp(run))


@st.cache_data(show_spinner=False, max_entries=4)
def _leaderboard(root: str, stamps: tuple[str, ...]) -> pd.DataFrame:
    return api.leaderboard(workspace())


@st.cache_data(show_spinner=False, max_entries=8)
def _clip_table(run_id: str, root: str, stamp: str) -> pd.DataFrame:
    return api.clip_table(workspace(), runs()[run_id])


@st.cache_data(show_spinner=False, max_entries=32)
def _machine_matrix(run_id: str, root: str, stamp: str) -> pd.DataFrame:
    return api.machine_matrix(runs()[run_id])
