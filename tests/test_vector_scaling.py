"""Cross-entropy of scaled and moved logits, on sizes and in lanes, and what theory says of it."""

from typing import Any

import numpy as np
import optax
import pytest
import zoo
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import ufm
from ufm._core.precision import float64
from ufm.minima import quadrature
from ufm.minima.block_bound import value_and_bound
from ufm.minima.blocks import BlockPoint, objective, risk, with_bias
from ufm.minima.scaled_blocks import ScaledBlocks
from ufm.minima.symmetry import blocks_of
from ufm.model.losses import flat_of
from ufm.model.problem import relaxed_rank

COUNTS = [30, 30, 10, 10, 10, 1]
BIASES = {"none": {"bias": False}, "free": {}, "regularised": {"lambda_b": 1e-2}}
FACTORS = np.exp(0.3 * np.random.default_rng(0).normal(size=(6, 6)))  # of labels that share no flat direction
LOSSES = {
    "offsets": ufm.VectorScaling.logit_adjustment(COUNTS, tau=2.0),
    "factors of logits": ufm.VectorScaling.cdt(COUNTS, gamma=0.3),
    "factors of labels": ufm.VectorScaling.ldt(COUNTS, gamma=0.3),
    "both": ufm.VectorScaling.vs(COUNTS),
    "margins": ufm.VectorScaling.ldam(COUNTS, margin=2.0),
    "products": ufm.VectorScaling(
        np.repeat([0.0, 1.0, 5.0], [2, 3, 1]),
        np.multiply.outer(np.repeat([2.0, 1.0, 0.5], [2, 3, 1]), np.repeat([1.0, 3.0, 2.0], [2, 3, 1])),
    ),
    "a matrix": ufm.VectorScaling(np.random.default_rng(1).normal(size=(6, 6)), FACTORS),
}


def problem(loss, counts=COUNTS, bias="free", **words):
    words = {"lambda_A": 2e-3, "lambda_H": 1e-4, **BIASES[bias], **words}
    return ufm.Problem(num_classes=len(counts), dim=len(counts) + 1, per_class=counts, loss=loss, **words)


def random_point(blocks, seed):
    """Any point; free of what a free bias takes and the loss ignores by no means."""
    random, G = np.random.default_rng(seed), blocks.num_sizes
    u = np.where(blocks.several, random.normal(size=G), 0.0)
    b = random.normal(size=G) if blocks.bias_kind != "none" else np.zeros(G)
    return BlockPoint(blocks.scale * random.normal(size=(G, G)), u, b)


def written_out(loss, K):
    """Offsets and factors as matrices (K, K) of labels and logits."""
    return (np.broadcast_to(np.asarray(part), (K, K)) for part in (loss.additive, loss.multiplicative))


def value_as_posed(p, size_of, blocks, point):
    """Σ ω_k (log Σ exp x_k − x_kk) + c ‖diag(n)^{1/2} Z‖_* + λ_b/2 ‖b‖² of K classes, x = Δ ∘ (Z + b) + ι."""
    n, w, b, K = p.class_counts, p.class_weights, point.b[size_of], p.num_classes
    B = point.C / np.sqrt(np.outer(blocks.counts * blocks.multiplicities, blocks.multiplicities))
    Z, same = B[np.ix_(size_of, size_of)], size_of[:, None] == size_of
    Z = Z - same * (point.u / blocks.multiplicities)[size_of] + np.diag(point.u[size_of])
    offsets, factors = written_out(p.loss, K)
    x = factors * (Z + b) + offsets
    losses = np.logaddexp.reduce(x, axis=1) - np.diag(x)
    nuclear = np.linalg.svd(np.sqrt(n)[:, None] * Z, compute_uv=False).sum()
    return (w * n / n.sum()) @ losses + blocks.price * nuclear + p.lambda_b / 2 * b @ b


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("name", LOSSES)
def test_the_problem_on_sizes_is_the_problem_as_posed(name, bias):
    p = problem(LOSSES[name], bias=bias, class_weights=[1.0, 1.0, 2.0, 2.0, 3.0, 1.0])
    blocks, size_of = blocks_of(p)
    assert isinstance(blocks, ScaledBlocks)
    assert blocks.num_sizes == (6 if name == "a matrix" else 4)  # classes 2 and 3 are alike, and 0 and 1
    for seed in range(3):
        point = random_point(blocks, seed)
        assert_allclose(objective(blocks, point), value_as_posed(p, size_of, blocks, point), rtol=1e-13)


@pytest.mark.parametrize("name", LOSSES)
def test_slopes_on_sizes_are_derivatives(name):
    blocks, _ = blocks_of(problem(LOSSES[name]))
    point, step = random_point(blocks, 0), 1e-6
    F, u = with_bias(blocks, point), point.u
    here = risk(blocks, F, u)
    random = np.random.default_rng(1)
    for _ in range(5):
        dF, du = random.normal(size=F.shape), np.where(blocks.several, random.normal(size=u.shape), 0.0)
        ahead, behind = (risk(blocks, F + s * dF, u + s * du).value for s in (step, -step))
        along = np.sum(here.along_C * dF) + np.sum(blocks.others * np.sqrt(blocks.counts) * here.along_u * du)
        # step² f''' is 1e-12, and rounding ε f/step 1e-9
        assert along == pytest.approx((ahead - behind) / (2 * step), abs=1e-8)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("name", LOSSES)
def test_minima_are_certified_whatever_way_they_are_found(name, bias):
    """On sizes, and through L-BFGS within balls that don't bind: two solvers and two certificates, one value."""
    p = problem(LOSSES[name], bias=bias)
    best = ufm.minimize(p)
    assert best.certified
    assert best.gap <= 1e-11 * best.value
    in_lanes = ufm.minimize(problem(LOSSES[name], bias=bias, features=ufm.Ball(1e3), classifier=ufm.Ball(1e3)))
    assert in_lanes.value == pytest.approx(best.value, rel=1e-10)
    assert in_lanes.gap <= 1e-8 * best.value
    # the value is that of the definition at the parameters, and the bound one from any
    assert p.objective(best.params) == pytest.approx(best.value, rel=1e-13)
    assert ufm.lower_bound(p, p.init(seed=0)) <= best.value * (1 + 1e-12)


@given(st.integers(0, 2**32 - 1))
def test_no_bound_is_above_a_value(seed):
    random = np.random.default_rng(seed)
    K = int(random.integers(2, 6))
    counts = (10.0 ** random.uniform(0, 4, K)).astype(int).tolist()
    shape = [(K,), (K, 1), (K, K), ()][random.integers(4)]
    factors = np.exp(random.uniform(0, 2) * random.normal(size=shape))
    loss = ufm.VectorScaling(
        10.0 ** random.uniform(-1, 3) * random.normal(size=[(K,), (K, K)][random.integers(2)]), factors
    )
    p = problem(loss, counts, list(BIASES)[random.integers(3)], lambda_A=10.0 ** random.uniform(-9, 1))
    blocks, _ = blocks_of(p)
    pairs = np.array([value_and_bound(blocks, random_point(blocks, seed + i)) for i in range(5)])
    assert np.max(pairs[:, 1]) <= np.min(pairs[:, 0]) * (1 + 1e-13)
    means = p.init(seed=seed % 2**31)
    assert ufm.lower_bound(p, means) <= np.min(pairs[:, 0]) * (1 + 1e-13)


def test_a_bias_that_classifies_alone_leaves_no_bound_but_the_infimum():
    """Δ_00 b_0 > Δ_01 b_1 and Δ_11 b_1 > Δ_10 b_0 can be had where Δ_00 Δ_11 > Δ_01 Δ_10: 0 isn't attained."""
    loss = ufm.VectorScaling(multiplicative=[[0.945, 0.993], [0.971, 1.028]])
    best = ufm.minimize(problem(loss, [7, 936]))
    assert best.lower_bound <= best.value < 1e-12
    assert not best.certified


@pytest.mark.parametrize("name", ["offsets", "factors of logits", "factors of labels", "both", "margins"])
def test_many_sizes_are_told_their_factors_and_offsets(name):
    """Nodes of a rule in log n start the problem on all sizes where it ends; without them it ends there too."""
    counts = np.unique(np.geomspace(900, 4, 70).astype(int))[::-1]
    makes = {"offsets": "logit_adjustment", "factors of logits": "cdt", "factors of labels": "ldt", "both": "vs"}
    make = makes.get(name, "ldam")
    p = problem(getattr(ufm.VectorScaling, make)(counts), counts.tolist(), lambda_A=1e-4, lambda_H=1e-5)
    blocks, _ = blocks_of(p)
    fewer = quadrature.fewer_sizes(blocks)
    assert fewer is not None
    assert fewer.blocks.num_sizes < blocks.num_sizes
    found, alone = quadrature.solve(blocks), quadrature.proximal_newton.solve(blocks)
    assert found.value == pytest.approx(alone.value, rel=1e-9)
    assert found.steps <= 12
    assert found.gap <= 1e-9 * found.value


def test_what_is_no_function_of_the_count_is_not_interpolated():
    counts = list(range(4, 64))
    matrix = ufm.VectorScaling(multiplicative=np.exp(np.eye(60)))
    assert blocks_of(problem(matrix, counts))[0].told is None
    random = ufm.VectorScaling(multiplicative=np.exp(np.random.default_rng(0).normal(size=60)))
    assert quadrature.fewer_sizes(blocks_of(problem(random, counts))[0]) is None


@pytest.mark.parametrize(
    ("name", "rank", "ignores"),
    [
        ("offsets", 5, True),
        ("factors of logits", 5, False),
        ("factors of labels", 5, True),
        ("both", 5, False),
        ("products", 5, False),
        ("a matrix", 6, False),
    ],
)
def test_logits_move_at_no_change_along_the_inverse_of_their_factors(name, rank, ignores):
    loss, random = LOSSES[name], np.random.default_rng(0)
    assert loss.ignores_shift == ignores
    assert relaxed_rank(problem(loss, bias="none")) == rank
    flat, labels = flat_of(loss, 6), np.arange(6)
    with float64():
        Z = random.normal(size=(6, 6))
        if flat is not None:
            assert_allclose(loss(Z + 1.7 * np.asarray(flat), labels), loss(Z, labels), rtol=1e-13)
        assert (flat is None) == (rank == 6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("c", [1e-3, 2e-2, 0.5])
def test_what_theory_says_of_factors_and_offsets_holds(name, c):
    for bias in BIASES:
        report = ufm.verify(problem(LOSSES[name], bias=bias, lambda_A=c, lambda_H=c))
        assert [claim for claim in report.claims if claim.verdict is not ufm.Verdict.HOLDS] == []
        assert (len(report.claims) > 0) == (name != "a matrix")


def test_classes_are_apart_whose_factor_puts_the_threshold_off():
    """At 1.15 times the threshold of a factor 1, classes 2, 3 and 4 coincide; under a factor 1.3 they don't."""
    c = 1.15 * np.sqrt(10) / 91
    p, other = (problem(ufm.VectorScaling(multiplicative=s), bias="none", lambda_A=c, lambda_H=c) for s in (1.0, 1.3))
    claims = ufm.verify(ufm.minimize(p)).claims
    apart, together = ufm.minimize(other).A, ufm.minimize(p).A
    assert np.linalg.norm(together[2] - together[3]) < 1e-7
    assert np.linalg.norm(apart[2] - apart[3]) > 1e-2
    assert [claim.predicted for claim in claims if "2, 3 and 4 coincide" in claim.quantity] == [True]


def test_one_factor_and_no_offset_are_cross_entropy_at_another_temperature():
    """ℓ(2z) with decays λ is cross-entropy of z' = 2z with c/2: the nuclear norm is half as large."""
    scaled = ufm.minimize(problem(ufm.VectorScaling(3.0, 2.0)))
    plain = ufm.minimize(problem(ufm.CrossEntropy(), lambda_A=1e-3, lambda_H=5e-5))
    assert scaled.value == pytest.approx(plain.value, rel=1e-12)


def test_a_loss_is_kept_trained_and_swept(tmp_path):
    p = problem(LOSSES["both"], counts=COUNTS)
    best = ufm.minimize(p)
    best.save(tmp_path / "best.npz")
    again = ufm.load(tmp_path / "best.npz").problem
    assert repr(again) == repr(p)
    assert again.objective(best.params) == best.value
    table = ufm.sweep(p, {"loss": [LOSSES["both"], LOSSES["factors of labels"]], "lambda_A": [1e-3, 2e-3]})
    assert float(table.value[0, 1]) == pytest.approx(best.value, rel=1e-10)
    run = ufm.train(zoo.problem(loss=ufm.VectorScaling.cdt([5, 3, 1]), per_class=[5, 3, 1]), optax.sgd(0.3), steps=200)
    assert run.history.loss[-1] < run.history.loss[0]


def test_margins_are_of_losses_that_fall_at_one_rate():
    words: Any = {"lambda_A": 0.0, "lambda_H": 0.0}
    moved, plain = (ufm.max_margin(problem(loss, **words)) for loss in (LOSSES["margins"], ufm.CrossEntropy()))
    assert moved.value == plain.value
    with pytest.raises(ValueError, match="at one rate in all margins"):
        ufm.max_margin(problem(LOSSES["factors of labels"], **words))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"additive": [[1.0], [2.0]]}, r"additive of shape \(2, 1\)"),
        ({"multiplicative": [1.0, 0.0]}, r"multiplicative = \[1\.0, 0\.0\]: positive"),
        ({"multiplicative": np.ones((2, 3))}, r"multiplicative of shape \(2, 3\)"),
        ({"additive": [0.0, 1.0], "multiplicative": [1.0, 1.0, 1.0]}, "as many classes"),
    ],
)
def test_what_is_no_scaling_is_refused(words, said):
    with pytest.raises(ValueError, match=said):
        ufm.VectorScaling(**words)


def test_another_number_of_classes_is_refused():
    with pytest.raises(ValueError, match=r"loss\.additive of 6 classes, and there are 3"):
        zoo.problem(loss=LOSSES["both"])
    with pytest.raises(ValueError, match=r"loss\.additive of 6 classes, and there are 2"):
        LOSSES["margins"](np.zeros(2), 0)
