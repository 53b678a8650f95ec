"""Figures from tables. Domains have a colour, labels have a style, so that no meaning hangs on colour alone."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

DOMAIN_COLOURS = {"source": "#0072B2", "target": "#E69F00", "all": "#7A8794", "": "#0072B2"}
THRESHOLD = "#D64545"
MARGINS = {"l": 10, "r": 10, "t": 30, "b": 10}
BELOW = {"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0}
CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}


def score_histograms(counts: pd.DataFrame, threshold: float) -> go.Figure:
    """Scores of one machine, a row per domain: normal clips filled, anomalous ones hatched, threshold dashed.

    `counts` as of `analysis.histogram`.
    """
    domains = [domain for domain in ("source", "target", "") if domain in set(counts["domain"])]
    figure = make_subplots(rows=len(domains), cols=1, shared_xaxes=True, vertical_spacing=0.08)
    for row, domain in enumerate(domains, 1):
        own = counts[counts["domain"] == domain]
        for label, bars in own.groupby("label", dropna=False):
            kind = "all clips" if pd.isna(label) else ("anomaly" if label else "normal")
            name = f"{domain} {kind}".strip()
            colour = DOMAIN_COLOURS[domain]
            hatched = {"shape": "/", "fgcolor": colour, "bgcolor": "rgba(0,0,0,0)", "solidity": 0.4, "size": 6}
            figure.add_bar(
                x=(bars["low"] + bars["high"]) / 2,
                y=bars["count"],
                width=bars["high"] - bars["low"],
                name=kind,
                legendgroup=kind,
                showlegend=row == 1,
                marker={
                    "color": colour,
                    "line": {"color": colour, "width": 1},
                    "pattern": hatched if kind == "anomaly" else None,
                },
                opacity=0.95 if kind == "anomaly" else 0.6,
                hovertemplate=f"{name}<br>score %{{x:.4f}}<br>%{{y}} clips<extra></extra>",
                row=row,
                col=1,
            )
        figure.update_yaxes(title_text=f"{domain} clips".strip().capitalize(), row=row, col=1)
    figure.add_vline(x=threshold, line={"color": THRESHOLD, "dash": "dash", "width": 2})
    figure.add_annotation(
        x=threshold, y=1, yref="paper", text=f"threshold {threshold:.4f}", showarrow=False,
        yanchor="bottom", font={"color": THRESHOLD},
    )  # fmt: skip
    figure.update_xaxes(title_text="Anomaly score", row=len(domains), col=1)
    figure.update_layout(barmode="overlay", height=360, margin=MARGINS, legend=BELOW, bargap=0)
    return figure


def roc(curves: Mapping[str, pd.DataFrame], captions: Mapping[str, str]) -> go.Figure:
    """ROC curves of one machine; the part that counts for the pAUC is shaded. `captions` name the curves."""
    figure = go.Figure()
    figure.add_vrect(x0=0, x1=0.1, fillcolor="#7A8794", opacity=0.18, line_width=0)
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot", "color": "#7A8794", "width": 1}, showlegend=False,
        hoverinfo="skip",
    )  # fmt: skip
    for name, curve in curves.items():
        figure.add_scatter(
            x=curve["fpr"],
            y=curve["tpr"],
            customdata=curve["threshold"],
            mode="lines",
            line={"color": DOMAIN_COLOURS[name], "width": 2.5, "dash": "dash" if name == "all" else "solid"},
            name=captions[name],
            hovertemplate="threshold %{customdata:.4f}<br>false alarms %{x:.1%}<br>found %{y:.1%}<extra></extra>",
        )
    figure.add_annotation(x=0.05, y=1.0, yanchor="bottom", text="pAUC", showarrow=False, font={"size": 11})
    figure.update_xaxes(title_text="False-alarm rate", range=[-0.01, 1.01], tickformat=".0%", constrain="domain")
    figure.update_yaxes(title_text="Found anomalies", range=[-0.01, 1.06], tickformat=".0%")
    inside = {"x": 0.98, "xanchor": "right", "y": 0.04, "yanchor": "bottom"}
    figure.update_layout(height=360, margin=MARGINS, legend=inside)
    return figure


def loss_curve(table: pd.DataFrame) -> go.Figure:
    """Reported losses, one line per training."""
    figure = go.Figure()
    for stage, rows in table.groupby("stage", sort=False):
        figure.add_scatter(x=rows["step"], y=rows["value"], mode="lines", name=str(stage))
    figure.update_xaxes(title_text="Step")
    figure.update_yaxes(title_text="Loss")
    below = BELOW | {"y": -0.35}
    figure.update_layout(height=260, margin=MARGINS, legend=below, showlegend=table["stage"].nunique() <= 6)
    return figure
