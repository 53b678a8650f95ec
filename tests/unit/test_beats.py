"""What BEATs promises beyond agreeing with the official code (see tests/golden/test_beats.py)."""

import pytest
import torch
from torch.nn import functional as F

from asd_core.backbones.beats import BIAS, Beats, PositionalConv, distance_buckets
from asd_core.backbones.linear import Linear
from asd_core.types import AsdError

TINY = {"layers": 3, "width": 64, "heads": 4, "ffn": 128, "patch_width": 32}
SECONDS = [6, 10, 12, 16]


def tiny(**options) -> Beats:
    """Random weights, none of which is at a value that hides it."""
    torch.manual_seed(0)
    model = Beats(**TINY | options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Filter banks of clips of several lengths, with rubbish after each, and their valid frames."""
    torch.manual_seed(1)
    frames = torch.tensor([100 * seconds - 2 for seconds in SECONDS])
    return torch.randn(len(frames), int(frames.max()), 128), frames


@pytest.mark.parametrize("gradients", [True, False])
def test_padding_makes_no_difference(batch, gradients):
    """With gradients by masks, without them clip by clip."""
    (fbank, frames), model = batch, tiny()
    with torch.set_grad_enabled(gradients):
        together = model(fbank, frames, layers=[0, 2, 3])
        for clip, length in enumerate(frames):
            for layer, alone in model(fbank[clip : clip + 1, :length], layers=[0, 2, 3]).items():
                tokens = length // 16 * 8
                assert alone.shape == (1, tokens, 64)
                torch.testing.assert_close(together[layer][clip, :tokens], alone[0], atol=1e-5, rtol=0)


def test_filter_bank_does_not_depend_on_the_batch():
    torch.manual_seed(0)
    wave, model = torch.randn(2, 16_000) * 0.1, tiny()
    fbank, frames = model.fbank(wave, torch.tensor([16_000, 9_000]))
    assert frames.tolist() == [98, 54]
    alone, _ = model.fbank(wave[1:, :9_000])
    torch.testing.assert_close(fbank[1, :54], alone[0])


def test_one_patch_is_enough_and_less_is_refused():
    model = tiny()
    assert model(torch.randn(1, 16, 128))[3].shape == (1, 8, 64)
    with pytest.raises(AsdError, match="15 frames"):
        model(torch.randn(1, 15, 128))
    with pytest.raises(AsdError, match="15 frames"):
        model(torch.randn(2, 50, 128), torch.tensor([50, 15]))


def test_batch_without_gradients_is_clip_by_clip():
    fbank, model = torch.randn(3, 40, 128), tiny()
    with torch.no_grad():
        without = model(fbank)[3]
    torch.testing.assert_close(without, model(fbank)[3], atol=1e-5, rtol=0)


def test_buckets_are_made_once_per_length():
    assert distance_buckets(96, 320, 800) is distance_buckets(96, 320, 800)
    assert distance_buckets.cache_info().maxsize is not None


def test_inference_mode_leaves_nothing_that_training_cannot_use():
    distance_buckets.cache_clear()
    model = tiny()
    model.encoder.pos_conv.requires_grad_(False)
    fbank = torch.randn(2, 40, 128)
    with torch.inference_mode():
        model(fbank)
    model(fbank)[3].sum().backward()


@pytest.mark.parametrize("gradients", [True, False])
def test_half_precision_is_close(batch, gradients):
    (fbank, frames), model = batch, tiny()
    with torch.set_grad_enabled(gradients):
        exact = model(fbank, frames)[3]
        with torch.autocast("cpu", torch.bfloat16):
            half = model(fbank, frames)[3]
    assert half.dtype == torch.float32
    assert F.cosine_similarity(half.flatten(), exact.flatten(), dim=0) > 0.9999
    assert (half - exact).abs().max() < 0.1


def test_frozen_weights_may_still_change(batch):
    """What is kept of frozen weights is made anew when they change."""
    fbank, model = batch[0][:1], tiny().requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        model(fbank)
        torch.manual_seed(7)
        other = Beats(**TINY).eval()
        model.load_state_dict(other.state_dict())
        torch.testing.assert_close(model(fbank)[3], other(fbank)[3], atol=1e-3, rtol=0)


@pytest.mark.parametrize("tokens", [8, 128, 129, 496])
@pytest.mark.parametrize("kernel", [128, 5])
def test_positional_convolution_by_fourier(tokens, kernel):
    torch.manual_seed(0)
    conv, x = PositionalConv(32, kernel, 4), torch.randn(2, tokens, 32)
    with torch.no_grad():
        conv.bias.normal_()
    direct = F.conv1d(x.transpose(1, 2), conv.weight(), conv.bias, padding=kernel // 2, groups=4)
    torch.testing.assert_close(conv(x), direct[..., :tokens].transpose(1, 2), atol=1e-5, rtol=0)


def test_gradients_reach_every_weight(batch):
    (fbank, frames), model = batch, tiny().train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(fbank, frames)[3].square().sum()
    loss.backward()
    for name, parameter in model.named_parameters():
        if not name.endswith("k_proj.bias"):  # adds the same to all logits of a query: no gradient but rounding
            assert parameter.grad.abs().max() > 0, name


def test_gradient_decay():
    fbank, gradients = torch.randn(1, 40, 128), {}
    for decay in (1.0, 0.5):
        model = tiny(gradient_decay=decay)
        model(fbank)[3].square().sum().backward()
        gradients[decay] = {name: p.grad for name, p in model.named_parameters()}
    for name in ("encoder.layers.2.fc1.weight", "encoder.layers.0.fc1.weight", "patch_embedding.weight"):
        expected = gradients[1.0][name] * 0.5 ** model.depth_of(name)
        torch.testing.assert_close(gradients[0.5][name], expected, rtol=1e-4, atol=1e-7)


def test_layer_drop():
    fbank, model = torch.randn(1, 40, 128), tiny(layer_drop=1.0)
    every = model(fbank, layers=range(4))
    assert not torch.equal(every[0], every[3])
    dropped = model.train()(fbank, layers=range(4))
    torch.testing.assert_close(dropped[0], every[0])
    assert all(torch.equal(dropped[0], dropped[layer]) for layer in (1, 2, 3))


def test_layer_drop_draws_from_torch():
    fbank, model = torch.randn(1, 40, 128), tiny(layer_drop=0.5).train()

    def draws() -> list[torch.Tensor]:
        torch.manual_seed(3)
        return [model(fbank)[3] for _ in range(8)]

    first, second = draws(), draws()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert any(not torch.equal(first[0], other) for other in first)


def test_blocks_above_the_highest_wanted_are_not_run():
    model = tiny()
    model.blocks[2].forward = None
    assert set(model(torch.randn(1, 40, 128), layers=[0, 2])) == {0, 2}


def test_depths():
    model = tiny()
    depths = {name: model.depth_of(name) for name, _ in model.named_parameters()}
    assert depths["encoder.layers.2.fc1.weight"] == 0
    assert depths["encoder.layers.0.self_attn.grep_a"] == 2
    assert {depths[n] for n in depths if ".layers." not in n} == {3}


def test_initial_weights():
    torch.manual_seed(0)
    model = Beats(layers=2, width=256, heads=4, ffn=512)
    block, beta = model.blocks[0], 16**-0.25
    for layer, gain in ((block.self_attn.q_proj, 1), (block.self_attn.v_proj, beta), (block.fc2, beta)):
        xavier = gain * (2 / (layer.in_features + layer.out_features)) ** 0.5
        assert float(layer.weight.detach().std()) == pytest.approx(xavier, rel=0.02)
        assert not layer.bias.any()
    assert float(block.self_attn.relative_attention_bias.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    conv = model.encoder.pos_conv[0]
    torch.testing.assert_close(conv.weight(), conv.weight_v.detach(), atol=1e-6, rtol=1e-5)
    assert float(conv.weight_v.detach().std()) == pytest.approx((4 / (128 * 256)) ** 0.5, rel=0.02)


def test_weights_that_do_not_fit_are_named():
    model = tiny()
    tensors = model.state_dict()
    model.adopt(tensors | {"predictor.weight": torch.zeros(1), BIAS.format(2): tensors[BIAS.format(0)]})
    with pytest.raises(AsdError, match=r"layers\.2\S* differs"):
        model.adopt(tensors | {BIAS.format(2): torch.zeros(320, 4)})
    with pytest.raises(AsdError, match=r"grep_a"):
        model.adopt({name: value for name, value in tensors.items() if not name.endswith("grep_a")})
    with pytest.raises(AsdError, match="surplus"):
        model.adopt(tensors | {"surplus": torch.zeros(1)})
    with pytest.raises(AsdError, match=r"patch_embedding.*shape"):
        model.adopt(tensors | {"patch_embedding.weight": torch.zeros(8, 1, 16, 16)})


def test_other_architectures_are_refused():
    with pytest.raises(AsdError, match="deep_norm"):
        Beats.architecture({"deep_norm": False})
    with pytest.raises(AsdError, match="multiple"):
        Beats(width=100)


def test_low_rank_updates():
    pytest.importorskip("peft")
    from asd_core.backbones.lora import add_lora

    fbank, model = torch.randn(1, 40, 128), tiny().requires_grad_(False)
    before = model(fbank)[3]
    add_lora(model, model.lora_targets, rank=4, alpha=8)
    torch.testing.assert_close(model(fbank)[3], before)
    model(fbank)[3].square().sum().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert len(trained) == 3 * 2 * 2
    assert {model.depth_of(name) for name in trained} == {0, 1, 2}


def test_linear_layers_round_alike_on_one_thread_and_on_two():
    """On two threads single-precision products go another way."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    layer, x = Linear(96, 160), torch.randn(2, 50, 96, requires_grad=True)
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            y = layer(x)
            gradients = torch.autograd.grad(y.square().sum(), [x, layer.weight, layer.bias])
            results.append([y.detach(), *gradients])
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-4)
