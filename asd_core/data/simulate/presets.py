"""The twelve simulated machines, after the conventions of the real ones, and the sizes of the whole set.

What a file name shows (attribute keys and values, or ``noAttribute``) and what the machine does (speed, load, design)
are set side by side, because in the real data they are related but not the same: the fan's attribute says nothing about
its domain, and five machines say nothing at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from asd_core.data.simulate.machines import Bearing, Drone, Fan, Gearbox, Model, Motor, SewingHead, Slider, Valve
from asd_core.data.simulate.rooms import Site
from asd_core.types import SOURCE, TARGET, Attributes


@dataclass(frozen=True)
class Setting:
    """One way of running a machine."""

    speed: float  # Hz
    load: float = 0.5
    variant: int = 0
    specimens: tuple[int, ...] = (0, 1, 2)  # which individual machines run in this setting
    attributes: Attributes = ()  # as shown in file names; () = hidden


@dataclass(frozen=True)
class Machine:
    name: str
    model: Model
    seconds: float  # clip length at full size
    source: tuple[Setting, ...]
    target: tuple[Setting, ...]
    source_site: Site
    target_site: Site
    labelled: bool = True  # False: an evaluation machine, whose test names tell nothing
    ease: float = 1.0  # factor on the severities of all its faults: 1.5 is half as bad again

    def settings(self, domain: str) -> tuple[Setting, ...]:
        return {SOURCE: self.source, TARGET: self.target}[domain]

    def site(self, domain: str) -> Site:
        return {SOURCE: self.source_site, TARGET: self.target_site}[domain]


def hidden(*runs: tuple[float, float]) -> tuple[Setting, ...]:
    """Settings (speed in Hz, load) that file names keep to themselves."""
    return tuple(Setting(speed, load) for speed, load in runs)


def cars(bodies: str, speeds: dict[int, float], first_variant: int) -> tuple[Setting, ...]:
    """Bodies such as "B C" come as two specimens each (B1, B2); `speeds` maps the spd value to Hz.

    The key ``mic`` stands twice in every name, once per channel, as in the real data.
    """
    settings = []
    for number, body in enumerate(bodies.split()):
        for specimen, (spd, speed) in product((1, 2), speeds.items()):
            shown = (("car", f"{body}{specimen}"), ("spd", str(spd)), ("mic", "2"), ("mic", "1"))
            settings.append(Setting(speed, 0.5, first_variant + number, (10 * number + specimen,), shown))
    return tuple(settings)


GEARS = ((19, 41), (23, 37), (17, 53), (21, 31), (27, 43), (25, 61), (29, 47), (18, 35), (31, 67))
TOY_CONTACTS = ((800, 1.3), (1100, 1.2), (1500, 1.4), (950, 1.5))
PATTERNS = (((0.0, 0.22), (0.4, 0.55)), ((0.0, 0.35), (0.5, 0.6), (0.75, 0.85)), ((0.1, 0.7),))

_MACHINES = (
    Machine(
        "bearingSim",
        Bearing(),
        10.0,
        hidden((19.0, 0.3), (23.0, 0.5), (27.0, 0.7)),
        hidden((17.5, 0.6), (29.5, 0.4)),
        Site(near_snr=7.0),
        Site(near_snr=7.0, colour=0.45, neighbour=23.0),
        ease=1.5,
    ),
    Machine(
        "fanSim",
        Fan(),
        10.0,
        tuple(Setting(speed, 0.5, attributes=(("spd", str(i)),)) for i, speed in ((1, 23.0), (2, 28.0), (3, 33.0))),
        # the same speeds: what differs is the place, its noise, and the flow resistance of the duct
        tuple(Setting(speed, 0.8, attributes=(("spd", str(i)),)) for i, speed in ((1, 23.0), (2, 28.0), (3, 33.0))),
        Site(near_snr=7.0),
        Site(near_snr=5.0, colour=0.4, hum=0.5, neighbour=12.0, events=0.7, room=(12.0, 8.0, 5.0), absorption=0.25),
        ease=1.5,
    ),
    Machine(
        "gearboxSim",
        Gearbox(GEARS),
        10.0,
        tuple(
            Setting(17.0 + 1.2 * i, 0.4 + 0.1 * (i % 4), i, attributes=(("pro", letter),))
            for i, letter in enumerate("ABCDEF")
        ),
        tuple(Setting(16.0 + 3.5 * i, 0.8, 6 + i, attributes=(("pro", letter),)) for i, letter in enumerate("XYZ")),
        Site(near_snr=8.0),
        Site(near_snr=8.0, colour=0.55, neighbour=21.0),
        ease=1.5,
    ),
    Machine(
        "sliderSim",
        Slider(),
        10.0,
        hidden((0.8, 0.3), (0.95, 0.5), (1.1, 0.7)),
        hidden((0.72, 0.7), (1.25, 0.6)),
        Site(near_snr=6.0, events=0.3),
        Site(near_snr=5.0, colour=0.42, events=0.5),
        ease=1.2,
    ),
    Machine(
        "valveSim",
        Valve(PATTERNS),
        10.0,
        (Setting(1.3, 0.4, 0), Setting(1.0, 0.6, 1)),
        (Setting(1.7, 0.5, 2), Setting(1.2, 0.7, 0)),
        Site(near_snr=8.0, events=0.3),
        Site(near_snr=7.0, colour=0.42, events=0.5),
    ),
    Machine(
        "ToyCarSim",
        Motor(contacts=TOY_CONTACTS),
        12.0,
        tuple(Setting(speed, 0.5, variant) for variant in (0, 1) for speed in (110.0, 130.0, 150.0)),
        tuple(Setting(speed, 0.5, variant) for variant in (2,) for speed in (98.0, 170.0)),
        Site(near_snr=7.0),
        Site(near_snr=5.0, colour=0.35, hum=0.5),
    ),
    Machine(
        "ToyCarEmuSim",
        Motor(contacts=TOY_CONTACTS, commutator=5, pinion=9, ratio=6.1),
        12.0,
        cars("B C D", {2: 118.0, 3: 134.0, 5: 166.0}, 1),
        cars("A", {1: 102.0, 4: 150.0}, 0),
        Site(near_snr=7.0),
        Site(near_snr=6.0, colour=0.6),
    ),
    Machine(
        "BlowerSim",
        Fan(
            blades=11,
            reference=120.0,
            tones=0.7,
            ducts=(((600, 0.1, 1.0), (1900, 0.1, 0.8)), ((380, 0.1, 1.0), (2600, 0.1, 0.8))),
        ),
        10.0,
        tuple(
            Setting(
                {1: 106.0, 3: 136.0}[power], 0.5, nozzle - 1, attributes=(("nzl", str(nozzle)), ("pow", str(power)))
            )
            for nozzle, power in product((1, 2), (1, 3))
        ),
        tuple(Setting(120.0, 0.5, nozzle - 1, attributes=(("nzl", str(nozzle)), ("pow", "2"))) for nozzle in (1, 2)),
        Site(near_snr=9.0),
        Site(near_snr=7.0, colour=0.35),
        labelled=False,
    ),
    Machine(
        "SanderSim",
        Motor(
            commutator=8,
            pinion=12,
            ratio=1.0,
            mesh=0.3,
            reference=150.0,
            contacts=((1400, 1.2), (2200, 1.2), (3400, 1.2)),
        ),
        10.0,
        tuple(
            Setting(90.0 + 20.0 * spd, 0.5, variant, attributes=(("spd", str(spd)), ("grit", grit)))
            for spd, (variant, grit) in product((2, 4), enumerate(("60", "120", "240")))
        ),
        tuple(
            Setting(90.0 + 20.0 * spd, 0.6, variant, attributes=(("spd", str(spd)), ("grit", grit)))
            for spd, (variant, grit) in product((1, 3, 5), enumerate(("60", "120", "240")))
        ),
        Site(near_snr=8.0),
        Site(near_snr=6.0, colour=0.4),
        labelled=False,
    ),
    Machine(
        "SewingSim",
        SewingHead(),
        10.0,
        hidden((8.0, 0.3), (10.0, 0.5), (12.0, 0.7)),
        hidden((6.5, 0.6), (14.0, 0.5)),
        Site(near_snr=7.0, events=0.3),
        Site(near_snr=5.0, colour=0.4),
        labelled=False,
    ),
    Machine(
        "ToothBrushSim",
        Motor(commutator=3, pinion=7, ratio=4.0, reference=190.0, whine=0.8, mesh=0.4, contacts=((2600, 1.3),)),
        6.0,
        hidden((180.0, 0.3), (200.0, 0.6)),
        hidden((160.0, 0.8), (225.0, 0.5)),
        Site(near_snr=8.0, room=(6.0, 5.0, 2.8)),
        Site(near_snr=7.0, colour=0.35, room=(7.0, 4.5, 2.6), absorption=0.25),
        labelled=False,
    ),
    Machine(
        "ToyDroneSim",
        Drone(),
        16.0,
        cars("A B", {1: 95.0, 2: 115.0}, 0),
        cars("C", {3: 135.0}, 2),
        Site(near_snr=6.0),
        Site(near_snr=4.0, colour=0.35),
        labelled=False,
    ),
)
MACHINES = {machine.name: machine for machine in _MACHINES}


@dataclass(frozen=True)
class Size:
    """How much of it: clips per machine, and clip lengths as a part of the full ones."""

    machines: tuple[str, ...]
    train_source: int
    train_target: int
    test_each: int  # test clips of each (domain, label)
    length: float

    def seconds(self, machine: Machine) -> float:
        return machine.seconds * self.length


DEMO = ("bearingSim", "fanSim", "gearboxSim", "sliderSim", "valveSim", "ToyCarSim", "BlowerSim", "SewingSim")
SIZES = {
    "tiny": Size(("ToyCarSim", "fanSim", "gearboxSim", "BlowerSim"), 12, 3, 4, 0.2),
    "demo": Size(DEMO, 64, 6, 20, 0.5),
    "full": Size(tuple(MACHINES), 990, 10, 50, 1.0),
}
