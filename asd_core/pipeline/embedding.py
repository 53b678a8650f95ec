"""Recordings → views → a trained network's outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asd_core.data.manifest import attribute_text
from asd_core.data.stream import stream
from asd_core.files import read_json
from asd_core.pipeline.tasks import VIEW_ITSELF
from asd_core.types import Clip, EmbeddingSet, Progress, no_progress
from asd_core.views import VIEWS


def embed(
    clips: Sequence[Clip],
    view_spec: dict[str, Any],
    trained: Path | None,
    outputs: Sequence[str] = (),
    device: str = "auto",
    bf16: bool = False,
    progress: Progress = no_progress,
    title: str = "embed",
) -> dict[str, EmbeddingSet]:
    """Views of clips, through the trained encoder in folder `trained` if there is one; by output, "view" without."""
    view = VIEWS.create(view_spec)
    source: Any = view
    rows = {output: Rows(len(clips)) for output in outputs or [VIEW_ITSELF]}
    done = 0
    if trained is None:
        for x in stream(clips, view):
            rows[VIEW_ITSELF].append(x, view.kind)
            done += 1
            progress(done / len(clips), title)
    else:
        import torch

        from asd_core.training import loop

        source = backbone = load_encoder(trained)
        target = loop.pick_device(device)
        backbone.to(target)
        with torch.inference_mode(), torch.autocast(target.type, torch.bfloat16, enabled=bf16):
            for batch in _equal_lengths(
                stream(clips, lambda wave: backbone.prepare(view(wave))), backbone.batch_on(target)
            ):
                found = backbone.embed_all(torch.from_numpy(batch).to(target), outputs)
                for output, values in found.items():
                    for x in values.cpu().numpy():
                        rows[output].append(x, backbone.kind_of(output))
                done += len(batch)
                progress(done / len(clips), title)
    facts = [(clip.clip_id, clip.section, clip.domain, attribute_text(clip.attributes)) for clip in clips]
    ids, sections, domains, attributes = map(np.array, zip(*facts, strict=True))
    return {
        output: EmbeddingSet(own.x, ids, sections, domains, attributes, own.valid_steps(), source.layout)
        for output, own in rows.items()
    }


class Rows:
    """One output of N clips, put in place clip by clip: patches are too large to be held twice.

    Patches are kept in half precision: 1000 clips of a base encoder take 0.8 GB instead of 1.5, and cosine distances
    move by some 1e-7.
    """

    x: np.ndarray  # (N, T, …), T the steps of the longest clip so far; beyond a clip's end are zeros

    def __init__(self, count: int) -> None:
        self.count = count
        self.steps: list[int] = []  # of each clip so far

    def append(self, row: np.ndarray, kind: str) -> None:
        """(T, …) of the next clip."""
        if not self.steps:
            self.x = np.zeros((self.count, *row.shape), dtype=np.float16 if kind == "patches" else row.dtype)
        lacking = len(row) - self.x.shape[1]
        if lacking > 0:  # seldom: a machine's clips are alike
            self.x = np.pad(self.x, [(0, 0), (0, lacking), *[(0, 0)] * (self.x.ndim - 2)])
        self.x[len(self.steps), : len(row)] = row
        self.steps.append(len(row))

    def valid_steps(self) -> np.ndarray | None:
        """(N,) steps of each clip; None where all clips have the same."""
        steps = np.array(self.steps)
        return None if (steps == steps[0]).all() else steps


def load_encoder(folder: Path) -> Any:
    """The trained backbone of a finished train task, frozen."""
    from asd_core.backbones import BACKBONES
    from asd_core.training import checkpoint

    backbone = BACKBONES.create(read_json(folder / "meta.json")["backbone"])
    checkpoint.load_weights(folder / "model.safetensors", backbone)
    return backbone.frozen()


def embeds_in_bf16(trained: Path | None, device: str) -> bool:
    """What the precision of a training means for embedding on this device."""
    if trained is None:
        return False
    from asd_core.training import loop

    train = read_json(trained / "meta.json")["spec"]["encoder"]["train"]
    precision = train["precision"] if train else "fp32"
    return loop.use_bf16(precision, loop.pick_device(device))


def _equal_lengths(views: Iterable[np.ndarray], most: int) -> Iterator[np.ndarray]:
    """Consecutive views of one shape, stacked (B, …), at most `most` of them."""
    batch: list[np.ndarray] = []
    for x in views:
        if batch and (len(batch) == most or x.shape != batch[0].shape):
            yield np.stack(batch)
            batch = []
        batch.append(x)
    if batch:
        yield np.stack(batch)
