"""Learning to tell normal clips apart by what is known about them; what embeds them well detects the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asd_core.backbones import Backbone
from asd_core.backbones.transformer import PatchTransformer
from asd_core.data.manifest import LABEL_FIELDS, LABEL_PRESETS, attribute_values, class_of
from asd_core.training.augment import Mixing, mix_beta, mix_uniform
from asd_core.training.losses import LOSSES, AttributeHeads
from asd_core.training.objective import Objective, Problem, ViewCache
from asd_core.training.samplers import class_balance, target_share
from asd_core.training.tokens import TokenCache
from asd_core.types import AsdError, Clip
from asd_core.views import View
from asd_core.views.waveform import Channel, Stereo, Waveform, microphone


class Classification(Objective):
    """Classify clips by `labels`: fields of machine, section, domain, attributes, channel, or the name of a preset:
    full (machine, section, domain, attributes), channel, attributes, section, machine.

    Where these fields give a single class (one machine alone), those of "full" are used instead, with a notice.

    Args:
        loss: {"name": …} of `training.losses`; `more_losses` are added to it, each by its "weight".
        mixup: probability that a clip is mixed with another, λ ~ U(0, 1), waveform and label alike.
        mixup_beta: mix every batch with a permutation of itself by one λ ~ Beta(this, this).
        far: [low, high]: add the far microphone times α ~ U(low, high) to the near one; embedding hears near only.
        channels: microphones whose recordings are clips of their own.
        auxiliary: attributes, such as "spd", that heads of their own classify; clips without are left out of them.
        auxiliary_weight, auxiliary_loss: the sum of their losses times this is added.
        validation: share of each class that is held out of training, to stop early by.
        balance: draw classes in proportion to count^(1 − balance): 0 as they come, 1 all alike.
        target_share: share of target clips among those drawn.
    """

    name = "classification"
    version = 2
    trains = "clip"

    def __init__(
        self,
        labels: list[str] | str,
        loss: dict[str, Any],
        more_losses: list[dict[str, Any]] = (),  # type: ignore[assignment]
        mixup: float = 0.0,
        mixup_beta: float | None = None,
        far: list[float] | None = None,
        channels: list[Channel] = ("near",),  # type: ignore[assignment]
        auxiliary: list[str] = (),  # type: ignore[assignment]
        auxiliary_weight: float = 0.3,
        auxiliary_loss: Literal["cross_entropy", "arcface"] = "cross_entropy",
        validation: float = 0.0,
        balance: float = 0.0,
        target_share: float | None = None,
    ) -> None:
        fields = LABEL_PRESETS.get(labels, ()) if isinstance(labels, str) else labels
        if not fields or any(name not in LABEL_FIELDS for name in fields):
            raise ValueError(
                f"labels must be some of {', '.join(LABEL_FIELDS)}, or one of the presets {', '.join(LABEL_PRESETS)}; "
                f"got {labels}"
            )
        for name, value in (("mixup", mixup), ("validation", validation), ("balance", balance)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {value}")
        if mixup and mixup_beta is not None:
            raise ValueError("mixup and mixup_beta are two ways of mixing; choose one")
        if auxiliary and (mixup or mixup_beta is not None):
            raise ValueError("auxiliary heads know no mixed attributes; leave mixup out")
        if far is not None and not (len(far) == 2 and far[0] <= far[1]):
            raise ValueError(f"far must be [low, high], got {far}")
        if far is not None and list(channels) != ["near"]:
            raise ValueError(f"far is mixed into the near microphone; channels must be [near], got {list(channels)}")
        for one in (loss, *more_losses):
            if not isinstance(one.get("name"), str):
                raise ValueError(f"a loss needs a name, one of {', '.join(sorted(LOSSES.classes))}; got {one}")
            LOSSES.check(_without_weight(one), "loss")
            if not one.get("weight", 1.0) > 0:
                raise ValueError(f"the weight of a loss must be above 0, got {one['weight']}")
        self.fields, self.losses = tuple(fields), [loss, *more_losses]
        self.mixup, self.mixup_beta, self.far, self.channels = mixup, mixup_beta, far, list(channels)
        self.auxiliary, self.auxiliary_weight, self.auxiliary_loss = list(auxiliary), auxiliary_weight, auxiliary_loss
        self.validation, self.balance, self.target_share = validation, balance, target_share

    def problem(
        self, backbone: Backbone, clips: Sequence[Clip], view: View, seed: int, scratch: Path | None = None
    ) -> Problem:
        rows = [(i, channel) for channel in self.channels for i in range(len(clips))]
        names, notices = self._classes([(clips[i], channel) for i, channel in rows])
        classes = sorted(set(names))
        targets = np.array([classes.index(name) for name in names])
        attributes, sizes, missing = self._attributes([clips[i] for i, _ in rows])
        notices += missing
        every = LabelledClips(
            backbone,
            self._views(clips, view),
            rows,
            torch.from_numpy(targets),
            len(classes),
            attributes,
            self.far,
            self._mix if self.mixup or self.mixup_beta is not None else None,
        )
        if isinstance(backbone, PatchTransformer) and backbone.adapt == "frozen":
            if self.far is not None or self.mixup or self.mixup_beta is not None:
                raise AsdError("A frozen encoder's outputs are computed once per clip: leave mixup and far out.")
            every = replace(every, cache=TokenCache(backbone, scratch))
        training, held_out = self._split(targets, len(clips), seed)
        learner = Classifier(
            backbone,
            nn.ModuleList(
                LOSSES.create(_without_weight(one), "objective.loss", dim=backbone.embed_dim, classes=len(classes))
                for one in self.losses
            ),
            [one.get("weight", 1.0) for one in self.losses],
            AttributeHeads(backbone.embed_dim, sizes, self.auxiliary_loss) if sizes else None,
            self.auxiliary_weight,
            every.cache is not None,
        )
        return Problem(
            learner,
            every.part(training),
            every.part(held_out).plain() if len(held_out) else None,
            notices=notices,
            depths={f"backbone.{name}": depth for name, depth in backbone.depths().items()},
            weights=self._weights(targets[training], [clips[rows[i][0]] for i in training]),
        )

    def _split(self, targets: np.ndarray, clips: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train on and held-out ones; all microphones of a clip are on one side."""
        training, held_out = split(targets[:clips], self.validation, seed)
        if self.validation and not len(held_out):
            raise AsdError(
                f"{self.validation:.0%} of {clips} training clips are to be held out, but there is one clip of each "
                f"class. Record more, or set the objective's validation to 0 and remove patience."
            )
        rows = np.arange(len(targets))
        return tuple(np.flatnonzero(np.isin(rows % clips, part)) for part in (training, held_out))  # type: ignore[return-value]

    def _views(self, clips: Sequence[Clip], view: View) -> ViewCache:
        """Both microphones where training needs them, else the encoder's own view."""
        if self.far is None and self.channels == ["near"]:
            return ViewCache(clips, view)
        if not isinstance(view, Waveform):
            raise AsdError(f'Training on both microphones needs the view "waveform", not "{view.name}".')
        if view.channel not in self.channels:
            raise AsdError(f"Training hears {', '.join(self.channels)}, but the encoder's view is {view.channel}.")
        return ViewCache(clips, Stereo())

    def _classes(self, rows: Sequence[tuple[Clip, Channel]]) -> tuple[list[str], list[str]]:
        """The class of each example, and what the user should know about the choice."""
        names = [class_of(clip, self.fields, channel) for clip, channel in rows]
        if len(set(names)) > 1:
            return names, []
        names = [class_of(clip, LABEL_PRESETS["full"]) for clip, _ in rows]
        if len(set(names)) == 1:
            raise AsdError(
                f'All {len(rows)} training clips are of one class ("{names[0]}"), so there is nothing to tell '
                f"apart. Train on more than one machine, or on clips with attributes or a target domain."
            )
        return names, [
            f"The labels {', '.join(self.fields)} give a single class here; machine, section, domain and "
            f"attributes were used instead ({len(set(names))} classes)."
        ]

    def _attributes(self, clips: Sequence[Clip]) -> tuple[Tensor, dict[str, int], list[str]]:
        """Value numbers (N, heads), −1 where a clip lacks the attribute; values per head; what is left out and why."""
        columns, sizes, notices = [], {}, []
        for key in self.auxiliary:
            values = [attribute_values(clip.attributes).get(key) for clip in clips]
            known = sorted({value for value in values if value is not None})
            if len(known) < 2:
                notices.append(f'No head learns the attribute "{key}": it has {len(known)} value(s) in these clips.')
                continue
            sizes[key] = len(known)
            columns.append([-1 if value is None else known.index(value) for value in values])
        return torch.tensor(columns, dtype=torch.long).reshape(len(sizes), len(clips)).T, sizes, notices

    def _weights(self, targets: np.ndarray, clips: Sequence[Clip]) -> np.ndarray | None:
        if not self.balance and self.target_share is None:
            return None
        weights = class_balance(targets, self.balance)
        if self.target_share is None:
            return weights
        return target_share([clip.domain for clip in clips], self.target_share, weights)

    def _mix(self, x: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Mixing]:
        if self.mixup_beta is not None:
            return mix_beta(x, labels, self.mixup_beta, generator)
        return mix_uniform(x, labels, self.mixup, generator)


class Classifier(nn.Module):
    """Weighted losses of a backbone's clip embeddings against soft labels, and of heads for single attributes."""

    def __init__(
        self,
        backbone: Backbone,
        losses: nn.ModuleList,
        weights: list[float],
        heads: AttributeHeads | None = None,
        heads_weight: float = 0.3,
        from_tokens: bool = False,
    ) -> None:
        super().__init__()
        self.backbone, self.losses, self.weights = backbone, losses, weights
        self.heads, self.heads_weight, self.from_tokens = heads, heads_weight, from_tokens

    def forward(self, x: Tensor, lengths: Tensor, labels: Tensor, attributes: Tensor) -> Tensor:
        """Waveforms (B, T) of `lengths` samples, or hidden states (B, tokens, D) of `lengths` tokens → scalar."""
        if self.from_tokens:
            assert isinstance(self.backbone, PatchTransformer)
            embeddings = self.backbone.from_tokens(x, lengths)
        else:
            embeddings = self.backbone.embed(x, lengths=lengths)
        loss = sum(weight * one(embeddings, labels) for weight, one in zip(self.weights, self.losses, strict=True))
        if self.heads is not None:
            loss = loss + self.heads_weight * self.heads(embeddings, attributes)
        assert isinstance(loss, Tensor)
        return loss


@dataclass(frozen=True)
class LabelledClips:
    """Prepared clips (B, T), padded with zeros to the longest, their lengths (B,), one-hot or mixed labels
    (B, classes), and attribute values (B, heads)."""

    backbone: Backbone
    views: ViewCache
    rows: list[tuple[int, Channel]]  # clip and microphone of every example
    targets: Tensor
    classes: int
    attributes: Tensor
    far: list[float] | None = None
    mix: Any = None  # (x, labels, generator) → mixed ones
    cache: TokenCache | None = field(default=None, compare=False)
    chosen: np.ndarray | None = None  # which rows are examples here; None: all
    is_random: bool = True  # excerpts, microphones and mixing

    def part(self, chosen: np.ndarray) -> LabelledClips:
        return replace(self, chosen=chosen)

    def plain(self) -> LabelledClips:
        """The same clips as embedding will see them."""
        return replace(self, is_random=False)

    def __len__(self) -> int:
        return len(self.rows) if self.chosen is None else len(self.chosen)

    def load(self, indices: np.ndarray, generator: torch.Generator) -> tuple[Tensor, ...]:
        chosen = indices if self.chosen is None else self.chosen[indices]
        labels = F.one_hot(self.targets[chosen], self.classes).float()
        if self.cache is not None:
            x, lengths = self.cache.batch(chosen, self._waves)
            return x, lengths, labels, self.attributes[chosen]
        x, lengths = self._waves(chosen, generator if self.is_random else None)
        if self.is_random and self.mix is not None:
            x, labels, mixing = self.mix(x, labels, generator)
            lengths = lengths if self.backbone.masks_own_padding else mixing.lengths(lengths)
        return x, lengths, labels, self.attributes[chosen]

    def _waves(self, chosen: np.ndarray, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Waveforms (B, T) and lengths (B,); without a generator as embedding takes them."""
        waves = self.views.batch([self.rows[i][0] for i in chosen])
        count = len(waves)
        starts: list[float | None] = [None] * count
        amounts = [0.0] * count
        if generator is not None:
            if self.far is not None:
                low, high = self.far
                amounts = (low + (high - low) * torch.rand(count, generator=generator)).tolist()
            starts = torch.rand(count, generator=generator).tolist()
        prepared, lengths = [], []
        for row, wave, amount, start in zip(chosen, waves, amounts, starts, strict=True):
            clip, channel = self.rows[row]
            try:
                if wave.ndim == 2:
                    wave = mix_far(wave, amount) if self.far is not None else microphone(wave, channel)
                x = self.backbone.prepare(wave, start)
            except AsdError as error:
                raise AsdError(f"{self.views.clips[clip].path}: {error}") from error
            prepared.append(torch.from_numpy(x))
            lengths.append(len(x) if generator is None else self.backbone.valid_samples(x))
        return nn.utils.rnn.pad_sequence(prepared, batch_first=True), torch.tensor(lengths)


def mix_far(wave: np.ndarray, amount: float) -> np.ndarray:
    """(C, T) → (T,) near + amount · far; the near microphone alone where there is no other."""
    near = microphone(wave, "near")
    return near if len(wave) == 1 else near + np.float32(amount) * microphone(wave, "far")


def split(targets: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (training, held out): a `share` of the clips, at random, from every class alike and never all of one.

    Where classes are too small for a share of their own, single clips of some of them make it up.
    """
    rng = np.random.default_rng([seed, 1])
    held_out = np.zeros(len(targets), dtype=bool)
    spare = []
    for one in np.unique(targets):
        rows = rng.permutation(np.flatnonzero(targets == one))
        count = min(round(share * len(rows)), len(rows) - 1)
        held_out[rows[:count]] = True
        spare += list(rows[:1]) if count == 0 and len(rows) > 1 else []
    lacking = (max(1, round(share * len(targets))) if share else 0) - int(held_out.sum())
    held_out[rng.permutation(np.array(spare, dtype=int))[: max(lacking, 0)]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _without_weight(loss: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in loss.items() if key != "weight"}
