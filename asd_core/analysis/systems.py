"""Systems: where they come from, and what they need to be run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from asd_core import weights
from asd_core.analysis.cells import table_of
from asd_core.config import Encoder, Profile, System, resolve
from asd_core.types import AsdError


def system_table(systems: Mapping[str, System], profile: Profile | None = None) -> pd.DataFrame:
    """What each system comes from and what it takes to run it; weights are looked up, not opened.

    Columns: system, from (its family), report ("team number" or "ours"), origin ("published" or "ours"), published
    (percent or None), metric ("official", "domain-restricted" or "–"), networks, weights (names of the checkpoints it
    starts from), two_microphones, needs, status ("ready", or the weights that are not here and what recordings must
    have), idea.

    Args:
        profile: under which it would be run; default: as the systems are written

    Raises:
        AsdError: a system is not valid under the profile.
    """
    rows = []
    here: dict[str, bool] = {}
    for name, system in systems.items():
        resolved = resolve(system, profile) if profile else system
        report = system.report
        wanted = list(dict.fromkeys(_checkpoints(resolved)))
        here |= {one: _is_here(one) for one in wanted if one not in here}
        lacking = [one for one in wanted if not here[one]]
        missing = [f"needs weights {', '.join(lacking)}"] if lacking else []
        stereo = needs_two_microphones(resolved)
        rows.append(
            {
                "system": name,
                "from": system.family,
                "report": f"{report.team} {report.system}" if report else "ours",
                "origin": "published" if report else "ours",
                "published": report.hmean if report else None,
                "metric": report.metric.replace("_", "-") if report else "–",
                "networks": ", ".join(sorted({encoder.backbone.name for encoder in resolved.encoders.values()}))
                or "none",
                "weights": wanted,
                "two_microphones": stereo,
                "needs": ", ".join([*wanted, *(["two microphones"] if stereo else [])]) or "nothing",
                "status": "; ".join([*missing, *(["needs two microphones"] if stereo else [])]) or "ready",
                "idea": system.idea,
            }
        )
    return table_of(rows)


def _checkpoints(system: System) -> Iterator[str]:
    """Published weights that the trainings of a resolved system start from."""
    for encoder in system.encoders.values():
        stage: Encoder | None = encoder
        while stage:
            if checkpoint := stage.backbone.spec.get("checkpoint"):
                yield str(checkpoint)
            stage = stage.start


def _is_here(checkpoint: str) -> bool:
    try:
        weights.locate(checkpoint)
    except AsdError:
        return False
    return True


def needs_two_microphones(system: System) -> bool:
    """Whether a resolved system cannot do without the far microphone, in training or in scoring."""
    return hears_both(system.model_dump(mode="json", exclude={"variants"}))


def hears_both(spec: Any) -> bool:
    """The same of a part of a resolved system's configuration. (Wiener filters and far-field mixing can do without:
    one-channel recordings pass them unchanged.)"""
    if isinstance(spec, dict):
        asks = "far" in (spec.get("channel"), *(spec.get("channels") or ())) or spec.get("name") == "stereo"
        return asks or any(map(hears_both, spec.values()))
    return isinstance(spec, list) and any(map(hears_both, spec))
