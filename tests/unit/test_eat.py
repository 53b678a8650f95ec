import pytest
import torch

from asd_core.backbones.eat import Classifier, Eat
from asd_core.backbones.fbank import frame_count, kaldi_fbank
from asd_core.types import AsdError

TINY = {"layers": 3, "width": 64, "heads": 4, "ffn": 128, "steps": 128}
ZERO = 4.268 / (2 * 4.569)  # what a log mel energy of 0 becomes


def tiny(seed: int = 0, **options) -> Eat:
    torch.manual_seed(seed)
    model = Eat(**TINY | options)
    with torch.no_grad():  # larger weights than fresh ones, so that attention matters
        for name, weight in model.named_parameters():
            if name.startswith("blocks") and weight.dim() == 2:
                weight.mul_(5)
    return model.eval()


def noise(seconds: float, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(1, round(seconds * 16_000), generator=torch.Generator().manual_seed(seed))


def padded(seconds: list[float]) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Clips, and the batch of them: at their ends is noise, which nobody may hear."""
    clips = [noise(length, seed) for seed, length in enumerate(seconds)]
    lengths = torch.tensor([clip.shape[1] for clip in clips])
    batch = noise(max(seconds), seed=99).repeat(len(clips), 1)
    for row, clip in zip(batch, clips, strict=True):
        row[: clip.shape[1]] = clip[0]
    return clips, batch, lengths


@pytest.mark.parametrize("options", [{}, {"target_frames": 704}])
def test_a_padded_batch_gives_what_each_clip_gives_alone(options):
    model = tiny(**options)
    clips, batch, lengths = padded([6, 10, 12, 16, 0.025])
    with torch.no_grad():
        together = model(*model.fbank(batch, lengths), layers=range(4))
        for i, clip in enumerate(clips):
            fbank, frames = model.fbank(clip)
            alone = model(fbank, layers=range(4))
            tokens = 1 + 8 * int(model.patches(frames))
            assert alone[3].shape == (1, tokens, 64)
            for layer, hidden in alone.items():
                torch.testing.assert_close(together[layer][i, :tokens], hidden[0], atol=1e-4, rtol=0)


def test_clips_hear_all_of_themselves():
    """The last frame moves CLS: the masks do not cut too much."""
    model = tiny()
    _, batch, lengths = padded([6, 6.5])
    fbank, frames = model.fbank(batch, lengths)
    changed = fbank.clone()
    changed[0, int(frames[0]) - 1] += 5
    with torch.no_grad():
        before, after = model(fbank, frames)[3][:, 0], model(changed, frames)[3][:, 0]
    assert (after - before)[0].abs().max() > 1e-3
    assert torch.equal(after[1], before[1])


@pytest.mark.parametrize(("seconds", "frames"), [(6, 598), (10, 998), (12, 1198), (16, 1598)])
def test_whole_clips(seconds, frames):
    model, wave = tiny(), noise(seconds)
    fbank, valid = model.fbank(wave)
    assert valid.tolist() == [frames]
    assert fbank.shape == (1, -(-frames // 16) * 16, 128)
    assert model.patches(valid).tolist() == [fbank.shape[1] // 16]
    torch.testing.assert_close(fbank[:, frames:], torch.full_like(fbank[:, frames:], ZERO))
    expected = (kaldi_fbank(wave - wave.mean(), "hann") + 4.268) / (2 * 4.569)
    torch.testing.assert_close(fbank[:, :frames], expected)


@pytest.mark.parametrize("target", [208, 1024])
def test_target_frames(target):
    """Cut, or followed by zeros, and all of them heard."""
    model, wave = tiny(target_frames=target), noise(3)
    fbank, frames = model.fbank(wave)
    whole, _ = tiny().fbank(wave)
    kept = min(298, target)
    assert fbank.shape == (1, target, 128)
    assert frames.tolist() == [target]
    torch.testing.assert_close(fbank[:, :kept], whole[:, :kept])
    torch.testing.assert_close(fbank[:, kept:], torch.full_like(fbank[:, kept:], ZERO))
    louder = fbank.clone()
    louder[:, -1] += 5
    with torch.no_grad():
        assert torch.equal(model(fbank, frames)[3], model(fbank)[3])
        assert (model(louder, frames)[3] - model(fbank)[3])[:, 0].abs().max() > 1e-4


def test_a_constant_is_not_heard():
    model, (_, batch, lengths) = tiny(), padded([1, 2])
    shifted = batch + torch.tensor([[0.2], [-0.1]])
    torch.testing.assert_close(model.fbank(shifted, lengths)[0], model.fbank(batch, lengths)[0], atol=1e-3, rtol=0)


def test_layers_on_request():
    model = tiny()
    fbank, _ = model.fbank(noise(1))
    ran = []
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *args, i=i: ran.append(i))
    with torch.no_grad():
        assert set(model(fbank)) == {3}
        assert ran == [0, 1, 2]
        every = model(fbank, layers=[0, 1, 2, 3])
        ran.clear()
        some = model(fbank, layers={0, 2})
    assert ran == [0, 1]  # what lies above is not computed
    assert set(some) == {0, 2}
    assert all(torch.equal(some[layer], every[layer]) for layer in some)


@pytest.mark.parametrize("train_positions", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_reach_everything(train_positions, masked):
    model = tiny(train_positions=train_positions).train()
    _, batch, lengths = padded([1, 2])
    fbank, frames = model.fbank(batch, lengths)
    model(fbank, frames if masked else None)[3][:, 0].square().mean().backward()
    for name, weight in model.named_parameters():
        if name == "fixed_positional_encoder.positions" and not train_positions:
            assert weight.grad is None
        else:
            assert weight.grad.abs().sum() > 0, name
            assert torch.isfinite(weight.grad).all(), name


@pytest.mark.parametrize("masked", [False, True])
def test_bfloat16(masked):
    model = tiny()
    _, batch, lengths = padded([2, 3])
    fbank, frames = model.fbank(batch, lengths)
    with torch.no_grad():
        exact = model(fbank, frames if masked else None)[3]
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(fbank, frames if masked else None)[3].float()
    heard = torch.arange(exact.shape[1]) < 1 + 8 * model.patches(frames)[:, None]
    assert torch.cosine_similarity(rough, exact, dim=-1)[heard].min() > 0.999
    assert (rough - exact)[heard].abs().max() < 0.1


def test_depth_of():
    model = tiny()
    depths = {name: model.depth_of(name) for name, _ in model.named_parameters()}
    assert {depth for name, depth in depths.items() if not name.startswith("blocks.")} == {3}
    assert [depths[f"blocks.{i}.attn.qkv.weight"] for i in range(3)] == [2, 1, 0]


def test_random_weights():
    torch.manual_seed(0)
    model = Eat(**TINY)
    assert model.blocks[0].attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not model.blocks[0].mlp.fc2.bias.any()
    bound = (6 / (64 + 256)) ** 0.5  # of Glorot's uniform distribution, a patch being 256 values
    assert 0.95 * bound < model.local_encoder["proj"].weight.abs().max().item() <= bound
    torch.manual_seed(0)
    again = Eat(**TINY).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_architecture_refuses_what_it_is_not():
    config = {"depth": 24, "embed_dim": 1024, "num_heads": 16, "mlp_ratio": 4.0, "max_length": 768, "norm_eps": 1e-6}
    options = {"layers": 24, "width": 1024, "heads": 16, "ffn": 4096, "steps": 768, "norm_eps": 1e-6}
    assert Eat.architecture(config | {"layer_norm_first": False, "patch_size": 16}) == options
    with pytest.raises(AsdError, match="layer_norm_first = True; only EAT with False"):
        Eat.architecture(config | {"layer_norm_first": True})


def test_adopt_is_strict():
    model, tensors = tiny(), tiny(seed=1).state_dict()
    model.adopt(tensors | Classifier(64, 5).state_dict())
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())
    with pytest.raises(AsdError, match=r"Missing key.*blocks\.0\.mlp\.fc1\.bias"):
        model.adopt({name: value for name, value in tensors.items() if name != "blocks.0.mlp.fc1.bias"})
    with pytest.raises(AsdError, match=r"Unexpected key.*decoder\.proj\.weight"):
        model.adopt(tensors | {"decoder.proj.weight": torch.zeros(1)})
    with pytest.raises(AsdError, match=r"size mismatch for pre_norm.weight.*\[65\].*\[64\]"):
        model.adopt(tensors | {"pre_norm.weight": torch.zeros(65)})


def test_what_does_not_fit_is_refused():
    with pytest.raises(AsdError, match="multiple of heads"):
        Eat(width=64, heads=5)
    for target in (0, 1000, 129 * 16):
        with pytest.raises(AsdError, match=f"multiple of 16 up to 2048, got {target}"):
            Eat(**TINY, target_frames=target)
    model = tiny(steps=4)
    with pytest.raises(AsdError, match=r"0\.8 s is longer .* \(0\.6 s\)"):
        model(model.fbank(noise(0.7))[0])
    for wave, lengths in [(noise(0.02), None), (noise(1).repeat(2, 1), torch.tensor([16_000, 399]))]:
        for options in ({}, {"target_frames": 208}):
            model = tiny(**options)
            with pytest.raises(AsdError, match="shorter than"):
                model(*model.fbank(wave, lengths))
    assert frame_count(399) == 0
