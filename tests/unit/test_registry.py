"""Options of plug-ins: each of the type its constructor states, or a refusal that says what is allowed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asd_core.backbones import BACKBONES
from asd_core.decision import DECISIONS
from asd_core.fusion import FUSIONS
from asd_core.registry import Registry, did_you_mean
from asd_core.scorers import SCORERS
from asd_core.training import OBJECTIVES
from asd_core.training.losses import LOSSES
from asd_core.types import AsdError
from asd_core.views import VIEWS

FAMILIES: list[Registry] = [BACKBONES, DECISIONS, FUSIONS, LOSSES, OBJECTIVES, SCORERS, VIEWS]
CLASSIFICATION = {"name": "classification", "labels": ["machine"], "loss": {"name": "subcluster_adacos"}}

WRONG = [
    (SCORERS, "knn", {"metric": "cosin"}, '"cosin" is not one of euclidean, cosine, chord. Did you mean "cosine"?'),
    (SCORERS, "knn", {"domains": "mim"}, 'domains "mim" is not one of pooled, min, zscore. Did you mean "min"?'),
    (SCORERS, "knn", {"standardise": "no"}, 'standardise "no" is not true or false.'),
    (SCORERS, "knn", {"k": 2.5}, "k 2.5 is not a whole number."),
    (SCORERS, "knn", {"k": True}, "k true is not a whole number."),
    (SCORERS, "knn", {"smote": "1e-1"}, '"1e-1" is not a number or null. YAML takes 1e-1 for text; write 0.1.'),
    (SCORERS, "knn", {"smote": float("nan")}, "smote NaN is not a number or null."),
    (VIEWS, "logmel_statistics", {"channel": "neer"}, 'channel "neer" is not one of near, far. Did you mean "near"?'),
    (BACKBONES, "multiresnet", {"spectrograms": [[1, "a"]]}, "is not a list, each a list, each a whole number."),
    (OBJECTIVES, "classification", {"loss": "arcface"}, 'loss "arcface" is not a mapping.'),
    (FUSIONS, "weighted", {1: 2}, 'has no option "1". Allowed: weights, normalise, search, tuned_on.'),
]


@pytest.mark.parametrize(("family", "name", "options", "message"), WRONG, ids=[str(case[2]) for case in WRONG])
def test_values_of_another_type_are_refused(family: Registry, name: str, options: dict[str, Any], message: str) -> None:
    for use in (family.check, family.resolved, family.create):
        with pytest.raises(AsdError) as refused:
            use({"name": name} | options, "system, branch a")
        assert str(refused.value).startswith(f'system, branch a: {family.family} "{name}"')
        assert message in str(refused.value)


@pytest.mark.parametrize("name", [None, 3, ["knn"], "knnn"])
def test_names_that_are_none(name: object) -> None:
    with pytest.raises(AsdError, match=r'There is no scorer ".*Known: .*knn'):
        SCORERS.check({"name": name})
    with pytest.raises(AsdError, match='There is no scorer ""'):
        SCORERS.check({})


def test_whole_numbers_serve_as_numbers() -> None:
    assert json.dumps(SCORERS.check({"name": "knn", "smote": 1})) == '{"smote": 1.0}'
    assert SCORERS.check({"name": "knn", "smote": None, "k_target": 3}) == {"smote": None, "k_target": 3}
    assert VIEWS.create({"name": "waveform", "channel": "far"}).name == "waveform"


@pytest.mark.parametrize("family", FAMILIES, ids=[family.family for family in FAMILIES])
def test_defaults_of_every_plugin_pass_its_own_check(family: Registry) -> None:
    for name in family.classes:
        resolved = family.resolved({"name": name})
        assert resolved == json.loads(json.dumps(resolved))
        assert family.resolved(resolved) == resolved


def test_resolved_fills_in_defaults_and_leaves_out_what_the_caller_adds() -> None:
    assert LOSSES.resolved({"name": "subcluster_adacos"}).keys() == {"name", "subclusters", "trainable", "dynamic"}
    assert BACKBONES.resolved({"name": "multiresnet", "seconds": 6})["spectrograms"][0] == [256, 128]  # not a tuple
    assert FUSIONS.resolved({"name": "weighted", "weights": [1, 2]}) == {
        "name": "weighted", "weights": [1.0, 2.0], "normalise": "none", "search": "auto", "tuned_on": "",
    }  # fmt: skip
    assert OBJECTIVES.resolved(CLASSIFICATION).items() > (CLASSIFICATION | {"mixup": 0.0}).items()


def test_a_suggestion_for_anything() -> None:
    assert did_you_mean("cosin", ["cosine"]) == ' Did you mean "cosine"?'
    assert did_you_mean(1, ["cosine"]) == did_you_mean(False, ["cosine"]) == ""
