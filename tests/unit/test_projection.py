"""Maps: what is mapped, what is refused, and that the same options give the same map."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from asd_core import api
from asd_core.__main__ import app
from asd_core.analysis.evidence import pooled
from asd_core.artifacts import Workspace, finish, load_run, read_embeddings, write_embeddings
from asd_core.files import read_json, write_json
from asd_core.pipeline.projection import pca, plan_projection, project
from asd_core.pipeline.tasks import VIEW_ITSELF, embeddings_file
from asd_core.types import TEST, TRAIN, AsdError, EmbeddingSet
from tests.app import example

RUN = "logmel-maha--workshop--quick--seed0"


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    made = example.build(tmp_path, clips=2, seconds=0.1)
    example.add_artefacts(made, api.data_set(made, "workshop"), RUN)
    return made


def change(workspace: Workspace, machine: str, split: str, alter) -> EmbeddingSet:
    """Write a machine's embeddings anew, x altered; returns what was there."""
    folder = workspace.task("embed", f"{RUN}-{machine}")
    path = embeddings_file(folder, split, VIEW_ITSELF)
    kept = read_embeddings(path)
    meta = read_json(folder / "meta.json")
    (folder / "meta.json").unlink()
    write_embeddings(path, replace(kept, x=alter(kept.x.copy())))
    finish(folder, spec=meta["spec"], inputs=meta["inputs"])
    return kept


def test_pca_finds_the_plane_that_points_lie_in():
    rng = np.random.default_rng(0)
    plane, _ = np.linalg.qr(rng.standard_normal((20, 2)))
    flat = rng.standard_normal((300, 2)) * (3, 1)
    x = (flat @ plane.T + 5).astype(np.float32)
    found, shares = pca(x)
    assert sum(shares) == pytest.approx(1)
    assert shares[0] == pytest.approx(0.9, abs=0.03)
    original = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    assert np.linalg.norm(found[:, None] - found[None], axis=2) == pytest.approx(original, abs=1e-4)
    order = rng.permutation(300)
    assert pca(x[order])[0] == pytest.approx(found[order], abs=1e-4)


def test_patches_are_averaged_and_steps_past_the_end_left_out():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((300, 6, 3, 4)).astype(np.float16)
    assert pooled(x) == pytest.approx(x.astype(np.float32).mean(axis=(1, 2)), abs=1e-6)
    steps = rng.integers(1, 7, size=300)
    for row, valid in enumerate(steps):
        x[row, valid:] = 99
    expected = [x[row, :valid].astype(np.float32).mean(axis=(0, 1)) for row, valid in enumerate(steps)]
    assert pooled(x, steps) == pytest.approx(np.array(expected), abs=1e-5)


def test_a_map_has_every_clip_once(workspace):
    run = load_run(workspace, RUN)
    plan = plan_projection(workspace, run, method="pca")
    points, notices = project(workspace, plan)
    assert notices == []
    assert sorted(points["clip_id"]) == sorted(run.scores["clip_id"])
    assert list(points) == ["clip_id", "machine", "split", "domain", "attributes", "x", "y"]
    assert set(points.loc[points["split"] == TEST, "domain"]) == {""}
    assert set(points.loc[points["split"] == TRAIN, "domain"]) == {"source", "target"}
    meta = read_json(plan.folder(workspace) / "meta.json")
    assert meta["explained"][0] > meta["explained"][1] > 0
    target = points["clip_id"].str.contains("target").to_numpy()  # planted apart, along the first axis
    assert abs(points["x"][target].mean() - points["x"][~target].mean()) > 3
    stamp = (plan.folder(workspace) / "points.parquet").stat().st_mtime_ns
    project(workspace, plan)
    assert (plan.folder(workspace) / "points.parquet").stat().st_mtime_ns == stamp


def test_options_name_the_map(workspace):
    run = load_run(workspace, RUN)

    def key(**options: object) -> str:
        return plan_projection(workspace, run, **options).key

    assert key() == key(machines=run.record["machines"], splits=[TEST, TRAIN])
    others = [{"neighbours": 5}, {"min_dist": 0.5}, {"metric": "euclidean"}, {"seed": 1}, {"machines": ["fan"]}]
    assert len({key(), *(key(**one) for one in others)}) == 6
    assert key(method="pca", neighbours=5) == key(method="pca")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"machines": ["fam"]}, 'no machine "fam".*fan'),
        ({"branch": "other"}, 'no branch "other"'),
        ({"method": "tsne"}, 'no method "tsne".*umap, pca'),
        ({"metric": "nearness"}, 'no metric "nearness"'),
        ({"splits": ["train", "evaluation"]}, "train, test, generated"),
        ({"splits": []}, "none of them"),
        ({"neighbours": 1}, "from 2 to 200"),
        ({"min_dist": 2.0}, "from 0 to 1"),
        ({"seed": -1}, "Seeds"),
    ],
)
def test_what_cannot_be_mapped_is_said_before(workspace, options, said):
    with pytest.raises(AsdError, match=said):
        plan_projection(workspace, load_run(workspace, RUN), **options)


def test_networks_trained_apart_share_no_map(workspace):
    run = load_run(workspace, RUN)
    run.record["config"]["branches"][0] |= {"encoder": "net", "output": VIEW_ITSELF}
    for number, machine in enumerate(("fan", "valve")):
        path = workspace.task("embed", f"{RUN}-{machine}") / "meta.json"
        write_json(path, read_json(path) | {"inputs": [f"training{number}"]})
    with pytest.raises(AsdError, match="network of its own"):
        plan_projection(workspace, run, ["fan", "valve"])
    assert plan_projection(workspace, run, ["fan"])


def test_embeddings_that_are_no_numbers_are_left_out_and_named(workspace):
    def spoil(x: np.ndarray) -> np.ndarray:
        x[2, 3] = np.nan
        return x

    before = change(workspace, "fan", TEST, spoil)
    points, notices = project(workspace, plan_projection(workspace, load_run(workspace, RUN), ["fan"], method="pca"))
    lost = str(before.clip_ids[2])
    assert lost not in set(points["clip_id"])
    assert len(points) == len(before) - 1 + 9
    assert len(notices) == 1
    assert lost in notices[0]


def test_too_few_clips_and_equal_clips_are_refused(workspace):
    run = load_run(workspace, RUN)
    with pytest.raises(AsdError, match=r"8 clips .* needs 10"):
        project(workspace, plan_projection(workspace, run, ["valve"], splits=[TEST], method="pca"))
    for split in (TRAIN, TEST):
        change(workspace, "fan", split, np.ones_like)
    plan = plan_projection(workspace, run, ["fan"], method="pca")
    with pytest.raises(AsdError, match="the same"):
        project(workspace, plan)
    assert not plan.done(workspace)
    embeddings_file(workspace.task("embed", f"{RUN}-fan"), TEST, VIEW_ITSELF).unlink()
    with pytest.raises(AsdError, match="gone or damaged"):
        project(workspace, plan)


def test_one_number_per_clip_is_no_map(workspace):
    change(workspace, "fan", TRAIN, lambda x: x[:, :1])
    with pytest.raises(AsdError, match="one number per clip"):
        plan_projection(workspace, load_run(workspace, RUN), ["fan"])


def test_umap_keeps_clusters_and_repeats_itself(workspace):
    run = load_run(workspace, RUN)
    plan = plan_projection(workspace, run, ["fan", "valve", "bearing"], neighbours=200, metric="euclidean")
    points, _ = project(workspace, plan)
    plan.folder(workspace).joinpath("meta.json").unlink()
    again, _ = project(workspace, plan)
    assert again.equals(points)
    target = points["clip_id"].str.contains("target").to_numpy()
    places = points[["x", "y"]].to_numpy()
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert np.mean(target[apart.argmin(axis=1)] == target) > 0.8
    assert read_json(plan.folder(workspace) / "meta.json")["umap"]


def test_the_command_makes_a_map_and_tells_where(workspace):
    call = ["project", "--run", RUN, "--machine", "fan", "--method", "pca", "--workspace", str(workspace.root)]
    done = CliRunner().invoke(app, [*call, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["machines"] == ["fan"]
    assert api.projection(workspace, told["key"])["machine"].unique().tolist() == ["fan"]
    with pytest.raises(AsdError, match="no machine"):
        CliRunner().invoke(app, [*call[:4], "fam", *call[5:]], catch_exceptions=False)
