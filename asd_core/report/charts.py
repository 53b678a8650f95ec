"""Figures of a report, and spectrograms as images. Domains have a colour, labels a style, as on the pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from asd_core.metrics import MAX_FPR

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

COLOURS = {"source": "#0072B2", "target": "#E69F00", "all": "#7A8794", "": "#0072B2"}
THRESHOLD = "#D64545"
INK = "#24292f"  # of text and axes; HTML sets the reader's own in its place
HEIGHT = 192  # pixels of a spectrogram


def scores_and_roc(
    counts: pd.DataFrame, threshold: float, curves: Mapping[str, pd.DataFrame], captions: Mapping[str, str]
) -> Figure:
    """Histograms of one machine's scores, a row per domain, and beside them its ROC curves where there are labels.

    Args:
        counts: as of `analysis.histogram`
        curves: as of `api.roc_curves`, with a caption for each
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    domains = [domain for domain in ("source", "target", "") if domain in set(counts["domain"])]
    style: dict[Any, Any] = {
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "hatch.linewidth": 0.8,
    }
    style |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    with rc_context(style):
        figure = Figure(figsize=(7.4, 2.9), layout="constrained")
        figure.patch.set_alpha(0)
        grid = figure.add_gridspec(len(domains), 2 if curves else 1, width_ratios=(3, 2) if curves else (1,))
        top: Axes | None = None
        for row, domain in enumerate(domains):
            axes = figure.add_subplot(grid[row, 0], sharex=top)
            top = top or axes
            _histogram(axes, counts[counts["domain"] == domain], domain, threshold)
            if row == 0:
                axes.legend(frameon=False, loc="upper right", fontsize=7)
            if row < len(domains) - 1:
                axes.tick_params(labelbottom=False)
            else:
                axes.set_xlabel("Anomaly score")
        if curves:
            _roc(figure.add_subplot(grid[:, 1]), curves, captions)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
    return figure


def _histogram(axes: Axes, counts: pd.DataFrame, domain: str, threshold: float) -> None:
    from matplotlib.ticker import MaxNLocator

    for label, bars in counts.groupby("label", dropna=False):
        edges = np.append(bars["low"], bars["high"].iloc[-1])
        look: dict[str, Any] = {
            "label": "all clips" if pd.isna(label) else "× anomaly" if label else "○ normal",
            "color": COLOURS[domain],
        }
        if label == 1:
            axes.stairs(bars["count"], edges, hatch="////", linewidth=1.2, **look)
        else:
            axes.stairs(bars["count"], edges, fill=True, alpha=0.65, **look)
    axes.axvline(threshold, color=THRESHOLD, linestyle="--", linewidth=1.3, label=f"threshold {threshold:.4g}")
    axes.set_ylabel(f"{domain} clips".strip().capitalize())
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def _roc(axes: Axes, curves: Mapping[str, pd.DataFrame], captions: Mapping[str, str]) -> None:
    axes.axvspan(0, MAX_FPR, color=COLOURS["all"], alpha=0.2, linewidth=0)
    axes.plot([0, 1], [0, 1], color=COLOURS["all"], linestyle=":", linewidth=1)
    for name, curve in curves.items():
        line = "--" if name == "all" else "-"
        axes.plot(curve["fpr"], curve["tpr"], color=COLOURS[name], linestyle=line, linewidth=1.6, label=captions[name])
    axes.set(xlabel="False-alarm rate (shaded: pAUC)", ylabel="Found anomalies", xlim=(-0.01, 1.01), ylim=(-0.01, 1.03))
    axes.legend(frameon=False, loc="lower right", fontsize=7)


def spectrogram_image(levels: np.ndarray, low: float, high: float) -> Image:
    """(rows, frames) dBFS, low frequencies first, in the pages' colours from `low` to `high` dBFS."""
    from matplotlib import colormaps
    from PIL import Image

    colours = colormaps["magma"]((levels[::-1] - low) / (high - low), bytes=True)[..., :3]
    image = Image.fromarray(np.ascontiguousarray(colours), "RGB")
    return image.resize((min(image.width, 480), HEIGHT), Image.Resampling.BOX)
