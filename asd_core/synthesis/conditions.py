"""Operating conditions: what a generator is asked for, and which of them a data set has too few clips of."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asd_core.config import Targets
from asd_core.data.manifest import attribute_key, attribute_text, parse_attributes
from asd_core.types import SOURCE, TARGET, AsdError, Attributes, Clip


@dataclass(frozen=True, order=True)
class Condition:
    """What is known about how a normal clip was recorded, apart from its microphone."""

    machine: str
    section: str
    domain: str
    attributes: Attributes  # case-folded

    @classmethod
    def of(cls, clip: Clip) -> Condition:
        if "|" in clip.machine:
            raise AsdError(
                f'The name of machine "{clip.machine}" holds a |, which parts conditions. Rename its folder.'
            )
        return cls(clip.machine, clip.section, clip.domain, parse_attributes(attribute_key(clip.attributes)))

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read back `text`.

        Raises:
            AsdError: it has not the form of a condition.
        """
        parts = text.split("|", 3)
        if len(parts) != 4 or parts[2] not in (SOURCE, TARGET):
            raise AsdError(f'"{text}" is not a condition. Write machine|section|source or target|attributes, such as '
                           f'"fan|00|target|spd_1" or "fan|00|target|noAttribute".')  # fmt: skip
        return cls(parts[0], parts[1], parts[2], parse_attributes(parts[3].lower()))

    @property
    def text(self) -> str:
        """``fan|00|target|spd_1``, as `data.manifest.class_of` writes it."""
        return "|".join((self.machine, self.section, self.domain, attribute_key(self.attributes)))

    @property
    def words(self) -> list[str]:
        """What the generator knows of it: one word per fact. Attributes and domains mean something else on every
        machine."""
        pairs = [f"{self.machine}|{key}={value}" for key, value in self.attributes]
        return [self.machine, f"{self.machine}|section={self.section}", f"{self.machine}|{self.domain}", *pairs]

    def file_name(self, number: int) -> str:
        """A name in the layout of the data."""
        return f"section_{self.section}_{self.domain}_train_normal_{number:04d}_{attribute_text(self.attributes)}.wav"


@dataclass(frozen=True)
class Target:
    """A condition that is to get generated clips."""

    condition: Condition
    recorded: int  # clips there are
    wanted: int  # clips to add
    why: str


def find_targets(clips: Sequence[Clip], options: Targets) -> list[Target]:
    """Under-represented conditions of normal training clips and how many clips each is to get, in order.

    Target-domain clips are raised to `options.share` of the source clips of their machine and section, evenly over
    their conditions; source conditions below `options.rare` of the median condition are raised to that.
    Nothing gets more than `options.per_clip` generated clips per recorded one. `options.counts` come last and win;
    they may ask for combinations of known values that nobody has recorded (`check_counts`).
    """
    counts = Counter(map(Condition.of, clips))
    found: dict[Condition, Target] = {}
    for (machine, _), conditions in _grouped(counts).items():
        source = {c: counts[c] for c in conditions if c.domain == SOURCE}
        target = {c: counts[c] for c in conditions if c.domain == TARGET}
        lacking = math.ceil(options.share * sum(source.values()) - 1e-9) - sum(target.values())
        even = sorted(target, key=lambda c: (target[c], c))  # the rarest first
        for place, condition in enumerate(even):
            share = max(lacking, 0) // len(even) + (place < max(lacking, 0) % len(even))
            why = f"target clips of {machine} are to be {options.share:.0%} of its source clips"
            found[condition] = _target(condition, target[condition], share, options.per_clip, why)
        level = options.rare * statistics.median(source.values()) if source else 0.0
        for condition, count in source.items():
            if count < level:
                why = f"recorded less than {options.rare:.0%} as often as the median condition of {machine}"
                found[condition] = _target(condition, count, math.ceil(level) - count, options.per_clip, why)
    machines = {condition.machine for condition in counts}
    recorded = {_unordered(condition): condition for condition in counts}
    for text, wanted in options.counts.items():
        asked = Condition.parse(text)
        if asked.machine in machines:
            condition = recorded.get(_unordered(asked), asked)
            found[condition] = Target(condition, counts[condition], wanted, "asked for by number")
    return [found[condition] for condition in sorted(found) if found[condition].wanted > 0]


def check_counts(clips: Sequence[Clip], options: Targets) -> None:
    """Whether `options.counts` asks for nothing that no clip has: combinations may be new, their parts may not.

    Raises:
        AsdError: names what is unknown, and what there is.
    """
    every = {Condition.of(clip) for clip in clips}
    machines = sorted({condition.machine for condition in every})
    for text in options.counts:
        asked = Condition.parse(text)
        if asked.machine not in machines:
            raise AsdError(f"{text} is of no machine of the data. There is: {', '.join(machines)}.")
        own = [condition for condition in every if condition.machine == asked.machine]
        places = sorted({f"{condition.section}|{condition.domain}" for condition in own})
        if f"{asked.section}|{asked.domain}" not in places:
            raise AsdError(
                f"{text}: no clip of {asked.machine} is of that section and domain, only {', '.join(places)}."
            )
        known = {word for condition in own for word in condition.words}
        if unknown := [word for word in asked.words if word not in known]:
            facts = ", ".join(sorted(word for word in known if "=" in word)) or "no attributes"
            raise AsdError(f"{text} asks for {unknown[0]}, which no recorded clip has. Known: {facts}.")


def _unordered(condition: Condition) -> tuple[object, ...]:
    return (condition.machine, condition.section, condition.domain, tuple(sorted(condition.attributes)))


def _target(condition: Condition, recorded: int, wanted: int, per_clip: int, why: str) -> Target:
    return Target(condition, recorded, max(0, min(wanted, per_clip * recorded)), why)


def _grouped(conditions: Iterable[Condition]) -> dict[tuple[str, str], list[Condition]]:
    groups: defaultdict[tuple[str, str], list[Condition]] = defaultdict(list)
    for condition in sorted(conditions):
        groups[condition.machine, condition.section].append(condition)
    return groups
