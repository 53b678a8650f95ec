"""How well an encoder, frozen, tells faults of machines it never heard: the measure that pre-training is steered by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import islice

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from asd_core.pretraining.corpus import Corpus, Mixtures
from asd_core.pretraining.recipe import Sound

MEMORY = 2 / 3  # of a healthy state's takes
ORDINARY = {"far": 0.0, "snr": (3.0, 12.0), "gain": (-1.0, 1.0)}  # how a machine is recorded: always alike
Embed = Callable[[Tensor], Tensor]  # (B, T) waveforms → (B, D)


def rate(embed: Embed, corpus: Corpus, sound: Sound, seed: int = 0, batch: int = 32) -> dict[str, float]:
    """Mean AUC, by kind of machine and "all": healthy takes of a setting are remembered, the others of that setting and
    the faults in it are judged by the cosine distance to the nearest. One setting of one design gives one AUC."""
    mixtures = Mixtures(corpus, sound.model_copy(update=ORDINARY))
    rng = np.random.default_rng(seed)
    places = np.array(
        [(design, *place) for design, clips in enumerate(corpus.clips) for place in np.ndindex(clips.shape[:2])]
    )
    waves = (mixtures.mixed(rng, *place)[0] for place in places.tolist())
    found = []
    with torch.inference_mode():
        for _ in range(0, len(places), batch):
            part = np.stack(list(islice(waves, batch)))
            found.append(embed(torch.from_numpy(part)).float().numpy())
    x = np.concatenate(found)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    areas = defaultdict(list)
    for design, kind in enumerate(corpus.kinds):
        rows = places[:, 0] == design
        states = corpus.states[design]
        healthy = [number for number, state in enumerate(states) if not state["fault"]]
        for first, end in zip(healthy, [*healthy[1:], len(states)], strict=True):
            own = {state: np.flatnonzero(rows & (places[:, 1] == state)) for state in range(first, end)}
            count = round(MEMORY * len(own[first]))
            memory, normal = x[own[first][:count]], x[own[first][count:]]
            ill = x[np.concatenate([own[state] for state in range(first + 1, end)])]
            scores = -(np.concatenate([normal, ill]) @ memory.T).max(1)
            areas[kind].append(float(roc_auc_score(np.arange(len(scores)) >= len(normal), scores)))
    means = {kind: float(np.mean(values)) for kind, values in sorted(areas.items())}
    return {"all": float(np.mean([value for values in areas.values() for value in values])), **means}
