"""Distances between sample sets, against closed forms and brute force, and what is made of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from sklearn.covariance import ledoit_wolf

from asd_core.synthesis.quality import (
    LEAST,
    NARROW,
    Sets,
    compare,
    diversity,
    frechet,
    kernel_distance,
    verdict,
    windows,
)
from asd_core.views.logmel import LogMelStatistics

MEASURES = [frechet, kernel_distance]


def normal(n: int, dim: int, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return shift + scale * np.random.default_rng(seed).normal(size=(n, dim))


def gaussian_distance(mean_a, A, mean_b, B) -> float:
    return float(np.square(mean_a - mean_b).sum() + np.trace(A) + np.trace(B) - 2 * np.trace(sqrtm(A @ B)).real)


@st.composite
def pairs(draw):
    """Two sets of few or many rows, some with repeated rows, constant columns or hardly any scatter."""
    n, m, dim = draw(st.integers(2, 12)), draw(st.integers(2, 12)), draw(st.integers(1, 9))
    a, b = normal(n, dim, draw(st.integers(0, 99))), normal(m, dim, draw(st.integers(100, 199)), shift=0.5)
    match draw(st.sampled_from(["as is", "repeated", "constant", "tight"])):
        case "repeated":
            a[1:] = a[0]
        case "constant":
            a[:, 0], b[:, 0] = 3.0, -2.0
        case "tight":
            a *= 1e-9
    return a, b


def test_frechet_of_known_gaussians():
    mean_a, mean_b = np.array([0.0, 1.0, -2.0]), np.array([1.0, 1.0, 0.0])
    A = np.array([[2.0, 0.6, 0.0], [0.6, 1.0, 0.3], [0.0, 0.3, 0.5]])
    B = np.array([[1.0, -0.4, 0.2], [-0.4, 3.0, 0.0], [0.2, 0.0, 1.5]])
    rng = np.random.default_rng(0)
    a, b = (rng.multivariate_normal(mean, cov, 200_000) for mean, cov in ((mean_a, A), (mean_b, B)))
    assert frechet(a, b) == pytest.approx(gaussian_distance(mean_a, A, mean_b, B), rel=0.01)


def test_frechet_in_one_dimension_is_exact():
    a, b = normal(7, 1, 0), normal(9, 1, 1, shift=2, scale=3)
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet(a, b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "m", "dim"), [(5, 8, 40), (30, 9, 20), (200, 300, 6)])
def test_frechet_equals_the_formula_with_whole_matrices(n, m, dim):
    """Also where the rows span a small part of the space, which is the only part that is computed."""
    mixing = np.random.default_rng(2).normal(size=(dim, dim))
    a, b = normal(n, dim, 0) @ mixing, 2 * normal(m, dim, 1) + 1
    A, B = (ledoit_wolf(x)[0] * len(x) / (len(x) - 1) for x in (a, b))
    assert frechet(a, b) == pytest.approx(gaussian_distance(a.mean(0), A, b.mean(0), B), rel=1e-6)


@settings(max_examples=150, deadline=None)
@given(pairs())
def test_frechet_is_a_symmetric_distance(pair):
    a, b = pair
    distance = frechet(a, b)
    assert math.isfinite(distance)
    assert distance >= 0
    assert frechet(b, a) == pytest.approx(distance, rel=1e-9, abs=1e-12)
    assert frechet(a, a) == pytest.approx(0, abs=1e-12)
    assert frechet(3 * a, 3 * b) == pytest.approx(9 * distance, rel=1e-6, abs=1e-12)
    assert frechet(a, a + 2.0) == pytest.approx(4.0 * a.shape[1], rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(pairs())
def test_kernel_distance_equals_a_double_loop(pair):
    a, b = pair
    mean, deviation = b.mean(axis=0), np.maximum(b.std(axis=0, ddof=1), NARROW * np.sqrt(b.var(axis=0, ddof=1).mean()))
    assume(deviation.all())
    x, y = (a - mean) / deviation, (b - mean) / deviation

    def kernel(u, v):
        return (u @ v / len(u) + 1) ** 3

    within_x = [kernel(u, v) for i, u in enumerate(x) for j, v in enumerate(x) if i != j]
    within_y = [kernel(u, v) for i, u in enumerate(y) for j, v in enumerate(y) if i != j]
    across = [kernel(u, v) for u in x for v in y]
    expected = np.mean(within_x) + np.mean(within_y) - 2 * np.mean(across)
    size = np.abs([*within_x, *within_y, *across]).max()  # large terms may cancel
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-9, abs=1e-12 * size)


def test_kernel_distance_of_one_distribution_is_zero_on_average():
    """With the pairs of a row with itself left in, 20 rows in 8 dimensions would give about 0.3."""
    values = [kernel_distance(normal(20, 8, i), normal(500, 8, 10_000 + i)) for i in range(300)]
    assert abs(np.mean(values)) < 0.02
    assert min(values) < 0
    assert kernel_distance(normal(20, 8, 0, shift=0.5), normal(500, 8, 1)) > 0.3


def test_kernel_distance_does_not_depend_on_unit_and_level():
    a, b = normal(20, 5, 0, shift=0.4), normal(30, 5, 1)
    assert kernel_distance(20 * a - 60, 20 * b - 60) == pytest.approx(kernel_distance(a, b), rel=1e-9)


def test_a_reference_of_equal_rows_gives_a_finite_kernel_distance():
    assert math.isfinite(kernel_distance(normal(5, 3), np.ones((5, 3))))


def test_diversity():
    real = normal(40, 6, 0)
    assert diversity(real + 5, real) == pytest.approx(1)
    assert diversity(0.5 * real, real) == pytest.approx(0.5)
    assert diversity(np.repeat(real[:1], 10, axis=0), real) == 0
    assert diversity(normal(10, 6, 1), real) == pytest.approx(1, abs=0.2)
    two = np.array([[0.0, 0.0], [3.0, 4.0]])
    assert diversity(two, np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]])) == pytest.approx(5 / (4 / 3))


@pytest.mark.parametrize("function", [*MEASURES, diversity])
def test_one_row_is_too_few(function):
    for a, b in [(1, 5), (5, 1), (0, 5), (1, 1)]:
        assert math.isnan(function(normal(a, 3), normal(b, 3)))
    assert math.isfinite(function(normal(2, 3, 0), normal(2, 3, 1)))


def test_the_diversity_of_equal_real_clips_is_unknown():
    assert math.isnan(diversity(normal(5, 3), np.ones((4, 3))))


@pytest.mark.parametrize("function", [*MEASURES, diversity])
@pytest.mark.parametrize("other", [normal(5, 4), np.full((5, 3), np.nan), np.zeros(3)])
def test_sets_that_do_not_fit_are_refused(function, other):
    with pytest.raises(ValueError, match="finite matrices of equal width"):
        function(normal(5, 3), other)


def test_windows():
    levels = np.array([[0, 2, 4, 4, 9], [1, 1, 5, 7, 9]], dtype=np.float32)
    np.testing.assert_allclose(windows(levels, 2), [[1, 1, 1, 0], [4, 6, 0, 1]])
    np.testing.assert_allclose(windows(levels[:, :3], 10), [[2, 7 / 3, np.std([0, 2, 4]), np.std([1, 1, 5])]])
    assert windows(levels, 1).shape == (5, 4)
    assert windows(levels, 5).dtype == np.float64
    for wrong, frames in [(levels, 0), (levels[:, :0], 2)]:
        with pytest.raises(ValueError, match="at least 1"):
            windows(wrong, frames)


def test_a_window_of_a_whole_clip_is_its_log_mel_statistics():
    view = LogMelStatistics()
    wave = normal(1, 8000, 0, scale=0.1).astype(np.float32)
    levels = super(LogMelStatistics, view).__call__(wave)
    np.testing.assert_allclose(windows(levels, levels.shape[1])[0], view(wave), atol=1e-4)


def sets(**changes) -> Sets:
    """A generator that is a little off; the condition "fast" is farther away, "faster" and noise farther still."""
    named = {
        "generated": normal(60, 4, 1, shift=0.7),
        "reference": normal(50, 4, 2),
        "real": normal(40, 4, 3),
        "others": {"faster": normal(80, 4, 4, shift=5), "fast": normal(70, 4, 5, shift=2)},
        "noise": normal(30, 4, 6, shift=4),
    }
    return Sets(**(named | changes))


@pytest.mark.parametrize("measure", MEASURES)
def test_yardsticks_are_in_order(measure):
    row = compare(sets(), measure)
    assert row["real"] < row["generated"] < row["other"] < row["noise"]
    assert (row["nearest"], row["rows"]) == ("fast", 30)
    assert compare(sets(), measure) == row


def test_all_sets_are_drawn_down_to_the_smallest_and_draws_are_averaged():
    seen, results = [], []

    def measure(a, b):
        assert len(np.unique(a, axis=0)) == len(a), "drawn without replacement"
        seen.append((len(a), len(b)))
        results.append(a.sum())
        return results[-1]

    only = {"real": None, "noise": normal(1, 4), "others": {}}
    row = compare(sets(generated=normal(25, 4), reference=normal(12, 4), **only), measure)
    assert set(seen) == {(12, 12)}
    assert len(set(results)) == len(results) > 1
    assert row["generated"] == pytest.approx(np.mean(results))


@pytest.mark.parametrize("measure", MEASURES)
def test_sets_of_equal_size_are_compared_whole(measure):
    a, b = normal(20, 4, 0), normal(20, 4, 1)
    row = compare(sets(generated=a, reference=b, real=None, others={}, noise=normal(20, 4, 2)), measure)
    assert row["generated"] == pytest.approx(measure(a, b), rel=1e-9)


def test_a_figure_does_not_depend_on_the_other_sets_but_by_their_size():
    row = compare(sets(), frechet)
    changed = compare(sets(real=None, others={"slow": normal(90, 4, 7, shift=-1)}), frechet)
    assert {name: changed[name] for name in ("generated", "noise")} == {
        name: row[name] for name in ("generated", "noise")
    }
    assert math.isnan(changed["real"])
    assert changed["nearest"] == "slow"


def test_a_tiny_set_is_left_out_and_does_not_shrink_the_others():
    tiny = normal(LEAST - 1, 4)
    row = compare(sets(real=tiny, others={"rare": tiny, "fast": sets().others["fast"]}), frechet)
    assert row["rows"] == 30
    assert row["nearest"] == "fast"
    assert math.isnan(row["real"])
    for lacking in ({"generated": tiny}, {"reference": tiny}):
        row = compare(sets(**lacking), frechet)
        assert math.isnan(row["generated"])
        assert verdict(row) == "too few windows to tell"
    assert compare(sets(others={}), frechet)["nearest"] == ""


@pytest.mark.parametrize(
    ("generated", "real", "other", "noise", "said"),
    [
        (2, 1, 3, 4, "closer to held-out clips than any other condition and shaped noise"),
        (1, 1, 3, 4, "as close to held-out clips as other real clips, closer than any other condition and shaped noise"),
        (3.5, 1, 3, 4, "closer to held-out clips than shaped noise, no closer than clips of fan|fast"),
        (3.5, 1, 4, 3, "closer to held-out clips than any other condition, no closer than shaped noise"),
        (4, 1, 3, 4, "no closer to held-out clips than clips of fan|fast or shaped noise"),
        (2, 3, 3, 4, "as close to held-out clips as other real clips, closer than any other condition and shaped noise;"
                     " clips of fan|fast are as close as its own"),
        (2, math.nan, math.nan, 4, "closer to held-out clips than shaped noise"),
        (2, math.nan, math.nan, math.nan, "nothing to compare with"),
        (math.nan, 1, 3, 4, "too few windows to tell"),
    ],
)  # fmt: skip
def test_verdicts(generated, real, other, noise, said):
    row = {"generated": generated, "real": real, "other": other, "nearest": "fan|fast", "noise": noise}
    assert verdict(row) == said
