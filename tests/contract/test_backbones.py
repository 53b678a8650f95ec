"""What every registered backbone must keep; a new one is tested before anyone thinks of it."""

import numpy as np
import pytest
import torch

from asd_core.backbones import BACKBONES
from asd_core.types import SAMPLE_RATE
from asd_core.views import VIEWS

SIZES = {"layers": 2, "width": 32, "heads": 2, "ffn": 48}
SMALL = {  # others: as they are
    "multiresnet": {"spectrograms": [[1024, 512]], "base_channels": 2, "branch_dim": 32},
    "beats": {
        "pooling": {"name": "asp"},
        "head": ["norm", {"linear": 24}],
        "architecture": SIZES | {"patch_width": 16},
    },
    "eat": {"pooling": {"name": "cls"}, "head": ["norm", "linear"], "architecture": SIZES},
    "geosnet": {
        "architecture": SIZES | {"patch_width": 16},
        "layers": [1, 2],
        "widths": [16, 32],
        "width": 32,
        "blocks": 1,
        "heads": 2,
        "ffn": 48,
        "train_seconds": None,
    },
}
VIEW_OF = {VIEWS.classes[name].kind: name for name in ("waveform", "stereo", "logmel")}
DURATIONS = [2.0, 6.3, 11.0]


@pytest.fixture(params=sorted(BACKBONES.classes))
def name(request):
    return request.param


def build(name, seconds, seed=0):
    torch.manual_seed(seed)
    cls = BACKBONES[name]
    return BACKBONES.create(cls.resolve({"name": name, **SMALL.get(name, {})}, seconds))


def clips(net, seconds, count=3, level=0.1, seed=0):
    """Prepared views of noisy tones, as the pipeline makes them."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    view = VIEWS.create({"name": VIEW_OF[net.input]})
    rows = []
    for _ in range(count):
        near = np.sin(2 * np.pi * rng.uniform(100, 4000) * t) + rng.normal(size=t.size) * rng.uniform(0.1, 1)
        rows.append(net.prepare(view((level * np.stack([near, near])).astype(np.float32))))
    return torch.from_numpy(np.stack(rows))


def test_facts_are_declared(name):
    cls = BACKBONES[name]
    assert cls.input in VIEW_OF
    assert cls.outputs
    assert len(set(cls.outputs)) == len(cls.outputs)
    assert set(getattr(cls, "batch_outputs", ())) <= set(cls.outputs)
    assert isinstance(cls.version, int)


def test_outputs_are_what_is_declared(name):
    """One row, one summary per band or one grid of patches, per clip and output, of a width that no clip length
    changes."""
    widths = set()
    for seconds in DURATIONS:
        net = build(name, seconds).frozen()
        x = clips(net, seconds)
        out = {output: net.embed(x, output) for output in net.outputs}
        for output, rows in out.items():
            kind = net.kind_of(output)
            assert rows.ndim == (2 if kind == "vector" else 4), output
            assert len(rows) == len(x), output
            assert torch.isfinite(rows).all(), output
            if kind == "patches":
                assert rows.shape[1] == (1 + (x.shape[1] - 400) // 160 + (net.name == "eat") * 15) // 16
            elif kind == "bands":
                assert rows.shape[1] == (3 if net.pooling.name == "asp" else 2)
            if kind != "vector":
                assert rows.shape[2] == len(net.layout.edges) - 1
        widths.add(tuple(rows.shape[-1] for rows in out.values()))
        if "clip" in out:
            assert out["clip"].shape[1] == net.embed_dim
    assert len(widths) == 1
    assert net.embed_dim in next(iter(widths))


@pytest.mark.parametrize("seconds", DURATIONS)
def test_evaluation_is_deterministic_and_clips_do_not_see_each_other(name, seconds):
    net = build(name, seconds).frozen()
    x = clips(net, seconds)
    for output in net.outputs:
        together = net.embed(x, output)
        assert torch.equal(net.embed(x, output), together), output
        alone = torch.cat([net.embed(clip[None], output) for clip in x])
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-6)
        turned = net.embed(x.flip(0), output).flip(0)
        torch.testing.assert_close(turned, together, rtol=1e-4, atol=1e-6)


def test_embedding_leaves_input_and_network_as_they_are(name):
    net = build(name, 6.0).frozen()
    x = clips(net, 6.0)
    before, state = x.clone(), {k: v.clone() for k, v in net.state_dict().items()}
    for output in net.outputs:
        net.embed(x, output)
    assert torch.equal(x, before)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_embeddings_tell_clips_apart(name):
    net = build(name, 6.0).frozen()
    for output in net.outputs:
        one, two, three = net.embed(clips(net, 6.0), output)
        assert not torch.allclose(one, two)
        assert not torch.allclose(one, three)


def test_gradients_reach_all_trainable_parameters(name):
    """From some output and in some draw of the weights: a single gate may start out dead."""
    reached: dict[str, bool] = {}
    for seed in range(4):
        net = build(name, 6.0, seed).eval()  # in training mode batch norm cancels the biases before it
        x = clips(net, 6.0, seed=seed)
        weights = torch.Generator().manual_seed(seed)
        for output in net.outputs:
            out = net.embed(x, output)
            (out * torch.rand(out.shape, generator=weights, dtype=out.dtype)).sum().backward()
        for key, p in net.named_parameters():
            if p.requires_grad and p.numel():
                assert p.grad is not None, key
                assert torch.isfinite(p.grad).all(), key
                reached[key] = reached.get(key, False) or bool(p.grad.any())
    assert reached
    assert [key for key, seen in reached.items() if not seen] == []


def test_frozen_has_no_gradients_and_no_training_mode(name):
    net = build(name, 6.0)
    assert net.frozen() is net
    assert not any(p.requires_grad for p in net.parameters())
    assert not any(module.training for module in net.modules())


@pytest.mark.parametrize("training", [False, True])
def test_silence_stays_finite(name, training):
    net = build(name, 6.0).train(training)
    x = clips(net, 6.0, level=0.0)
    for output in net.outputs:
        out = net.embed(x, output)
        assert torch.isfinite(out).all(), output
        if training and out.requires_grad:
            out.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("seconds", [0.0, *DURATIONS])
def test_options_resolve(name, seconds):
    """Into options that build the network, settle when resolved again, and overrule nothing that was given."""
    cls = BACKBONES[name]
    given = {"name": name, **SMALL.get(name, {})}
    kept = dict(given)
    resolved = cls.resolve(given, seconds)
    assert given == kept
    assert resolved.items() >= given.items()
    assert cls.resolve(resolved, 99.0) == resolved
    BACKBONES.create(resolved)


def test_prepared_clips_have_one_length_for_any_start(name):
    net = build(name, 6.0)
    view = VIEWS.create({"name": VIEW_OF[net.input]})
    x = view(np.random.default_rng(0).normal(size=(2, 130_000)).astype(np.float32))
    shapes = {net.prepare(x, start).shape for start in (0.0, 0.5, np.nextafter(1, 0))}
    assert len(shapes) == 1
    np.testing.assert_array_equal(net.prepare(x), net.prepare(x, 0.0))


def test_weights_survive_a_file(name, tmp_path):
    from asd_core.training.checkpoint import load_weights, save_weights

    net, other = build(name, 6.0, 0).frozen(), build(name, 6.0, 1).frozen()
    save_weights(tmp_path / "w", net)
    load_weights(tmp_path / "w", other)
    x = clips(net, 6.0)
    for output in net.outputs:
        assert torch.equal(net.embed(x, output), other.embed(x, output))


def test_several_outputs_in_one_pass_are_what_each_is_alone(name):
    net = build(name, 6.0).frozen()
    x = clips(net, 6.0)
    together = net.embed_all(x, net.outputs)
    assert list(together) == list(net.outputs)
    for output, rows in together.items():
        assert torch.equal(net.embed(x, output), rows), output


def test_only_what_it_says_it_gives(name):
    net = build(name, 6.0).frozen()
    with pytest.raises(ValueError, match=f'backbone {name} has no output "layer99", only'):
        net.embed(clips(net, 6.0), "layer99")
