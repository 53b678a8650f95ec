"""What a profile changes in a system, and what it leaves alone."""

import pytest

from asd_core.config import Profile, System, resolve
from asd_core.types import AsdError


def encoder(backbone, **options):
    return {
        "view": {"name": "waveform", "channel": "far"},
        "backbone": {"name": backbone, **options},
        "scope": "machine",
        "objective": {"name": "classification", "labels": ["machine"], "mixup": 0.5},
        "train": {"epochs": 100, "batch_size": 64, "lr": 0.002, "optimizer": "adam"},
    }


@pytest.fixture
def system():
    return System.model_validate(
        {
            "name": "s", "title": "t", "idea": "i", "family": "f",
            "encoders": {"one": encoder("big", width=512, depth=9), "two": encoder("big"), "other": encoder("small")},
            "branches": [{"name": "b", "encoder": "one", "scorer": {"name": "knn", "k": 2}}],
            "decision": {"name": "gamma", "q": 0.8},
        }
    )  # fmt: skip


def profile(**overlays):
    return Profile.model_validate({"name": "p", "title": "t", "encoders": overlays})


def test_overlay_by_hand(system):
    overlay = {
        "backbone": {"width": 16, "heads": 2},
        "objective": {"mixup": 0.0},
        "train": {"epochs": 3, "max_steps": 7},
    }
    resolved = resolve(system, profile(big=overlay))
    one = resolved.encoders["one"]
    assert one.backbone.spec == {"name": "big", "width": 16, "depth": 9, "heads": 2}
    assert one.objective.spec == {"name": "classification", "labels": ["machine"], "mixup": 0.0}
    assert one.view.spec == {"name": "waveform", "channel": "far"}
    assert (one.train.epochs, one.train.max_steps) == (3, 7)
    assert (one.train.batch_size, one.train.lr, one.train.optimizer) == (64, 0.002, "adam")
    assert resolved.encoders["two"].backbone.spec == {"name": "big", "width": 16, "heads": 2}
    assert resolved.encoders["two"].train == one.train
    assert resolved.encoders["other"] == system.encoders["other"]
    changed = {"encoders"}
    assert resolved.model_dump(exclude=changed) == system.model_dump(exclude=changed)


@pytest.mark.parametrize("part", ["backbone", "objective", "train"])
def test_each_part_alone(system, part):
    option = {"backbone": {"width": 16}, "objective": {"mixup": 0.25}, "train": {"batch_size": 5}}[part]
    resolved = resolve(system, profile(big={part: option})).encoders["one"].model_dump()
    before = system.encoders["one"].model_dump()
    before[part] |= option
    assert resolved == before


def test_nested_options_that_an_overlay_leaves_alone_stay():
    values = {
        "name": "s", "title": "t", "idea": "i", "family": "f",
        "encoders": {"one": encoder("big", sizes={"layers": 12, "frames": 1024}, pooling={"name": "gem", "p": 3.0})},
        "branches": [{"name": "b", "encoder": "one", "scorer": {"name": "knn"}}],
    }  # fmt: skip
    overlay = {"backbone": {"sizes": {"layers": 2}, "pooling": {"name": "mean"}}}
    one = resolve(System.model_validate(values), profile(big=overlay)).encoders["one"].backbone.spec
    assert one["sizes"] == {"layers": 2, "frames": 1024}
    assert one["pooling"] == {"name": "mean"}  # another plug-in keeps no option of the one before


def test_the_system_itself_stays(system):
    before = system.model_dump()
    resolve(system, profile(big={"backbone": {"width": 1}, "objective": {"mixup": 0}, "train": {"epochs": 1}}))
    assert system.model_dump() == before


@pytest.mark.parametrize("overlays", [{}, {"unknown": {"train": {"epochs": 1}}}, {"big": {}}])
def test_an_overlay_that_fits_nothing_changes_nothing(system, overlays):
    assert resolve(system, profile(**overlays)) == system


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"epoch": 3}, {"lr": "fast"}])
def test_a_wrong_overlay_names_system_and_profile(system, wrong):
    with pytest.raises(AsdError, match=r"(?s)s under profile p.*encoders\.one\.train"):
        resolve(system, profile(big={"train": wrong}))
