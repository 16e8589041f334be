import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_or_none
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from zoo import features

import ufm
from ufm import geometry
from ufm.metrics.definitions import LONG_NAMES, of_columns, of_means
from ufm.metrics.stream import Stream

DIRECTIONAL = ("nc1", "nc2", "nc3", "equinorm", "equiangular", "simplex_angle", "trace_ratio", "cdnv")


def definition(H, labels):
    """Cov_W, Cov_B and the centred means, as the definitions are written."""
    K = labels.max() + 1
    means = np.stack([H[labels == k].mean(axis=0) for k in range(K)])
    C, D = means - means.mean(axis=0), H - means[labels]
    return D.T @ D / len(H), C.T @ C / K, C


def pseudoinverse(B):
    """B⁺ from the eigenvalues, cut where they are rounding."""
    values, vectors = np.linalg.eigh(B)
    kept = values > 1e-12 * values.max()
    return (vectors[:, kept] / values[kept]) @ vectors[:, kept].T


@given(features(least_per_class=2))
def test_nc1_is_the_pseudoinverse_definition(drawn):
    H, labels, _, _ = drawn
    W, B, _ = definition(H, labels)
    X = pseudoinverse(B)
    # the four conditions of Penrose: BXB = B, XBX = X, BX and XB symmetric
    assert_allclose(B @ X @ B, B, atol=1e-8 * np.abs(B).max())
    assert_allclose(X @ B @ X, X, atol=1e-8 * np.abs(X).max())
    assert_allclose(B @ X, (B @ X).T, atol=1e-7)
    assert_allclose(X @ B, (X @ B).T, atol=1e-7)
    K = labels.max() + 1
    measured = ufm.measure(H, labels)
    assert_allclose(measured.nc1, np.trace(W @ X) / K, rtol=1e-7)
    assert_allclose(measured.trace_ratio, np.trace(W) / np.trace(B), rtol=1e-10)


@given(features(), st.floats(1e-3, 1e3), st.integers(0, 99))
def test_rotation_scale_and_order_do_not_matter(drawn, scale, seed):
    H, labels, A, b = drawn
    random = np.random.default_rng(seed)
    Q = np.linalg.qr(random.normal(size=(H.shape[1],) * 2))[0]
    order, names = random.permutation(len(H)), random.permutation(len(A))
    renamed = np.argsort(names)
    plain = ufm.measure(H, labels, A, b)
    rotated = ufm.measure(scale * H @ Q, labels, A @ Q, b * scale)
    permuted = ufm.measure(H[order], renamed[labels[order]], A[names], b[names])
    for name in (*DIRECTIONAL, "self_duality", "nc4", "accuracy"):
        assert_allclose(getattr(rotated, name), getattr(plain, name), rtol=1e-7, atol=1e-12)
        assert_allclose(getattr(permuted, name), getattr(plain, name), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(("K", "d"), [(2, 1), (4, 3), (5, 12), (12, 11)])
def test_everything_vanishes_on_a_simplex(K, d):
    E = geometry.simplex_etf(K, d)
    labels = np.repeat(np.arange(K), 6)
    m = ufm.measure(3.0 * E[labels], labels, 0.5 * E)
    for name in m._fields:
        assert_allclose(getattr(m, name), 1.0 if name == "accuracy" else 0.0, atol=1e-13)


@pytest.mark.parametrize("K", [2, 3, 10])
def test_an_orthogonal_frame_is_a_simplex_to_the_metrics_and_its_classifier_is_not(K):
    F = geometry.orthogonal_frame(K, K + 1)
    labels = np.repeat(np.arange(K), 2)
    m = ufm.measure(F[labels], labels, F)
    assert_allclose(m.nc2, 0.0, atol=1e-13)
    # A = F and C = P F: ⟨A, C⟩ = tr P = K − 1, ‖A‖ = √K, ‖C‖ = √(K−1), so ‖A/‖A‖ − C/‖C‖‖² = 2 − 2√((K−1)/K)
    expected = np.sqrt(2 - 2 * np.sqrt((K - 1) / K))
    assert_allclose(m.self_duality, expected, rtol=1e-12)
    # uncentred means' Gram I against the simplex: the same number
    assert_allclose(geometry.gram_distance(F, geometry.simplex_etf(K, K)), expected, rtol=1e-12)


@given(features(least_per_class=3))
def test_covariances_add_up_on_balanced_data(drawn):
    H, labels, _, _ = drawn
    W, B, C = definition(H, labels)
    T = np.cov(H.T, bias=True).reshape(W.shape)
    assert_allclose(W + B, T, atol=1e-12 * max(1.0, np.abs(T).max()))
    assert_allclose(
        ufm.measure(H, labels).trace_ratio, (np.trace(T) - np.trace(B)) / np.trace(B), rtol=1e-6, atol=1e-12
    )
    assert_allclose(np.trace(B), np.mean(np.sum(C**2, axis=1)), rtol=1e-12)


@given(features(least_per_class=2))
def test_streamed_metrics_are_the_exact_ones(drawn):
    H, labels, A, b = drawn
    whole, stream = ufm.measure(H, labels, A, b), Stream(len(A))
    parts = [slice(i, i + 7) for i in range(0, len(H), 7)]
    for part in parts:
        stream.add(H[part], labels[part])
    early = stream.metrics(A)
    assert early.nc1 is None
    assert early.nc4 is None
    for part in parts[::-1]:
        stream.revisit(H[part], labels[part], A, b)
    for name, value in stream.metrics(A)._asdict().items():
        assert_allclose(value, getattr(whole, name), rtol=1e-10, atol=1e-13)


def test_nc4_and_accuracy_by_brute_force():
    random = np.random.default_rng(3)
    H, labels = random.normal(size=(200, 4)), np.repeat(np.arange(5), 40)
    A, b = random.normal(size=(5, 4)), random.normal(size=5)
    means = np.stack([H[labels == k].mean(axis=0) for k in range(5)])
    nearest = np.argmin(np.linalg.norm(H[:, None] - means, axis=2), axis=1)
    decision = np.argmax(H @ A.T + b, axis=1)
    m = ufm.measure(H, labels, A, b)
    assert m.nc4 == np.mean(nearest != decision)
    assert_allclose(m.accuracy, np.mean(decision == labels), rtol=1e-15)


def test_cdnv_and_cosines_by_brute_force():
    random = np.random.default_rng(4)
    labels = np.repeat(np.arange(4), [3, 5, 2, 7])
    H = random.normal(size=(17, 6)) + 10.0
    means = np.stack([H[labels == k].mean(axis=0) for k in range(4)])
    variances = np.array([np.mean(np.sum((H[labels == k] - means[k]) ** 2, axis=1)) for k in range(4)])
    pairs = [(k, j) for k in range(4) for j in range(4) if k != j]
    C = means - means.mean(axis=0)
    M = C / np.linalg.norm(C, axis=1, keepdims=True)
    cosines = np.array([M[k] @ M[j] for k, j in pairs])
    norms = np.linalg.norm(C, axis=1)
    m = ufm.measure(H, labels)
    cdnv = np.mean([(variances[k] + variances[j]) / (2 * np.sum((means[k] - means[j]) ** 2)) for k, j in pairs])
    assert_allclose(m.cdnv, cdnv, rtol=1e-10)
    assert_allclose(m.equiangular, cosines.std(), rtol=1e-10)
    assert_allclose(m.simplex_angle, np.mean(np.abs(cosines + 1 / 3)), rtol=1e-10)
    assert_allclose(m.equinorm, norms.std() / norms.mean(), rtol=1e-10)


def test_more_classes_than_twice_the_dimension_by_the_definition():
    random = np.random.default_rng(5)
    C = random.normal(size=(9, 3))
    C -= C.mean(axis=0)
    A, M = random.normal(size=(9, 3)), C / np.linalg.norm(C, axis=1, keepdims=True)
    m = ufm.measure(C, np.arange(9), A)
    target = (np.eye(9) - 1 / 9) / np.sqrt(8)
    for found, G in ((m.nc2, M @ M.T), (m.nc3, A @ M.T)):
        assert_allclose(found, np.linalg.norm(G / np.linalg.norm(G) - target), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_degenerate_features_give_the_stated_values(dtype):
    labels, A = np.tile(np.arange(4), 5), np.eye(4, 6)
    noise = np.random.default_rng(0).normal(size=(5, 6))
    equal_means = np.repeat(noise - noise.mean(axis=0), 4, axis=0).astype(dtype)
    for H, ratio in ((equal_means, np.inf), (np.full((20, 6), 0.3, dtype), 0.0), (np.zeros((20, 6), dtype), 0.0)):
        m = ufm.measure(H, labels, A)
        assert (m.nc1, m.trace_ratio, m.cdnv) == (ratio, ratio, ratio)
        assert_allclose([m.nc2, m.nc3, m.self_duality], 1.0, rtol=1e-6)
        assert (m.equinorm, m.equiangular) == (0.0, 0.0)
    one_each = ufm.measure(np.eye(4, 6, dtype=dtype), np.arange(4), A)
    assert (one_each.nc1, one_each.trace_ratio, one_each.cdnv) == (0.0, 0.0, 0.0)


@given(features(), st.sampled_from((np.float32, np.float64)))
def test_no_metric_is_negative(drawn, dtype):
    H, labels, A, b = drawn
    near = np.concatenate([H, H * (1 + 1e-12)]).astype(dtype)
    assert all(value >= 0 for value in ufm.measure(near, np.tile(labels, 2), A, b))


def test_arrays_of_every_library_give_the_same():
    random = np.random.default_rng(6)
    H, labels = random.normal(size=(30, 4)).astype(np.float32), np.tile(np.arange(3), 10)
    expected = ufm.measure(H, labels)
    assert ufm.measure(jnp.asarray(H), jnp.asarray(labels)) == expected
    assert ufm.measure(H.tolist(), labels.tolist()).nc1.dtype == np.float64
    assert ufm.measure(H.astype(np.float16), labels) == ufm.measure(H.astype(np.float16).astype(float), labels)
    for tensor, half in torch_or_none.tensors(H):
        assert ufm.measure(tensor, labels) == expected
        assert_allclose(ufm.measure(half, labels).nc1, expected.nc1, rtol=0.1)


GOOD = {"H": np.eye(6, 4), "labels": np.array([0, 1, 2, 0, 1, 2]), "A": np.ones((3, 4)), "b": np.zeros(3)}
WRONG = {
    "H of shape (6,)": {"H": np.ones(6)},
    "H of shape (0, 4)": {"H": np.ones((0, 4)), "labels": np.zeros(0, int)},
    "a NaN or an infinity": {"H": np.full((6, 4), np.nan)},
    "labels of shape (5,)": {"labels": np.arange(5)},
    "labels[0] = 0.5, of type float64": {"labels": np.arange(6) + 0.5},
    "labels down to -1": {"labels": np.array([0, 1, 2, 0, 1, -1])},
    "labels up to 3": {"labels": np.array([0, 1, 2, 0, 1, 3])},
    "no sample of class 1": {"labels": np.array([0, 2, 2, 0, 0, 2])},
    "A of shape (3, 5)": {"A": np.ones((3, 5))},
    "b of shape (2,)": {"b": np.zeros(2)},
    "only class 0": {"labels": np.zeros(6, int), "A": None, "b": None},
    "an array of type": {"H": np.full((6, 4), "a")},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_input_is_named(message):
    import re

    with pytest.raises(ValueError, match=re.escape(message)):
        ufm.measure(**{**GOOD, **WRONG[message]})


def test_integer_features_do_not_round_the_classifier():
    random = np.random.default_rng(8)
    H, labels, A = random.integers(-3, 4, (30, 4)), np.tile(np.arange(3), 10), 0.3 * random.normal(size=(3, 4))
    assert ufm.measure(H, labels, A) == ufm.measure(H.astype(float), labels, A)


def test_classifier_of_jax_measures_features_of_double_precision():
    random = np.random.default_rng(9)
    H, labels = random.normal(size=(30, 4)), np.tile(np.arange(3), 10)
    A = random.normal(size=(3, 4)).astype(np.float32)
    whole, stream = ufm.measure(H, labels, jnp.asarray(A)), Stream(3)
    assert whole == ufm.measure(H, labels, A.astype(float))
    stream.add(H, labels)
    stream.revisit(H, labels, jnp.asarray(A))
    for name, value in stream.metrics()._asdict().items():
        assert_allclose(value, getattr(whole, name), rtol=1e-10)


def test_a_line_of_metrics_says_what_is_known():
    random = np.random.default_rng(10)
    H, labels = random.normal(size=(30, 4)), np.tile(np.arange(3), 10)
    m = ufm.measure(H, labels, H[:3])
    line = f"nc1 {m.nc1:.1e}  nc2 {m.nc2:.1e}  nc3 {m.nc3:.1e}  nc4 {m.nc4:.1e}  accuracy {m.accuracy:.4f}"
    assert str(m) == line
    assert str(ufm.measure(H, labels)) == line.split("  nc3")[0]


def test_everything_in_a_history_has_a_text_for_labels_of_its_own():
    names = ("step", "loss", *ufm.metrics.Metrics._fields)
    assert tuple(LONG_NAMES) == names
    assert len(set(LONG_NAMES.values())) == len(names)


def test_stream_refuses_what_it_cannot_use():
    stream = Stream(3)
    with pytest.raises(ValueError, match="call add first"):
        stream.metrics()
    stream.add(GOOD["H"], GOOD["labels"])
    with pytest.raises(ValueError, match="4 columns"):
        stream.add(np.ones((2, 5)), np.array([0, 1]))
    with pytest.raises(ValueError, match="less than num_classes = 3"):
        stream.add(np.ones((2, 4)), np.array([0, 3]))
    stream.revisit(GOOD["H"][:4], GOOD["labels"][:4])
    with pytest.raises(ValueError, match="revisited 4 samples, added 6"):
        stream.metrics()
    with pytest.raises(ValueError, match="add after revisit"):
        stream.add(GOOD["H"], GOOD["labels"])


def of_a_network(dtype=np.float64):
    """Features (15, 4), labels, classifier and bias."""
    random = np.random.default_rng(11)
    H, A, b = random.normal(size=(15, 4)), random.normal(size=(3, 4)), random.normal(size=3)
    return H.astype(dtype), np.tile(np.arange(3), 5), A.astype(dtype), b.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_metrics_inside_jit_and_vmap_are_the_measured_ones(dtype):
    H, labels, A, b = of_a_network(dtype)
    measured, tolerance = ufm.measure(H, labels, A, b), 100 * np.finfo(dtype).eps
    with jax.enable_x64(dtype == np.float64):
        inside = jax.jit(lambda H, A, b: ufm.metrics.evaluate(H, labels, A, b))(H, A, b)
        told = jax.jit(ufm.metrics.evaluate)(H, labels, A, b)  # labels traced too
        scaled = jax.jit(jax.vmap(lambda c: ufm.metrics.evaluate(c * H, labels, A, c * b)))(np.array([1.0, 3.0], dtype))
        for name, value in measured._asdict().items():
            assert getattr(inside, name).dtype == dtype
            assert_allclose(getattr(inside, name), value, rtol=tolerance)
            assert_allclose(getattr(told, name), value, rtol=tolerance)
            assert_allclose(getattr(scaled, name), [value] * 2, rtol=tolerance)  # no metric has a scale
    assert ufm.metrics.evaluate(H, labels, A, b).nc1.dtype == dtype
    assert_allclose(ufm.metrics.evaluate(H, labels, A, b), measured, rtol=tolerance)


def test_classifiers_of_another_precision_are_measured_in_that_of_the_features():
    H, labels, A, b = of_a_network(np.float32)
    with jax.enable_x64(True):
        found = jax.jit(lambda A: ufm.metrics.evaluate(H, labels, A, b.astype(float)))(A.astype(float))
    assert found.nc3.dtype == np.float32
    assert_allclose(found.nc3, ufm.measure(H, labels, A, b).nc3, rtol=1e-6)


def test_without_a_classifier_their_number_of_classes_is_read_or_told():
    H, labels, _, _ = of_a_network()
    measured = ufm.measure(H, labels)
    for found in (
        ufm.metrics.evaluate(H, labels),
        jax.jit(lambda H: ufm.metrics.evaluate(H, labels))(H),
        jax.jit(lambda H, labels: ufm.metrics.evaluate(H, labels, num_classes=3))(H, labels),
    ):
        for name, value in measured._asdict().items():
            assert (getattr(found, name) is None) == (value is None)
            if value is not None:
                assert_allclose(getattr(found, name), value, rtol=1e-5)
    with pytest.raises(ValueError, match="num_classes"):
        jax.jit(ufm.metrics.evaluate)(H, labels)


def test_metrics_of_constants_inside_jit_are_numbers():
    H, labels, A, _ = of_a_network()
    doubled = jax.jit(lambda x: x * ufm.metrics.evaluate(H, labels, A).nc1)(np.float64(2.0))
    assert_allclose(doubled, 2 * ufm.measure(H, labels, A).nc1, rtol=1e-6)


@pytest.mark.parametrize("rows", [2, 5])
def test_a_classifier_with_other_outputs_than_groups_of_samples_has_no_row_for_each_mean(rows):
    H, labels, _, _ = of_a_network()
    A, alone = np.random.default_rng(1).normal(size=(rows, 4)), ufm.measure(H, labels)
    means = np.stack([H[labels == k].mean(axis=0) for k in range(3)])
    with jax.enable_x64(True):
        b, counts = jnp.zeros(rows), jnp.full(3, 5.0)
        found = of_columns(jnp.asarray(H.T), jnp.asarray(labels), 3, jnp.asarray(A), b)._asdict()
        collapsed = of_means(jnp.asarray(means), counts, jnp.asarray(A), b)._asdict()
    norms = np.linalg.norm(A, axis=1)
    for name, value in alone._asdict().items():
        if name == "equinorm_A":
            value = norms.std() / norms.mean()
        assert (found[name] is None) == (collapsed[name] is None) == (value is None), name
        if value is not None:
            assert_allclose(found[name], value, rtol=1e-10, err_msg=name)
            assert_allclose(collapsed[name], 0.0 if name in ("nc1", "trace_ratio", "cdnv") else value, rtol=1e-10)


@pytest.mark.parametrize("name", ["H", "labels", "A"])
def test_what_cannot_be_traced_names_what_can(name):
    H, labels, A, _ = of_a_network(np.float32)
    words = {"H": H, "labels": labels, "A": A}
    stream = Stream(3)
    stream.add(H, labels)
    for of in (ufm.measure, stream.revisit):
        with pytest.raises(ValueError, match=rf"{name} is traced by JAX.*ufm\.metrics\.evaluate"):
            jax.jit(lambda x, of=of: of(**{**words, name: x}))(words[name])


def near_a_simplex(K, d, spread, rows=None):
    """Features whose class means are an exact simplex, or other rows, with a classifier at them; float64."""
    random = np.random.default_rng(K * d)
    rows = geometry.simplex_etf(K, d, seed=0) if rows is None else rows
    labels = np.repeat(np.arange(K, dtype=np.int32), 5)
    noise = random.normal(size=(K, 5, d))
    noise -= noise.mean(axis=1, keepdims=True)
    return np.asarray(rows)[labels] + spread * noise.reshape(-1, d), labels, np.asarray(rows)


def gradient(weigh, H, labels, A):
    """Gradient of a weighing of metrics in the features (N, d), as somebody's regulariser would take it."""
    return np.asarray(jax.jit(jax.grad(lambda H: weigh(ufm.metrics.evaluate(H, labels, A, 0 * A[:, 0]))))(H))


@pytest.mark.parametrize(("K", "d"), [(4, 6), (4, 3)])
def test_the_gradient_of_nc1_at_a_simplex_is_that_of_the_trace_at_fixed_rank(K, d):
    # with W and C free of noise between classes, Tr(Cov_W Cov_B⁺) moves by Tr(dCov_W Cov_B⁺) + Tr(Cov_W dCov_B⁺), and
    # dB⁺ = −B⁺ dB B⁺ + B⁺B⁺ dB (1 − BB⁺) + (1 − BB⁺) dB B⁺B⁺ where the rank stays (Golub and Pereyra 1973)
    H, labels, A = near_a_simplex(K, d, 0.3)
    step = np.random.default_rng(1).normal(size=H.shape)
    W, B, C = definition(H, labels)
    _, _, dC = definition(step, labels)
    D, dD = H - (H.reshape(K, 5, d).mean(axis=1))[labels], step - (step.reshape(K, 5, d).mean(axis=1))[labels]
    dW, dB = (D.T @ dD + dD.T @ D) / len(H), (C.T @ dC + dC.T @ C) / K
    X = pseudoinverse(B)
    rest = np.eye(d) - X @ B
    dX = -X @ dB @ X + X @ X @ dB @ rest + rest @ dB @ X @ X
    with jax.enable_x64(True):
        found = np.sum(gradient(lambda metrics: metrics.nc1, *map(jnp.asarray, (H, labels, A))) * step)
    assert_allclose(found, (np.trace(dW @ X) + np.trace(W @ dX)) / K, rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_metric_has_a_finite_gradient_where_features_have_collapsed(dtype):
    # integers only, so that sums are exact and distances, spreads and deviations are exactly zero
    rows = np.array([[2.0, -1.0, -1.0, 0.0], [-1.0, 2.0, -1.0, 0.0], [-1.0, -1.0, 2.0, 0.0]])
    H, labels, A = near_a_simplex(3, 4, 0.0, rows)
    with jax.enable_x64(dtype == np.float64):  # a sum is finite only where all its terms are
        assert np.all(np.isfinite(gradient(sum, *map(jnp.asarray, (H.astype(dtype), labels, A.astype(dtype))))))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_metrics_of_features_that_are_not_finite_are_no_collapse(bad):
    H, labels, A = near_a_simplex(3, 4, 0.1)
    H[0, 0] = bad
    found = ufm.metrics.evaluate(H, labels, A)._asdict()
    traced = jax.jit(ufm.metrics.evaluate)(H, labels, A)._asdict()
    for name in found.keys() - {"equinorm_A"}:  # which is of the classifier alone
        assert np.all(np.isnan((found[name], traced[name]))), name
