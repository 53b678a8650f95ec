"""Distance to the nearest of a few typical embeddings, one per group of normal clips."""

from __future__ import annotations

import numpy as np

from asd_core.scorers.base import Scorer, held_out_scores, on_sphere
from asd_core.types import AsdError, EmbeddingSet


class Prototype(Scorer):
    """min over groups g of ‖x̂ − ĉ_g‖, ĉ_g the mean direction of the group's training clips; training clips are scored by
    5-fold cross-fitting, the only clip of its group against the other groups.

    Groups are the domains; where any training clip has the attribute, domain × its value.

    Args:
        attribute: such as "spd", the speed; None: domains alone.
    """

    name = "prototype"

    def __init__(self, attribute: str | None = "spd") -> None:
        self.attribute = attribute

    def _fit(self, train: EmbeddingSet) -> None:
        groups = self._groups(train)
        x = on_sphere(train.x.astype(np.float64))
        self.groups_ = np.unique(groups)
        self.prototypes_ = on_sphere(np.stack([x[groups == group].mean(axis=0) for group in self.groups_]))  # (G, D)

    def _judge(self, test: EmbeddingSet) -> tuple[np.ndarray, None]:
        x = on_sphere(test.x.astype(np.float64))
        squared = np.square(x[:, None] - self.prototypes_).sum(axis=2)  # (N, G): few groups
        return np.sqrt(squared).min(axis=1), None

    def _training_scores(self) -> np.ndarray:
        return held_out_scores(Prototype(self.attribute), self.train_)

    def _groups(self, train: EmbeddingSet) -> np.ndarray:
        """(N,) names of the groups that training clips are of."""
        if self.attribute is None:
            return train.domains
        if train.attributes is None:
            raise AsdError(
                "These embeddings do not tell the attributes of their clips. Embed the clips anew, or give scorer "
                "prototype the option attribute: null."
            )
        values = [value_of(text, self.attribute) for text in train.attributes]
        return np.array([f"{domain}|{value}" for domain, value in zip(train.domains, values, strict=True)])


def value_of(attributes: str, key: str) -> str:
    """The value of `key` in "car_A1_spd_2", case-folded; the first, if the key comes twice, and "" if it does not."""
    words = attributes.lower().split("_")
    return next((value for name, value in zip(words[::2], words[1::2], strict=False) if name == key.lower()), "")
