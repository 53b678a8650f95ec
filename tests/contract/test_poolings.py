"""What every registered pooling must keep; a new one is tested before anyone thinks of it."""

import pytest
import torch

from asd_core.backbones.pooling import BANDS, POOLINGS

WIDTH, BATCH, TOKENS = 32, 4, 24
VARIANTS = [
    *({"name": name} for name in sorted(POOLINGS.classes)),
    {"name": "gem", "signed": True},
    {"name": "gem", "p": 1.0},
    {"name": "gem", "p": 40.0},
    {"name": "asp", "project": False},
]
LENGTHS = torch.tensor([24, 8, 17, 1])


def step(pooling):
    """Tokens that come or go together."""
    return BANDS if pooling.by_band else 1


def lengths(pooling):
    return -(-LENGTHS // step(pooling)) * step(pooling)


@pytest.fixture(params=VARIANTS, ids=lambda spec: "-".join(map(str, spec.values())))
def pooling(request):
    torch.manual_seed(0)
    return POOLINGS.create(request.param, width=WIDTH)


@pytest.fixture
def tokens():
    return torch.randn(BATCH, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


def test_one_vector_of_the_declared_width(pooling, tokens):
    for training in (False, True):
        out = pooling.train(training)(tokens)
        assert out.shape == (BATCH, pooling.out_dim)
        assert out.dtype == torch.float32
        assert torch.isfinite(out).all()


@pytest.mark.parametrize("training", [False, True])
def test_all_valid_is_no_mask(pooling, tokens, training):
    pooling.train(training)
    torch.testing.assert_close(pooling(tokens, torch.ones(BATCH, TOKENS, dtype=torch.bool)), pooling(tokens))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("filler", [0.0, -7.0, 1e6, float("inf"), float("nan")])
def test_padding_does_not_matter(pooling, tokens, training, filler):
    """Neither what it holds, nor to the gradients and running statistics, nor how much of it there is."""
    state = {k: v.clone() for k, v in pooling.state_dict().items()}
    results = []
    for tail, fill in ((0, None), (9 if step(pooling) == 1 else 2 * BANDS, filler)):
        pooling.load_state_dict(state)
        pooling.train(training).zero_grad()
        valid = torch.arange(TOKENS + tail) < lengths(pooling)[:, None]
        x = torch.cat([tokens, torch.zeros(BATCH, tail, WIDTH)], dim=1)
        if fill is not None:
            x = torch.where(valid[:, :, None], x, torch.tensor(fill))
        x.requires_grad_()
        out = pooling(x, valid)
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        assert not x.grad[~valid].any()
        moved = {k: v.clone() for k, v in pooling.state_dict().items()}
        results.append((out.detach(), x.grad[valid], [p.grad for p in pooling.parameters()], moved))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


def test_a_clip_in_a_padded_batch_gives_what_it_gives_alone(pooling, tokens):
    pooling.eval()
    together = pooling(tokens, torch.arange(TOKENS) < lengths(pooling)[:, None])
    alone = torch.cat([pooling(clip[None, :n]) for clip, n in zip(tokens, lengths(pooling).tolist(), strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_order_of_tokens_and_clips_does_not_matter(pooling, tokens, training):
    pooling.train(training)
    first = int(pooling.takes_cls)
    steps = torch.arange(first, TOKENS).unflatten(0, (-1, step(pooling)))
    order = torch.cat([torch.arange(first), steps[torch.randperm(len(steps))].flatten()])
    valid = torch.arange(TOKENS) < lengths(pooling)[:, None]
    expected = pooling(tokens, valid)
    torch.testing.assert_close(pooling(tokens[:, order], valid[:, order]), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooling(tokens.flip(0), valid.flip(0)).flip(0), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_double_batch_gives_the_same(pooling, tokens, training):
    pooling.train(training)
    once = pooling(tokens)
    torch.testing.assert_close(pooling(torch.cat([tokens, tokens])), torch.cat([once, once]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0, 1e-7, 1e4])
@pytest.mark.parametrize("training", [False, True])
def test_constant_tokens_have_finite_gradients(pooling, value, training):
    x = torch.full((BATCH, TOKENS, WIDTH), value, requires_grad=True)
    out = pooling.train(training)(x)
    out.square().sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in pooling.parameters() if p.grad is not None)


@pytest.mark.parametrize("shape", [(1, TOKENS), (3, 1), (1, 1)])
@pytest.mark.parametrize("training", [False, True])
def test_single_clips_and_single_tokens(pooling, shape, training):
    clips, tokens = shape
    x = torch.randn(clips, -(-tokens // step(pooling)) * step(pooling), WIDTH, requires_grad=True)
    out = pooling.train(training)(x)
    out.square().sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all()


def test_single_precision_under_autocast(pooling, tokens):
    pooling.eval()
    rounded = tokens.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = pooling(rounded)
    assert torch.equal(out, pooling(rounded.float()))


def test_gradients_are_those_of_the_function(pooling, tokens):
    pooling.eval().double()
    x = tokens[:2, : 3 * step(pooling)].double().requires_grad_()
    valid = torch.tensor([[True, True, True], [True, False, True]]).repeat_interleave(step(pooling), 1)
    assert torch.autograd.gradcheck(lambda t: pooling(t, valid), x)


def test_every_parameter_is_learnt(pooling, tokens):
    pooling.eval()  # in training mode batch norm cancels the bias before it
    out = pooling(tokens)
    if any(p.requires_grad for p in pooling.parameters()):
        (out * torch.rand_like(out)).sum().backward()
    for name, p in pooling.named_parameters():
        assert p.grad is not None, name
        assert p.grad.any(), name
