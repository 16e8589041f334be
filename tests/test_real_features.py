"""Features as networks have them: every precision, size and offset, any batches, absent classes, several machines."""

import copy
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from zoo import features

import ufm
from ufm.metrics.decisions import Rule, decide
from ufm.metrics.pairs import pairs_of


def spectral(K, d, exponent, per_class, seed=0):
    """Features whose class means and noise have standard deviations j^−exponent along d orthogonal directions."""
    random = np.random.default_rng(seed)
    scales, axes = np.arange(1, d + 1) ** -exponent, np.linalg.qr(random.normal(size=(d, d)))[0]
    labels = np.repeat(np.arange(K), per_class)
    means = random.normal(size=(K, d)) * scales
    return (means[labels] + random.normal(size=(len(labels), d)) * scales) @ axes.T, labels


def defined(H, labels, rank=None):
    """NC1 and NC2 as they are written, of float64: Cov_B⁺ by its eigenvalues, the largest `rank` of them."""
    H = np.asarray(H, np.float64)
    K = labels.max() + 1
    means = np.stack([H[labels == k].mean(axis=0) for k in range(K)])
    C, D = means - means.mean(axis=0), H - means[labels]
    _, S, Vt = np.linalg.svd(C, full_matrices=False)
    rank = min(K - 1, H.shape[1]) if rank is None else rank
    nc1 = np.sum((D @ Vt[:rank].T / S[:rank]) ** 2) / len(H)
    M = C / np.linalg.norm(C, axis=1, keepdims=True)
    return nc1, np.linalg.norm(M @ M.T / np.linalg.norm(M @ M.T) - (np.eye(K) - 1 / K) / np.sqrt(K - 1))


@pytest.mark.parametrize(("K", "d", "exponent", "per_class"), [(100, 512, 1.5, 20), (1000, 256, 1.0, 4)])
def test_falling_spectra_lose_no_direction_in_any_precision(K, d, exponent, per_class):
    H, labels = spectral(K, d, exponent, per_class)
    exact = defined(H, labels)
    for dtype, rounding in ((np.float64, 1e-12), (np.float32, 1e-6), (np.float16, 1e-3), (ml_dtypes.bfloat16, 1e-2)):
        held = H.astype(dtype)
        found = ufm.measure(held, labels)
        assert found.rank == min(K - 1, d)
        assert_allclose((found.nc1, found.nc2), defined(held, labels), rtol=1e-9)
        assert_allclose((found.nc1, found.nc2), exact, rtol=rounding)
    traced = jax.jit(ufm.metrics.evaluate, static_argnames="num_classes")(H.astype(np.float32), labels, num_classes=K)
    assert_allclose((traced.nc1, traced.nc2), exact, rtol=1e-3)


def test_what_rounding_adds_to_a_subspace_is_no_direction():
    random = np.random.default_rng(3)
    basis, labels = random.normal(size=(3, 64)), np.tile(np.arange(10), 6)
    H = (random.normal(size=(10, 3))[labels] + 0.1 * random.normal(size=(60, 3))) @ basis
    exact = defined(H, labels, rank=3)
    for dtype, rounding in ((np.float64, 1e-11), (np.float32, 1e-5), (np.float16, 1e-2), (ml_dtypes.bfloat16, 0.2)):
        found = ufm.measure(H.astype(dtype), labels)
        assert found.rank == 3
        assert_allclose(found.nc1, exact[0], rtol=rounding)
        for held in (list(H.astype(dtype)), pandas.DataFrame(H).astype(dtype)):  # whose type is their entries'
            if dtype != ml_dtypes.bfloat16:
                assert ufm.measure(held, labels) == found


def test_one_large_class_mean_does_not_drown_the_others():
    # as of the first token of texts, whose features are a thousand times as large as all others
    random, labels = np.random.default_rng(1), np.repeat(np.arange(1000), 3)
    means = random.normal(size=(1000, 32))
    means[7] *= 1000
    held = (means[labels] + 0.3 * random.normal(size=(3000, 32))).astype(ml_dtypes.bfloat16)
    found = ufm.measure(held, labels, per_class=True)
    assert found.rank == 32
    assert_allclose((found.nc1, found.nc2), defined(held, labels), rtol=1e-9)
    assert np.all(found.classes.norm > 0)
    assert np.isfinite(found.cdnv)


@pytest.mark.parametrize(("dtype", "sizes"), [(np.float32, (1e19, 1e-20)), (np.float64, (1e200, 1e-200))])
def test_no_size_of_features_changes_a_metric(dtype, sizes):
    H, labels = spectral(6, 8, 0.5, 20)
    H, A = H.astype(dtype), np.random.default_rng(1).normal(size=(6, 8))
    whole = ufm.measure(H, labels, A)
    assert_allclose((whole.nc1, whole.nc2), defined(H, labels), rtol=1e-10)
    for size in sizes:
        power = dtype(2.0 ** np.round(np.log2(size)))  # exact
        for held, classifier in ((H * power, A), (H, A * float(power)), (H * power, A * float(power))):
            assert_allclose(ufm.measure(held, labels, classifier), whole, rtol=1e-12)
            with jax.enable_x64(dtype == np.float64):
                traced = jax.jit(ufm.metrics.evaluate)(held, labels, classifier.astype(dtype))
                plain = jax.jit(ufm.metrics.evaluate)(H, labels, A.astype(dtype))
            assert_allclose(traced, plain, rtol=10 * np.finfo(dtype).eps)


def test_a_common_offset_leaves_the_metrics_of_what_is_left_of_the_features():
    H, labels = spectral(5, 8, 0.3, 50)
    A = np.random.default_rng(1).normal(size=(5, 8))
    far = (H + 1e6).astype(np.float32)
    found = ufm.measure(far, labels, A, -A @ np.full(8, 1e6))
    assert_allclose((found.nc1, found.nc2), defined(far, labels), rtol=1e-9)
    near = far.astype(float) - 1e6  # exactly what is left
    assert_allclose(found, ufm.measure(near, labels, A), rtol=1e-9)
    traced = jax.jit(ufm.metrics.evaluate)(far, labels, A)
    assert_allclose((traced.nc1, traced.nc2), defined(far, labels), rtol=1e-2)


@given(st.integers(0, 2**32 - 1), st.sampled_from((1e-12, 1e-8, 1e-5, 1.0)), st.sampled_from((0.0, 1.0, 1e9)))
def test_decisions_are_those_of_float64(seed, apart, offset):
    # pairs of rows that differ by less than float32 can tell, at features of all sizes
    random = np.random.default_rng(seed)
    rows = random.normal(size=(6, 5))
    rows = np.concatenate([rows, rows + apart * random.normal(size=rows.shape)]) * 10.0 ** random.integers(-30, 30)
    x = random.normal(size=(5, 40)) * 10.0 ** random.integers(-12, 12, size=40)
    offsets = offset * random.normal(size=12) * np.abs(rows).max()
    scores = rows @ x + offsets[:, None]
    best = np.sort(scores, axis=0)
    sure = best[-1] - best[-2] > 1e-13 * (np.linalg.norm(rows, axis=1).max() * np.linalg.norm(x, axis=0) + offset)
    decided = decide(Rule(rows, offsets).prepared(), x)
    assert np.array_equal(decided[sure], np.argmax(scores, axis=0)[sure])


def test_equal_classifier_rows_decide_for_the_first():
    H, labels = spectral(6, 8, 0.5, 20)
    found = ufm.measure(H.astype(np.float32), labels, np.zeros((6, 8)))
    assert found.accuracy == np.mean(labels == 0)


def fed(recorder, H, labels, *classifier, batches=None):
    """A recorder fed with both passes."""
    for rows in batches or [slice(None)]:
        recorder.add(H[rows], labels[rows])
    for rows in batches or [slice(None)]:
        recorder.revisit(H[rows], labels[rows], *classifier)
    return recorder


def summed(recorders):
    """The one that the sum of the states of several is of, by whatever adds arrays of the same names up."""
    states = [recorder.state() for recorder in recorders]
    return ufm.Recorder.from_state({name: sum(state[name] for state in states) for name in states[0]})


def test_no_batch_size_compiles_and_no_device_is_taken():
    # of any sizes, with a test set, files and figures; and a process that has done so may fork
    code = """
import os, warnings
warnings.simplefilter("error")
import numpy as np, ufm
from jax._src import xla_bridge
random = np.random.default_rng(0)
recorder, A = ufm.Recorder(5, absent="drop"), random.normal(size=(5, 8))
sizes = random.integers(1, 3000, 20)
batches = [(random.normal(size=(n, 8)).astype(np.float32), random.integers(0, 4, n)) for n in sizes]
for batch in batches: recorder.add(*batch)
for batch in batches: recorder.revisit(*batch, A)
again = ufm.Recorder.from_state(recorder.state()).merge(ufm.Recorder(5, absent="drop"))
print(recorder.epoch(per_class=True), again.epoch(), recorder.evaluate(*batches[0], A))
recorder.save("recorder.npz"); ufm.load("recorder.npz"); recorder.figure()
ufm.measure(*batches[0][:1], batches[0][1] % 2); ufm.metrics.evaluate(*batches[0][:1], batches[0][1] % 2)
assert not xla_bridge._backends, xla_bridge._backends
child = os.fork() or os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/tmp")
    assert ended.returncode == 0, ended.stderr


@given(features(least_per_class=2), st.data())
def test_any_partition_into_batches_and_ranks_gives_the_same(drawn, data):
    H, labels, A, b = drawn
    whole = ufm.measure(H, labels, A, b)
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    ranks = data.draw(st.integers(1, 4))
    owner = random.integers(0, ranks, len(H))
    parts = [np.flatnonzero(owner == rank) for rank in np.unique(owner)]

    def batches(part):
        cuts = np.sort(random.integers(1, len(part) + 1, 3))
        return [rows for rows in np.split(random.permutation(part), cuts) if len(rows)]

    def total(recorders):
        if data.draw(st.booleans()):
            return summed(recorders)
        first, *others = map(copy.deepcopy, recorders)
        for other in others:
            first.merge(other)
        return first

    recorders = [ufm.Recorder(len(A)) for _ in parts]
    for recorder, part in zip(recorders, parts, strict=True):
        for rows in batches(part):
            recorder.add(H[rows], labels[rows])
    of_all = total(recorders)
    recorders = [copy.deepcopy(of_all) for _ in parts]
    for recorder, part in zip(recorders, parts, strict=True):
        for rows in batches(part):
            recorder.revisit(H[rows], labels[rows], A, b)
    metrics = total(recorders).epoch()
    for name, value in whole._asdict().items():
        assert_allclose(getattr(metrics, name), value, rtol=1e-10, atol=1e-13, err_msg=name)


def test_many_blocks_of_rows_and_of_classes_are_the_definition():
    random = np.random.default_rng(5)
    K, d, N = 600, 300, 3000
    labels = random.permutation(np.concatenate([np.arange(K), random.geometric(0.02, N - K) % K]))
    H = (random.normal(size=(K, d))[labels] + random.normal(size=(N, d))).astype(np.float32)
    A, b = random.normal(size=(K, d)), random.normal(size=K)
    found = ufm.measure(H, labels, A, b, per_class=True)
    assert_allclose((found.nc1, found.nc2), defined(H, labels), rtol=1e-9)
    X = H.astype(float)
    means = np.stack([X[labels == k].mean(axis=0) for k in range(K)])
    nearest = np.argmin(np.sum(means**2, axis=1) - 2 * X @ means.T, axis=1)
    decision = np.argmax(X @ A.T + b, axis=1)
    assert found.nc4 == np.mean(nearest != decision)
    assert found.accuracy == np.mean(decision == labels)
    C, variances = (
        means - means.mean(axis=0),
        np.array([np.mean(np.sum((X[labels == k] - means[k]) ** 2, axis=1)) for k in range(K)]),
    )
    M, A_rows = C / np.linalg.norm(C, axis=1, keepdims=True), A / np.linalg.norm(A, axis=1, keepdims=True)
    distinct = ~np.eye(K, dtype=bool)
    cosines = (M @ M.T)[distinct]
    squares = np.sum((C[:, None] - C[None]) ** 2, axis=2)
    logs = 0.5 * np.log(np.sum((M[:, None] - M[None]) ** 2, axis=2)[distinct])
    uniform = found.uniformity
    assert all(isinstance(each, float) for each in uniform)
    assert_allclose((uniform.cosine, uniform.cosine_spread), (cosines.mean(), cosines.std()), rtol=1e-9)
    assert_allclose((uniform.log_distance, uniform.log_distance_spread), (logs.mean(), logs.std()), rtol=1e-9)
    dual = np.sum(A_rows * M, axis=1)
    assert_allclose((uniform.duality, uniform.duality_spread), (dual.mean(), dual.std()), rtol=1e-9)
    assert_allclose(found.simplex_angle, np.mean(np.abs(cosines + 1 / (K - 1))), rtol=1e-9)
    assert_allclose(
        found.cdnv,
        np.mean((np.broadcast_to(variances[:, None], (K, K)) / np.where(distinct, squares, 1.0))[distinct]),
        rtol=1e-9,
    )
    np.fill_diagonal(squares, np.inf)
    own = found.classes
    assert np.array_equal(own.nearest, np.argmin(squares, axis=1))
    assert_allclose(own.distance, np.sqrt(squares.min(axis=1)), rtol=1e-9)
    assert_allclose(own.spread, np.sqrt(variances), rtol=1e-9)
    assert_allclose(own.norm, np.linalg.norm(C, axis=1), rtol=1e-9)
    assert_allclose(own.alignment, dual, rtol=1e-9, atol=1e-12)
    assert_allclose(own.count @ own.nc1 / N, found.nc1, rtol=1e-12)
    assert_allclose(own.accuracy, [np.mean(decision[labels == k] == k) for k in range(K)])
    assert_allclose(own.nc4, [np.mean((nearest != decision)[labels == k]) for k in range(K)])


def test_logarithms_of_distances_at_a_simplex_have_no_spread():
    # ‖m_k − m_l‖² = 2 + 2/(K − 1)
    found = pairs_of(ufm.geometry.simplex_etf(7, 9, seed=0))
    assert_allclose(found.log_distance, 0.5 * np.log(2 + 2 / 6), rtol=1e-14)
    assert found.log_distance_spread < 1e-14
    assert_allclose(found.cosine, -1 / 6, rtol=1e-14)


@pytest.mark.parametrize("apart", [0.0, 1e-12, 1e-8, 1e-4])
def test_distances_of_means_that_are_nearly_the_same_keep_their_digits(apart):
    random = np.random.default_rng(0)
    C, variances = random.normal(size=(40, 33)), random.uniform(1, 2, 40)
    C[1::2] = C[::2] + apart * random.normal(size=(20, 33))
    found, M = pairs_of(C, variances), C / np.linalg.norm(C, axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        distances, logs = ([X[k] - np.delete(X, k, axis=0) for k in range(40)] for X in (C, M))
        expected = np.mean([variances[k] / np.sum(rows**2, axis=1) for k, rows in enumerate(distances)])
        assert_allclose(found.cdnv, expected, rtol=1e-9)
        assert_allclose(found.log_distance, np.mean(np.log(np.linalg.norm(logs, axis=2))), rtol=1e-6)


def with_absent_classes():
    """Features of 300 classes of which 50 are absent, and a classifier of all; and which there are."""
    random = np.random.default_rng(7)
    present = np.sort(random.permutation(300)[:250])
    among = random.permutation(np.concatenate([np.arange(250), random.integers(0, 250, 500)]))
    H = random.normal(size=(250, 20))[among] + random.normal(size=(750, 20))
    return H, present[among], among, random.normal(size=(300, 20)), random.normal(size=300), present


def test_absent_classes_are_left_out_as_if_by_hand():
    H, labels, among, A, b, present = with_absent_classes()
    by_hand = ufm.measure(H, among, A[present], b[present], per_class=True)
    recorder = ufm.Recorder(300, absent="drop")
    recorded = fed(recorder, H, labels, A, b, batches=[slice(0, 3), slice(3, None)]).epoch(per_class=True)
    means = np.stack([H[among == k].mean(axis=0) for k in range(250)])
    nearest = present[np.argmin(np.sum(means**2, axis=1) - 2 * H @ means.T, axis=1)]
    decision = np.argmax(H @ A.T + b, axis=1)  # all rows are rivals
    for found in (ufm.measure(H, labels, A, b, absent="drop", per_class=True), recorded):
        assert found.absent == 50
        for name, value in by_hand._asdict().items():
            if name not in ("nc4", "accuracy"):
                assert_allclose(getattr(found, name), value, rtol=1e-12)
        assert (found.nc4, found.accuracy) == (np.mean(nearest != decision), np.mean(decision == labels))
        gone = np.setdiff1d(np.arange(300), present)
        for name, value in found.classes.known().items():
            if name not in ("nc4", "accuracy", "nearest"):
                assert_allclose(value[present], getattr(by_hand.classes, name), rtol=1e-10)
            assert np.all(value[gone] == {"count": 0, "nearest": -1}.get(name, np.nan)) or np.all(np.isnan(value[gone]))
        assert np.array_equal(found.classes.nearest[present], present[by_hand.classes.nearest])
    for of in (lambda: ufm.measure(H, labels, A, b), lambda: fed(ufm.Recorder(300), H, labels)):
        with pytest.raises(ValueError, match=f"no sample of class {np.setdiff1d(np.arange(300), present)[0]}"):
            of()
    with pytest.raises(ValueError, match="absent = 'skip'"):
        ufm.measure(H, labels, absent="skip")
    with pytest.raises(ValueError, match="only class 3"):
        ufm.measure(H[:2], [3, 3], A, absent="drop")


def test_ignored_samples_count_nowhere():
    H, _, among, A, _, present = with_absent_classes()
    kept = (np.arange(len(H)) % 5 > 0) | (np.bincount(among)[among] == 1)
    kept[[np.flatnonzero(among == k)[0] for k in range(250)]] = True
    some = np.where(kept, among, -100)
    expected = ufm.measure(H[kept], some[kept], A[present])
    assert ufm.measure(H, some, A[present], ignore=-100) == expected
    batches = [slice(0, 300), np.flatnonzero(~kept), slice(300, None)]  # one of nothing but such samples
    recorder = fed(ufm.Recorder(250, ignore=-100), H, some, A[present], batches=batches[::2] + batches[1:2])
    assert_allclose(recorder.epoch(), expected, rtol=1e-12)
    with pytest.raises(ValueError, match="ignore"):
        ufm.measure(H, np.full(len(H), -100), ignore=-100)


def test_other_features_against_the_training_means():
    random = np.random.default_rng(9)
    H, labels, A, b = random.normal(size=(60, 8)), np.tile(np.arange(6), 10), random.normal(size=(6, 8)), np.arange(6.0)
    other, of = random.normal(size=(50, 8)) + 0.3, random.integers(0, 5, 50)  # none of class 5
    means = np.stack([H[labels == k].mean(axis=0) for k in range(6)])
    C, D = means - means.mean(axis=0), other - means[of]
    between, decision = np.sum(C**2) / 6, np.argmax(other @ A.T + b, axis=1)
    nearest = np.argmin(np.linalg.norm(other[:, None] - means, axis=2), axis=1)
    moved = [other[of == k].mean(axis=0) - means[k] for k in range(5)]
    expected = {
        "nc1": np.trace(D.T @ D / 50 @ np.linalg.pinv(C.T @ C / 6, rcond=1e-12)) / 6,
        "trace_ratio": np.sum(D**2) / 50 / between,
        "nc4": np.mean(nearest != decision),
        "accuracy": np.mean(decision == of),
        "nearest_accuracy": np.mean(nearest == of),
        "shift": np.sqrt(np.mean(np.sum(np.square(moved), axis=1)) / between),
    }
    recorder = fed(ufm.Recorder(6), H, labels, A, b)
    before = recorder.evaluate(other, of, A, b)
    recorder.epoch()
    for found in (before, recorder.evaluate(other, of, A, b), ufm.measure(other, of, A, b, means=means)):
        assert_allclose([getattr(found, name) for name in expected], list(expected.values()), rtol=1e-10)
    assert len(recorder.history.step) == 1
    itself, trained = recorder.evaluate(H, labels, A, b), ufm.measure(H, labels, A, b)
    for name in ("nc1", "trace_ratio", "nc4", "accuracy"):
        assert_allclose(getattr(itself, name), getattr(trained, name), rtol=1e-12)
    assert itself.shift < 1e-14
    alone = recorder.evaluate(other.astype(np.float32), of)
    assert (alone.nc4, alone.accuracy) == (None, None)
    with pytest.raises(ValueError, match="columns"):
        recorder.evaluate(other[:, :3], of)
    with pytest.raises(ValueError, match="labels up to 6"):
        ufm.measure(other, of + 2, means=means)
    with pytest.raises(ValueError, match="means with absent or per_class"):
        ufm.measure(other, of, means=means, per_class=True)
    with pytest.raises(ValueError, match="add first"):
        ufm.Recorder(6).evaluate(other, of)


def test_test_samples_of_classes_that_training_had_none_of_are_judged_but_have_no_spread():
    H, labels, _, A, b, present = with_absent_classes()
    gone = np.setdiff1d(np.arange(300), present)[:3]
    recorder = fed(ufm.Recorder(300, absent="drop"), H, labels, A, b)
    recorder.epoch()
    without = recorder.evaluate(H[:90], labels[:90], A, b)
    strange = recorder.evaluate(H[:93], np.concatenate([labels[:90], gone]), A, b)
    for name in ("nc1", "trace_ratio", "shift"):
        assert_allclose(getattr(strange, name), getattr(without, name), rtol=1e-12)
    assert_allclose(strange.nearest_accuracy * 93, without.nearest_accuracy * 90)
    with pytest.raises(ValueError, match="no sample of a class that has a training mean"):
        recorder.evaluate(H[:3], gone)


def test_ranks_merge_features_that_are_kept_for_a_classifier():
    H, labels = spectral(3, 4, 0.5, 10)
    A, parts = np.eye(3, 4), np.array_split(np.arange(30), 3)
    ranks = [ufm.Recorder(3) for _ in parts]
    for rank, rows in zip(ranks, parts, strict=True):
        rank.add(H, labels)
        rank.revisit(H[rows], labels[rows])
    for rank in ranks[1:]:
        ranks[0].merge(rank)
    assert_allclose(ranks[0].epoch(A), ufm.measure(H, labels, A), rtol=1e-12)


def test_first_passes_are_the_same_in_whatever_order_they_were_added_up():
    H, labels = np.array([[0.1, 1], [0.2, 1], [-0.3, 2], [1, 0], [1, 2], [1, 3]]), np.repeat([0, 1], 3)
    ranks = [ufm.Recorder(2), ufm.Recorder(2)]
    for rank, order in zip(ranks, ([0, 1, 2, 3, 4, 5], [1, 2, 0, 3, 4, 5]), strict=True):
        for i in order:
            rank.add(H[[i]], labels[[i]])
    assert ranks[0].state()["sum_features"][0, 0] != ranks[1].state()["sum_features"][0, 0]  # zero, but for rounding
    for rank, rows in zip(ranks, (slice(0, 2), slice(2, 6)), strict=True):
        rank.revisit(H[rows], labels[rows], H[2:4])
    assert_allclose(ranks[0].merge(ranks[1]).epoch(), ufm.measure(H, labels, H[2:4]), rtol=1e-12)


def test_a_rank_of_nothing_but_ignored_samples_has_a_state_as_others():
    H, labels = spectral(3, 4, 0.5, 10)
    A, ranks = np.eye(3, 4), [ufm.Recorder(3, ignore=-100), ufm.Recorder(3, ignore=-100)]
    given = (labels, np.full(len(H), -100))
    for rank, of in zip(ranks, given, strict=True):
        rank.add(H, of)
    ranks = [summed(ranks), summed(ranks)]
    for rank, of in zip(ranks, given, strict=True):
        rank.revisit(H, of, A)
    assert_allclose(summed(ranks).epoch(), ufm.measure(H, labels, A), rtol=1e-12)


def test_ratios_to_training_means_that_are_all_equal_are_infinite_or_zero():
    H, labels = spectral(3, 4, 0.5, 10)
    away = ufm.measure(H, labels, means=np.ones((3, 4)))
    assert (away.nc1, away.trace_ratio, away.shift) == (np.inf, np.inf, np.inf)
    same = ufm.measure(np.ones((30, 4)), labels, means=np.ones((3, 4)))
    assert (same.nc1, same.trace_ratio, same.shift) == (0, 0, 0)


def test_a_saved_recorder_has_what_was_fed(tmp_path):
    H, labels, _, A, b, _ = with_absent_classes()
    H = H.astype(np.float32)
    expected = ufm.measure(H, labels, A, b, absent="drop")
    for when, classifier in ((300, (A, b)), (900, (A, b)), (900, ())):
        recorder = ufm.Recorder(300, absent="drop", ignore=-1)
        for first in range(0, 1500, 150):
            if first == when:
                recorder.save(tmp_path / "recorder.npz")
                recorder = ufm.load(tmp_path / "recorder.npz")
            rows = slice(first % 750, first % 750 + 150)
            recorder.add(H[rows], labels[rows]) if first < 750 else recorder.revisit(H[rows], labels[rows], *classifier)
        assert_allclose(recorder.epoch(A, b), expected, rtol=1e-12)
        assert (recorder.absent, recorder.ignore) == ("drop", -1)


@pytest.mark.parametrize("ranks", [3, 7, 8])
def test_a_sum_over_ranks_goes_on_with_their_classifier(ranks):
    # the sum of so many equal numbers, over their number, is another one by its rounding
    H, labels = spectral(3, 4, 0.5, 16)
    random = np.random.default_rng(0)
    A, b, ignore = random.normal(size=(3, 4)), random.normal(size=3), 2**63 - 1
    first = ufm.Recorder(3, ignore=ignore)
    first.add(H, labels)
    parts = [ufm.Recorder.from_state(first.state()) for _ in range(ranks)]
    for part, rows in zip(parts, np.array_split(np.arange(40), ranks), strict=True):
        part.revisit(H[rows], labels[rows], A, b)
    whole = summed(parts)
    assert whole.ignore == ignore
    whole.revisit(H[40:], labels[40:], A, b)
    assert_allclose(whole.epoch(A, b), ufm.measure(H, labels, A, b), rtol=1e-12)


def test_a_batch_that_was_interrupted_and_fed_again_is_not_counted_twice(monkeypatch):
    H, labels = spectral(3, 4, 0.5, 10)
    recorder = ufm.Recorder(3)
    recorder.add(H, labels)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ufm.metrics.fed.Totals.add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            recorder.revisit(H, labels, np.eye(3, 4))
    recorder.revisit(H, labels, np.eye(3, 4))
    with pytest.raises(ValueError, match="interrupted"):
        recorder.epoch()
    recorder.discard()
    assert_allclose(fed(recorder, H, labels, np.eye(3, 4)).epoch(), ufm.measure(H, labels, np.eye(3, 4)), rtol=1e-12)


def test_states_of_other_kinds_are_refused():
    H, labels = spectral(3, 4, 0.5, 10)
    A, recorder, other = np.eye(3, 4), ufm.Recorder(3), ufm.Recorder(3)
    recorder.add(H, labels)
    other.add(2 * H, labels)

    with pytest.raises(ValueError, match="num_classes is 4; 3 is needed"):
        recorder.merge(ufm.Recorder(4))
    with pytest.raises(ValueError, match="absent is 'drop'"):
        recorder.merge(ufm.Recorder(3, absent="drop"))
    with pytest.raises(ValueError, match="a Recorder is needed"):
        recorder.merge(recorder.state())
    with pytest.raises(ValueError, match="2 columns"):
        recorder.merge(fed(ufm.Recorder(3), H[:, :2], labels))
    with pytest.raises(ValueError, match="differ in what they have to share"):
        summed([ufm.Recorder(3), ufm.Recorder(4)])
    recorder.revisit(H, labels, A)
    other.revisit(2 * H, labels, A)
    for of in (lambda *both: summed(both), ufm.Recorder.merge):  # each was in a second pass of its own
        with pytest.raises(ValueError, match=r"first pass|have to share"):
            of(recorder, other)
    for size in (1.0, 1e4):  # of the features, beside which a classifier is small
        recorder, second = (fed(ufm.Recorder(3), size * H, labels, classifier) for classifier in (A, 1.01 * A))
        for of in (lambda *both: summed(both), ufm.Recorder.merge):
            with pytest.raises(ValueError, match="classifier"):
                of(recorder, second)
    kept = fed(ufm.Recorder(3), H, labels)
    with pytest.raises(ValueError, match="give the classifier A to revisit"):
        kept.state()
    for wrong in (None, {}, {"parts": 1.0}, {**recorder.state(), "parts": 0.0}):
        with pytest.raises(ValueError, match="state"):
            ufm.Recorder.from_state(wrong)
    lacking = {name: array for name, array in recorder.state().items() if name != "sum_features_again"}
    with pytest.raises(ValueError, match="features_again"):
        ufm.Recorder.from_state(lacking)


def test_a_class_that_does_not_collapse_is_seen():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), [1000] * 9 + [10])
    H = random.normal(size=(10, 16))[labels] + np.where(labels == 9, 1.0, 1e-3)[:, None] * random.normal(
        size=(9010, 16)
    )
    own = ufm.measure(H, labels, per_class=True).classes
    assert own.nc1[9] > 1e4 * np.delete(own.nc1, 9).max()
    assert np.argmax(own.spread) == 9
    assert "class" in own.to_xarray().dims
