"""Encoders that stay as they begin."""

import hashlib

import numpy as np
import pytest

from asd_core import config, pipeline, weights
from asd_core.artifacts import Workspace, load_run
from asd_core.backbones import pretrained
from asd_core.data.manifest import scan
from asd_core.files import read_json
from asd_core.pipeline.embedding import load_encoder
from asd_core.types import AsdError


def changed(**encoder: object) -> config.System:
    system = config.load_system("mini-knn")
    own = system.encoders["beats"].model_copy(update=encoder)
    return system.model_copy(update={"encoders": {"beats": own}})


def run(tiny_data, folder, *systems: config.System, seeds=(0,)) -> list[pipeline.Task]:
    context = pipeline.Context(Workspace(folder), scan(tiny_data), "cpu")
    tasks = pipeline.plan(systems, config.load_profile("quick"), context, ["fanSim"], seeds)
    for task in tasks:
        pipeline.execute(task, context)
    return tasks


def test_the_embedded_encoder_is_used_as_it_is_and_random_weights_follow_the_seed(tiny_data, tmp_path):
    systems = [config.load_system(name) for name in ("mini-knn", "mini-knn+random")]
    tasks = run(tiny_data, tmp_path, *systems, seeds=(0, 1))
    place = Workspace(tmp_path)
    trained = [task for task in tasks if task.kind == "train"]
    values = [load_encoder(task.folder(place)).trunk.patch_embedding.weight.detach().numpy() for task in trained]
    published = pretrained.read(weights.locate("studio_mini")).tensors["patch_embedding.weight"].numpy()
    is_shipped = [np.array_equal(value, published) for value in values]
    assert sorted(is_shipped) == [False, False, True, True]
    first, second = (value for value, shipped in zip(values, is_shipped, strict=True) if not shipped)
    assert np.abs(first - second).max() > 1e-3
    assert {read_json(task.folder(place) / "meta.json")["steps"] for task in trained} == {0}
    runs = [load_run(place, run_id) for run_id in place.run_ids()]
    assert {run.record["system"] for run in runs} == {"mini-knn", "mini-knn+random"}
    assert all(np.isfinite(run.scores["score"]).all() for run in runs)


def test_the_embedded_encoder_is_what_its_card_says():
    file = weights.embedded()["studio_mini"]
    about = read_json(file.with_suffix(".json"))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert about["sha256"] == digest
    assert digest in file.with_suffix(".md").read_text(encoding="utf-8")
    assert file.stat().st_size < 8_000_000
    assert pretrained.read_config(file).family == "beats"


def test_what_would_stay_at_random_values_is_refused(tiny_data, tmp_path):
    backbone = {"name": "beats", "checkpoint": "studio_mini", "adapt": "frozen", "pooling": {"name": "asp"}}
    with pytest.raises(AsdError, match=r'"untrained" leaves pooling\.\S+ at random values'):
        run(tiny_data, tmp_path, changed(backbone=config.Component(**backbone)))


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        ({"train": config.Train(epochs=1, batch_size=2, lr=0.1)}, 'trains nothing and takes no section "train"'),
        (
            {"objective": config.Component(name="classification", labels="full", loss={"name": "arcface"})},
            'objective "classification" needs section "train"',
        ),
    ],
)
def test_a_training_is_given_to_those_that_train(encoder, said):
    with pytest.raises(AsdError, match=said):
        pipeline.check(changed(**encoder))
