"""Facts of the field that follow from sizes alone: token grids, fixed scales, and what figures are possible."""

import numpy as np
import pandas as pd
import pytest
import torch

from asd_core import metrics
from asd_core.backbones.beats import Beats
from asd_core.backbones.fbank import frame_count
from asd_core.training.losses import LOSSES


@pytest.mark.parametrize(("seconds", "steps"), [(6, 37), (10, 62), (12, 74), (16, 99)])
def test_patch_grid_of_a_clip(seconds, steps):
    with torch.device("meta"):
        trunk = Beats(layers=1, width=16, heads=2, ffn=16, patch_width=16)
    assert int(trunk.patches(torch.tensor(frame_count(seconds * 16_000)))) == steps


@pytest.mark.parametrize(("classes", "scale"), [(12, 7.428), (80, 10.117)])
def test_fixed_scale_of_subcluster_adacos(classes, scale):
    loss = LOSSES.create({"name": "subcluster_adacos", "subclusters": 16}, dim=8, classes=classes)
    assert float(loss.scale) == pytest.approx(scale, abs=1e-3)


def test_figures_lie_on_the_grid_that_the_counts_allow():
    """50 normals of a domain against 100 anomalies, or against that domain's 50: multiples of 1/5000 and 1/2500. It is
    how one can tell which of the two a published table holds."""
    rng = np.random.default_rng(0)
    clips = [(d, label, i) for d in ("source", "target") for label in (0, 1) for i in range(50)]
    table = pd.DataFrame(clips, columns=["domain", "label", "clip_id"])
    table = table.assign(machine="fan", section="00", score=rng.normal(size=len(table)) + table["label"])
    table["clip_id"] = [f"{d}{label}{i}" for d, label, i in clips]
    figures = metrics.evaluate(table, bootstrap=0)["machines"]["fan"]["00"]
    odd = 0
    for domain in ("source", "target"):
        official, restricted = figures[f"auc_{domain}"], figures[f"auc_{domain}_restricted"]
        assert official * 5000 == pytest.approx(round(official * 5000), abs=1e-7)
        assert restricted * 2500 == pytest.approx(round(restricted * 2500), abs=1e-7)
        odd += round(official * 5000) % 2
    assert odd  # an official figure that a restricted one cannot be
