import dataclasses
import functools

import jax
import jax.flatten_util
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from zoo import problem

import ufm
from ufm import hessian
from ufm._core.precision import float64
from ufm._core.spectra import Spectrum, distance, lines
from ufm.theory import _modes

LOSSES = {"ce": ufm.CrossEntropy(), "smoothing": ufm.LabelSmoothing(0.1), "se": ufm.SquaredError()}
BIASES = {"none": {"bias": False}, "free": {}, "regularised": {"lambda_b": 0.3}, "little": {"lambda_b": 1e-2}}


def by_differentiation(p, params):
    """Eigenvalues of the Hessian that JAX makes of the objective, in all parameters."""
    leaves = (params.H, *params.W, params.A, *([params.b] if p.bias else []))

    def objective(x):
        H, *hidden, A = unravel(x)[: 2 + len(params.W)]
        return p.objective(ufm.Params(H, A, unravel(x)[-1] if p.bias else params.b, tuple(hidden)))

    with float64():
        flat, unravel = jax.flatten_util.ravel_pytree(leaves)
        return np.linalg.eigvalsh(np.asarray(jax.jit(jax.hessian(objective))(flat)))


@functools.cache
def minimum(p):
    return ufm.minimize(p)


def balanced_optimum(p):
    """Parameters of the predicted shape and norms: rows of a root of the Gram for A, and each H_i ∝ a_{y_i}."""
    said = ufm.predict(p)
    values, vectors = np.linalg.eigh(said.gram_A)
    frame = np.zeros((p.num_classes, p.dim))
    rank = min(p.dim, p.num_classes)
    frame[:, :rank] = (vectors * np.sqrt(np.maximum(values, 0.0)))[:, -rank:]
    A = frame * said.norm_A / np.linalg.norm(frame)
    H = frame[p.labels] * said.norm_H / np.linalg.norm(frame[p.labels])
    return ufm.Params(H, A, np.zeros(p.num_classes) if said.bias is None else said.bias)


@pytest.mark.parametrize("decay", [1e-3, 1e-8, 1e-13])
def test_a_margin_as_large_as_decay_is_small_costs_the_spectrum_no_digits(decay):
    # probabilities of wrong classes are √n decay: 1 − p of right ones is not to be a difference
    p = problem(lambda_A=decay, lambda_H=decay, bias=False)
    assert distance(ufm.spectrum(p, minimum(p).params), ufm.predict(p).spectrum) < 1e-11


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bias", ["none", "little"])
def test_the_spectrum_in_closed_form_is_that_of_differentiation(loss, bias):
    """Each compiles; what shapes and other biases change is tried on the formed Hessian below."""
    p = problem(dim=3, per_class=2, loss=LOSSES[loss], class_weights=[1.3] * 3, lambda_A=3e-2, **BIASES[bias])
    said = ufm.predict(p).spectrum
    expected = by_differentiation(p, balanced_optimum(p))
    assert_allclose(said.expanded, expected, atol=1e-12)
    assert distance(said, ufm.spectrum(p, balanced_optimum(p))) < 1e-12


@settings(max_examples=40, deadline=None)
@given(
    K=st.integers(2, 7),
    beyond=st.integers(0, 3),
    n=st.integers(1, 3),
    loss=st.sampled_from(list(LOSSES.values())),
    bias=st.sampled_from(list(BIASES.values())),
    log_A=st.floats(-6, -1.5),
    log_H=st.floats(-6, -1.5),
    weight=st.floats(0.3, 3.0),
)
def test_spectra_of_drawn_problems_are_those_of_the_formed_hessian(K, beyond, n, loss, bias, log_A, log_H, weight):
    p = problem(num_classes=K, dim=K + beyond, per_class=n, loss=loss, class_weights=[weight] * K, **bias)
    p = dataclasses.replace(p, lambda_A=10.0**log_A, lambda_H=10.0**log_H)
    said = ufm.predict(p).spectrum
    if said is None:  # collapsed to zero, or too near to where something does
        assert not _modes.applies(p)
        return
    assert distance(said, ufm.spectrum(p, balanced_optimum(p))) < 1e-10
    assert np.sum(said.multiplicities) == p.num_samples * p.dim + K * p.dim + K * p.bias


def test_a_cross_entropy_spectrum_is_that_of_the_formulas():
    """K = 4, d = 6, n = 3, no bias, by hand: q = 3 dimensions beyond, θ = s/K, e^s = 1/κ − 3, B(θ) 2 × 2."""
    p = problem(num_classes=4, dim=6, per_class=3, lambda_A=2e-2, lambda_H=1e-2, bias=False)
    kappa = np.sqrt(3 * 2e-4)
    s = np.log(1 / kappa - 3)
    right = 1 - 3 * kappa

    def of_pair(t):
        c = np.sqrt(2e-4)
        return np.linalg.eigvalsh([[1e-2 * (1 + t), c * (t - 1)], [c * (t - 1), 2e-2 * (1 + t)]])

    root, few = np.sqrt(s / 4) * np.array([0.1, np.sqrt(2e-2), 0.0]), np.array([0.0, 0.0, 0.1 * np.sqrt(s / 4)])
    joint = np.sqrt(1 / 2) * root + few / 2
    M = np.diag([1e-2, 2e-2, 1e-2]) - np.sqrt(2e-4) * np.eye(3)[[1, 0, 2]] * np.array([[1], [1], [0]])
    M = M + np.outer(root, root) + np.outer(few, few) + (4 * right - 1) * 4 / 3 * np.outer(joint, joint)
    expected = [1e-2] * 24 + [1e-2 * (1 + s / 4)] * 16 + [1e-2 * (1 + s * right)] * 8  # within classes
    expected += [0] * 9 + [3e-2] * 9 + [1e-2] * 3 + [2e-2] * 3  # beyond the span
    expected += [0] * 3 + [(1 + s / 4) * 3e-2] * 3 + [*of_pair(s / 4)] * 2 + [*of_pair(s * right)] + [2e-2] * 3
    expected += [*np.linalg.eigvalsh(M)] * 3
    assert_allclose(ufm.predict(p).spectrum.expanded, np.sort(expected), atol=1e-15)


def test_squared_errors_deviations_within_classes_decay_by_the_share_of_the_margin():
    # p = Kκ: λ_H/p in the span of A, λ_H beyond it
    p = problem(loss=ufm.SquaredError(), bias=False, lambda_A=2e-2)
    share = 3 * np.sqrt(5 * 2e-4)
    within = [mode for mode in _modes.modes(p) if "trace_ratio" in mode.moves]
    assert_allclose([mode.value for mode in within], [1e-2 / share] * 3 + [1e-2])
    assert sum(mode.multiplicity for mode in within) == 3 * 4 * p.dim


@pytest.mark.parametrize(
    "words",
    [
        {"per_class": [3, 1, 2], "class_weights": [1.0, 2.0, 0.5]},
        {"loss": ufm.Focal(2.0), "per_class": 2, "dim": 6},
        {"widths": (4,), "lambda_W": 1e-2, "dim": 6, "per_class": 2},
        {"widths": (4,), "lambda_W": 1e-2, "dim": 6, "per_class": 2, "activation": "relu", "loss": ufm.SquaredError()},
    ],
    ids=["imbalanced", "focal", "linear layers", "ReLU"],
)
@pytest.mark.parametrize("collapsed", [True, False])
def test_the_spectrum_at_any_parameters_is_that_of_differentiation(words, collapsed):
    p = problem(**words)
    point = p.init(seed=1)
    if collapsed:  # and one dimension is left unused by features and by what reads them
        point = ufm.Params(*(np.array(part) for part in point[:3]), tuple(map(np.array, point.W)))
        reader = point.W[0] if point.W else point.A
        point.H[:], reader[:, 0] = np.random.default_rng(0).normal(size=(3, p.dim))[p.labels], 0.0
        point.H[:, 0] = 0.0
    found = ufm.spectrum(p, point)
    assert found.complete
    assert_allclose(found.expanded, by_differentiation(p, point), atol=1e-9 * np.max(found.values))
    assert_allclose(found.values[0], ufm.curvature(p, point).smallest, atol=1e-9)


def test_a_spectrum_too_large_to_be_formed_has_its_ends(monkeypatch):
    p = problem()
    whole = ufm.spectrum(p, p.init(seed=0))
    monkeypatch.setattr(hessian, "WHOLE_UP_TO", 10)
    ends = ufm.spectrum(p, p.init(seed=0))
    assert not ends.complete
    assert_allclose(ends.expanded, [*whole.expanded[: hessian.ENDS], *whole.expanded[-hessian.ENDS :]], atol=1e-9)


def test_the_cost_depends_neither_on_samples_nor_on_unused_dimensions():
    p = ufm.Problem(num_classes=6, dim=512, per_class=1000, loss=ufm.CrossEntropy(), lambda_A=1e-4, lambda_H=1e-6)
    best = minimum(p)
    found = ufm.spectrum(p, best.params)
    assert np.sum(found.multiplicities) == 6000 * 512 + 6 * 512 + 6
    assert distance(found, ufm.predict(p).spectrum) < 1e-10
    assert (found.num_negative, ufm.predict(p).spectrum.num_negative) == (0, 0)
    # q = 507 dimensions beyond: a rotation of the classes' span into each, those within, and the bias's shift
    assert ufm.predict(p).spectrum.num_zero == 5 * 507 + 5 * 4 // 2 + 1


def test_the_spectrum_is_claimed_at_an_optimum():
    claims = [claim for claim in ufm.verify(minimum(problem())).claims if claim.quantity == "Hessian spectrum"]
    assert [claim.verdict for claim in claims] == ["holds"]


def test_another_spectrum_fails(monkeypatch):
    right = _modes.spectrum(problem())
    monkeypatch.setattr(
        "ufm.theory.hessian_spectrum.spectrum", lambda p: Spectrum(right.values * 1.001, right.multiplicities)
    )
    claims = [claim for claim in ufm.verify(minimum(problem())).claims if claim.quantity == "Hessian spectrum"]
    assert [claim.verdict for claim in claims] == ["fails"]


def test_lines_join_what_rounding_parts():
    found = lines(np.array([2.0, 0.0, 1e-14, 1.0, 1.0 + 1e-15, -1.0]), np.array([1, 2, 3, 0, 4, 1]))
    assert_allclose(found.values, [-1.0, 0.0, 1.0, 2.0], atol=1e-13)
    assert found.multiplicities.tolist() == [1, 5, 4, 1]
    assert (found.num_negative, found.num_zero) == (1, 5)
    assert repr(found) == "Spectrum(-1 ×1, 0 ×5, 1 ×4, 2 ×1)"
    assert distance(found, lines(found.expanded + 0.1, np.ones(11, int))) == pytest.approx(0.1 / 2.1)
    assert distance(found, lines(found.values, np.ones(4, int))) == np.inf


def test_parameters_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="H"):
        ufm.spectrum(problem(), problem(dim=5).init(seed=0))
