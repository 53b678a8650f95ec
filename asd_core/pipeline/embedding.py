"""Recordings → views → a trained network's outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from asd_core.artifacts import RowFile, read_rows, writing_rows
from asd_core.data.manifest import attribute_text
from asd_core.data.stream import stream
from asd_core.files import read_json
from asd_core.pipeline.tasks import VIEW_ITSELF, embeddings_file
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
    return embed_parts({"": clips}, view_spec, trained, outputs, device, bf16, progress, title)[""]


def embed_parts(
    parts: Mapping[str, Sequence[Clip]],
    view_spec: dict[str, Any],
    trained: Path | None,
    outputs: Sequence[str] = (),
    device: str = "auto",
    bf16: bool = False,
    progress: Progress = no_progress,
    title: str = "embed",
    folder: Path | None = None,
) -> dict[str, dict[str, EmbeddingSet]]:
    """As `embed`, of several parts in one pass; by part and output.

    Args:
        parts: each of one clip or more
        folder: patches and bands are written there as they come, into the files of `embeddings_file`, and are not held
            in memory: of a large machine they would not fit
    """
    view = VIEWS.create(view_spec)
    backbone = None if trained is None else load_encoder(trained)
    kinds = {VIEW_ITSELF: view.kind} if backbone is None else {name: backbone.kind_of(name) for name in outputs}
    clips = [clip for own in parts.values() for clip in own]
    part_of = [part for part, own in parts.items() for _ in own]
    done = 0
    with ExitStack() as files:
        rows = {
            (part, output): Rows(len(own), kind, _file(folder, part, output, len(own), kind, files))
            for part, own in parts.items()
            for output, kind in kinds.items()
        }

        def keep(output: str, values: Iterable[np.ndarray]) -> None:
            for place, x in enumerate(values, start=done):
                rows[part_of[place], output].append(x)

        if backbone is None:
            for x in stream(clips, view):
                keep(VIEW_ITSELF, [x])
                done += 1
                progress(done / len(clips), title)
        else:
            import torch

            from asd_core.training import loop

            target = loop.pick_device(device)
            backbone.to(target)
            with torch.inference_mode(), torch.autocast(target.type, torch.bfloat16, enabled=bf16):
                for batch in _equal_lengths(
                    stream(clips, lambda wave: backbone.prepare(view(wave))), backbone.batch_on(target)
                ):
                    found = backbone.embed_all(torch.from_numpy(batch).to(target), outputs)
                    for output, values in found.items():
                        keep(output, values.cpu().numpy())
                    done += len(batch)
                    progress(done / len(clips), title)
    layout = view.layout if backbone is None else backbone.layout
    sets: dict[str, dict[str, EmbeddingSet]] = {part: {} for part in parts}
    for (part, output), kept in rows.items():
        facts = [(clip.clip_id, clip.section, clip.domain, attribute_text(clip.attributes)) for clip in parts[part]]
        ids, sections, domains, attributes = map(np.array, zip(*facts, strict=True))
        x = kept.x if kept.file is None or folder is None else read_rows(embeddings_file(folder, part, output))
        sets[part][output] = EmbeddingSet(x, ids, sections, domains, attributes, kept.valid_steps(), layout)
    return sets


class Rows:
    """One output of N clips, put in place clip by clip: patches are too large to be held twice.

    Patches are kept in half precision: 1000 clips of a base encoder take 0.8 GB instead of 1.5, and cosine distances
    move by some 1e-7.

    Args:
        file: where rows go instead of memory
    """

    x: np.ndarray  # (N, T, …), T the steps of the longest clip so far; beyond a clip's end are zeros

    def __init__(self, count: int, kind: str, file: RowFile | None = None) -> None:
        self.count, self.kind, self.file = count, kind, file
        self.steps: list[int] = []  # of each clip so far

    def append(self, row: np.ndarray) -> None:
        """(T, …) of the next clip."""
        row = row.astype(np.float16) if self.kind == "patches" else row
        if self.file is not None:
            self.file.append(row)
        else:
            self._place(row)
        self.steps.append(len(row))

    def _place(self, row: np.ndarray) -> None:
        if not self.steps:
            self.x = np.zeros((self.count, *row.shape), dtype=row.dtype)
        lacking = len(row) - self.x.shape[1]
        if lacking > 0:  # seldom: a machine's clips are alike
            self.x = np.pad(self.x, [(0, 0), (0, lacking), *[(0, 0)] * (self.x.ndim - 2)])
        self.x[len(self.steps), : len(row)] = row

    def valid_steps(self) -> np.ndarray | None:
        """(N,) steps of each clip; None where all clips have the same."""
        steps = np.array(self.steps)
        return None if (steps == steps[0]).all() else steps


def _file(folder: Path | None, part: str, output: str, count: int, kind: str, files: ExitStack) -> RowFile | None:
    """The open file of an output that is too large for memory."""
    if folder is None or kind not in ("patches", "bands"):
        return None
    return files.enter_context(writing_rows(embeddings_file(folder, part, output), count))


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

    precision = read_json(trained / "meta.json")["spec"]["encoder"]["train"]["precision"]
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
