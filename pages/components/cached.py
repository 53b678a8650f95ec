"""Readers of `asd_core.api` with a memory; the key of each is what the data on disk say about themselves."""

from __future__ import annotations

from typing import Any

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
    return _clip_table(run.record["run_id"], str(workspace().root), _told(run))


def _told(run: api.Run) -> tuple[str, str]:
    """Changes with a run, and with the recordings whose names tell the truth about its clips."""
    return api.run_stamp(run), api.clips_stamp(workspace(), run.record["data"]["name"])


def machine_matrix(run: api.Run) -> pd.DataFrame:
    return _machine_matrix(run.record["run_id"], str(workspace().root), api.run_stamp(run))


def neighbours(run: api.Run, clip_id: str, branch: str | None = None) -> pd.DataFrame:
    return _neighbours(run.record["run_id"], clip_id, branch, str(workspace().root), _told(run))


def heat(run: api.Run, clip_id: str, branch: str | None = None) -> api.Heat:
    return api.heat(workspace(), run, clip_id, branch)  # the reader itself remembers its files


def explanation(run: api.Run, clip_id: str) -> api.Explanation:
    return _explanation(run.record["run_id"], clip_id, str(workspace().root), api.run_stamp(run))


def scores_by_system(data: str, clip_id: str) -> pd.DataFrame:
    stamps = tuple(api.run_stamp(run) for run in runs().values() if run.record["data"]["name"] == data)
    return _scores_by_system(data, clip_id, str(workspace().root), stamps)


@st.cache_data(show_spinner=False, max_entries=4)
def _leaderboard(root: str, stamps: tuple[str, ...]) -> pd.DataFrame:
    return api.leaderboard(workspace())


@st.cache_data(show_spinner=False, max_entries=8)
def _clip_table(run_id: str, root: str, stamps: tuple[str, str]) -> pd.DataFrame:
    return api.clip_table(workspace(), runs()[run_id])


@st.cache_data(show_spinner=False, max_entries=32)
def _machine_matrix(run_id: str, root: str, stamp: str) -> pd.DataFrame:
    return api.machine_matrix(runs()[run_id])


def inventory(data: str) -> api.Inventory:
    """Raises AsdError for a data set that is not there; so does `check`."""
    return _inventory(data, str(workspace().root), api.files_stamp(workspace(), data))


def check(data: str) -> api.Check | None:
    return _check(data, str(workspace().root), api.check_stamp(workspace(), data))


@st.cache_resource(show_spinner=False, max_entries=4)
def _inventory(data: str, root: str, stamp: str) -> api.Inventory:
    return api.inventory(workspace(), data)


@st.cache_resource(show_spinner=False, max_entries=4)
def _check(data: str, root: str, stamp: str) -> api.Check | None:
    return api.check(workspace(), data) if stamp else None


def comparison(run: api.Run, other: api.Run) -> dict[str, Any]:
    """`api.compare_runs`; as slow as its bootstrap the first time."""
    ids = (run.record["run_id"], other.record["run_id"])
    return _comparison(*ids, str(workspace().root), api.run_stamp(run), api.run_stamp(other))


def recordings(run: api.Run) -> tuple[str, str]:
    """`api.check_recordings`, which looks at every file: again only after half a minute."""
    return _recordings(run.record["run_id"], str(workspace().root), api.run_stamp(run))


@st.cache_data(show_spinner="Comparing clip by clip", max_entries=32)
def _comparison(run_id: str, other_id: str, root: str, stamp: str, other_stamp: str) -> dict[str, Any]:
    return api.compare_runs(runs()[run_id], runs()[other_id])


@st.cache_data(show_spinner=False, max_entries=8, ttl=30)
def _recordings(run_id: str, root: str, stamp: str) -> tuple[str, str]:
    return api.check_recordings(workspace(), runs()[run_id])


@st.cache_data(show_spinner=False, max_entries=64)
def _neighbours(run_id: str, clip_id: str, branch: str | None, root: str, stamps: tuple[str, str]) -> pd.DataFrame:
    return api.neighbours(workspace(), runs()[run_id], clip_id, branch=branch)


@st.cache_data(show_spinner=False, max_entries=64)
def _explanation(run_id: str, clip_id: str, root: str, stamp: str) -> api.Explanation:
    return api.explanation(workspace(), runs()[run_id], clip_id)


@st.cache_data(show_spinner=False, max_entries=64)
def _scores_by_system(data: str, clip_id: str, root: str, stamps: tuple[str, ...]) -> pd.DataFrame:
    return api.scores_by_system(workspace(), data, clip_id)


def aligned(run_ids: tuple[str, ...], normalise: str) -> api.Aligned:
    """Raises AsdError for runs that do not go together; so do the readers below."""
    return _aligned(run_ids, normalise, str(workspace().root), _stamps(run_ids))


def rank_correlations(run_ids: tuple[str, ...]) -> pd.DataFrame:
    return _rank_correlations(run_ids, str(workspace().root), _stamps(run_ids))


def fusion_interval(
    run_ids: tuple[str, ...], normalise: str, weights: tuple[float, ...], best: str
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    return _fusion_interval(run_ids, normalise, weights, best, str(workspace().root), _stamps(run_ids))


def fusion_candidates(run_ids: tuple[str, ...]) -> pd.DataFrame:
    return _fusion_candidates(run_ids, str(workspace().root), _stamps(run_ids))


def _stamps(run_ids: tuple[str, ...]) -> tuple[str, ...]:
    finished = runs()
    return tuple(api.run_stamp(finished[run_id]) for run_id in run_ids)


@st.cache_resource(show_spinner=False, max_entries=8)
def _aligned(run_ids: tuple[str, ...], normalise: str, root: str, stamps: tuple[str, ...]) -> api.Aligned:
    finished = runs()
    return api.align_runs([finished[run_id] for run_id in run_ids], normalise)


@st.cache_data(show_spinner=False, max_entries=16)
def _rank_correlations(run_ids: tuple[str, ...], root: str, stamps: tuple[str, ...]) -> pd.DataFrame:
    return api.rank_correlations(aligned(run_ids, "none"))


@st.cache_data(show_spinner=False, max_entries=64)
def _fusion_interval(
    run_ids: tuple[str, ...],
    normalise: str,
    weights: tuple[float, ...],
    best: str,
    root: str,
    stamps: tuple[str, ...],
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    return api.fusion_interval(aligned(run_ids, normalise), weights, best)


@st.cache_data(show_spinner=False, max_entries=4)
def _fusion_candidates(run_ids: tuple[str, ...], root: str, stamps: tuple[str, ...]) -> pd.DataFrame:
    finished = runs()
    return api.fusion_candidates([finished[run_id] for run_id in run_ids])


def generated_sets(data: str) -> list[api.GeneratedSet]:
    stamps = api.generated_stamp(workspace()), api.config_stamp(), api.clips_stamp(workspace(), data)
    return _generated_sets(data, str(workspace().root), stamps)


def candidates(made: api.GeneratedSet) -> pd.DataFrame:
    return _candidates(made, str(workspace().root), made.created)


def screened(made: api.GeneratedSet) -> pd.DataFrame:
    """`candidates` after rule, verdicts and quotas; to be looked at, never changed."""
    return _screened(made, str(workspace().root), made.created, api.verdicts_stamp(workspace(), made))


def systems_using(made: api.GeneratedSet) -> list[str]:
    return _systems_using(made, made.created, api.config_stamp())


def matched_recording(data: str, generated: str, clip_id: str) -> api.Match | None:
    """Raises AsdError where the recordings are gone."""
    return _matched_recording(data, generated, clip_id, str(workspace().root), api.clips_stamp(workspace(), data))


@st.cache_resource(show_spinner=False, max_entries=8)
def _generated_sets(data: str, root: str, stamps: tuple[str, ...]) -> list[api.GeneratedSet]:
    return api.generated_sets(workspace(), data)


@st.cache_resource(show_spinner=False, max_entries=4, hash_funcs={api.GeneratedSet: lambda made: made.key})
def _candidates(made: api.GeneratedSet, root: str, created: float) -> pd.DataFrame:
    return api.candidates(workspace(), made)


@st.cache_resource(show_spinner=False, max_entries=4, hash_funcs={api.GeneratedSet: lambda made: made.key})
def _screened(made: api.GeneratedSet, root: str, created: float, stamp: str) -> pd.DataFrame:
    return api.screened(workspace(), made, _candidates(made, root, created))


@st.cache_data(show_spinner=False, max_entries=8, hash_funcs={api.GeneratedSet: lambda made: made.key})
def _systems_using(made: api.GeneratedSet, created: float, stamp: str) -> list[str]:
    return api.systems_using(made)


@st.cache_data(show_spinner=False, max_entries=512)
def _matched_recording(data: str, generated: str, clip_id: str, root: str, stamp: str) -> api.Match | None:
    return api.matched_recording(workspace(), data, generated, clip_id)


def config_changes(name: str, profile: str) -> pd.DataFrame:
    return _config_changes(name, profile, api.config_stamp())


@st.cache_data(show_spinner=False, max_entries=64)
def _config_changes(name: str, profile: str, stamp: str) -> pd.DataFrame:
    return api.config_changes(name, profile)


def projections(run: api.Run) -> list[api.ProjectionInfo]:
    return _projections(run.record["run_id"], str(workspace().root), api.run_stamp(run), _projections_stamp())


def mapped_clips(run: api.Run, key: str, against: api.Run | None, everything: bool) -> pd.DataFrame:
    """At most `api.MOST_POINTS` of a map's clips unless `everything` is asked for. Shared: do not change it."""
    other = (against.record["run_id"], api.run_stamp(against)) if against else ("", "")
    stamps = str(workspace().root), *_told(run), _projections_stamp()
    return _mapped_clips(run.record["run_id"], key, other[0], everything, (*stamps, other[1]))


def _projections_stamp() -> str:
    return api.projections_stamp(workspace())


@st.cache_resource(show_spinner=False, max_entries=8)
def _projections(run_id: str, root: str, *stamps: str) -> list[api.ProjectionInfo]:
    return api.projections(workspace(), runs()[run_id])


@st.cache_resource(show_spinner=False, max_entries=6)
def _mapped_clips(run_id: str, key: str, against: str, everything: bool, stamps: tuple[str, ...]) -> pd.DataFrame:
    clips = api.mapped_clips(workspace(), runs()[run_id], key, runs().get(against))
    return clips if everything else api.sampled(clips)
