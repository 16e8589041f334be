import gc
import pathlib
import re
import tracemalloc
from typing import ClassVar

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

NEED_REVISIT = ("nc1", "nc4", "trace_ratio", "cdnv", "accuracy")
README = pathlib.Path(__file__).parents[1] / "README.md"


def batches(H, labels, size):
    return [(H[i : i + size], labels[i : i + size]) for i in range(0, len(H), size)]


def assert_equal(metrics, whole):
    for name, value in whole._asdict().items():
        if value is None:
            assert getattr(metrics, name) is None
        else:
            assert_allclose(getattr(metrics, name), value, rtol=1e-10, atol=1e-13, err_msg=name)


@given(features(least_per_class=2), st.sampled_from((0, 1, 99)))
def test_recorded_metrics_are_the_exact_ones(drawn, without):
    """Whether the classifier comes with `revisit` (here, but for the first `without` batches) or with `epoch`."""
    H, labels, A, b = drawn
    recorder = ufm.Recorder(len(A))
    for batch in batches(H, labels, 7):
        recorder.add(*batch)
    for index, batch in enumerate(batches(H[::-1], labels[::-1], 5)):
        recorder.revisit(*batch) if index < without else recorder.revisit(*batch, A, b)
    assert_equal(recorder.epoch(A, b), ufm.measure(H, labels, A, b))


def test_two_thousand_classes():
    random = np.random.default_rng(0)
    K, d, N = 2000, 24, 7000
    labels = random.permutation(np.concatenate([np.arange(K), random.integers(0, K, N - K)]))
    H = random.normal(size=(K, d))[labels] + 0.6 * random.normal(size=(N, d)) + 3.0
    A, b = random.normal(size=(K, d)), random.normal(size=K)
    recorder = ufm.Recorder(K)
    for batch in batches(H, labels, 1500):
        recorder.add(*batch)
    for batch in batches(H, labels, 1500):
        recorder.revisit(*batch, A, b)
    metrics = recorder.epoch()
    assert_equal(metrics, ufm.measure(H, labels, A, b))
    means = np.stack([H[labels == k].mean(axis=0) for k in range(K)])
    nearest = np.argmin(np.sum(means**2, axis=1) - 2 * H @ means.T, axis=1)
    assert metrics.nc4 == np.mean(nearest != np.argmax(H @ A.T + b, axis=1))
    C, D = means - means.mean(axis=0), H - means[labels]
    assert_allclose(metrics.nc1, np.trace(D.T @ D / N @ np.linalg.inv(C.T @ C / K)) / K, rtol=1e-9)


def test_what_needs_the_second_pass_is_absent_without_it(tmp_path):
    random = np.random.default_rng(1)
    H, labels, A = random.normal(size=(30, 4)), np.tile(np.arange(3), 10), random.normal(size=(3, 4))
    recorder, whole = ufm.Recorder(3), ufm.measure(H, labels, A)
    recorder.add(H, labels)
    metrics = recorder.epoch(A)
    for name, value in metrics._asdict().items():
        assert (value is None) == (name in NEED_REVISIT)
        assert np.isnan(getattr(recorder.history, name)[0]) == (name in NEED_REVISIT)
        if value is not None:
            assert_allclose(value, getattr(whole, name), rtol=1e-10)
    assert str(metrics) == f"nc2 {metrics.nc2:.1e}  nc3 {metrics.nc3:.1e}"
    made = recorder.figure()
    assert [axis.get_title().split(":")[0] for axis in made.axes if axis.texts] == ["NC1", "NC4"]
    made.savefig(tmp_path / "figure.png")  # an empty log axis would fail here
    recorder.add(H, labels)
    recorder.revisit(H, labels)
    assert_equal(recorder.epoch(), ufm.measure(H, labels))


def test_arrays_of_every_library_and_precision():
    random = np.random.default_rng(2)
    H, labels = random.normal(size=(40, 6)).astype(np.float32), np.tile(np.arange(4), 10)
    A, b = random.normal(size=(4, 6)).astype(np.float32), random.normal(size=4).astype(np.float32)
    kinds = [np.asarray, np.float16, np.float64, jnp.asarray, jnp.bfloat16, jnp.float16]
    kinds += [
        lambda x, which=which: torch_or_none.tensors(x)[0][which] for which in range(2 * bool(torch_or_none.tensors(H)))
    ]
    for kind in kinds:
        held = kind(H), kind(A), kind(b)
        whole = ufm.measure(widened(held[0]), labels, *map(widened, held[1:]))
        for classifier in ((), held[1:]):
            recorder = ufm.Recorder(4)
            recorder.add(held[0], jnp.asarray(labels, jnp.int32))
            recorder.revisit(held[0], labels.astype(np.uint8), *classifier)
            assert_equal(recorder.epoch(*held[1:]), whole)


class Checked(ufm.Recorder):
    """A recorder that meets every epoch with `ufm.measure` of all features at once."""

    made: ClassVar = []

    def __post_init__(self):
        super().__post_init__()
        self.seen, self.classifier = [], None
        self.made.append(self)

    def add(self, features, labels):
        self.seen.append((widened(features), np.asarray(labels)))
        super().add(features, labels)

    def revisit(self, features, labels, A=None, b=None):
        self.classifier = widened(A), widened(b)
        super().revisit(features, labels, A, b)

    def epoch(self, *args, **words):
        H, labels = map(np.concatenate, zip(*self.seen, strict=True))
        metrics = super().epoch(*args, **words)
        assert_equal(metrics, ufm.measure(H, labels, *self.classifier))
        self.seen = []
        return metrics


def widened(x):
    """A float64 copy of anybody's array."""
    return np.asarray(x.detach().float().numpy() if hasattr(x, "detach") else x).astype(np.float64)


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_loops_of_the_readme(library, monkeypatch, tmp_path, capsys):
    if library == "torch":
        pytest.importorskip("torch").manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (block,) = (block for block in blocks if f"import {library}\n" in block and "Recorder" in block)
    monkeypatch.setattr(ufm, "Recorder", Checked)
    monkeypatch.chdir(tmp_path)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        exec(block, {})
    history = Checked.made.pop().history
    assert history.step.tolist() == list(range(1, 31))
    for name, least in (("nc1", 1.2), ("nc3", 1.05), ("nc4", 2.0)):
        assert getattr(history, name)[-5:].mean() < getattr(history, name)[0] / least, name
    assert history.accuracy[-1] > 0.98
    assert np.all(np.isfinite(history.loss)) == (library == "jax")
    assert len(capsys.readouterr().out.splitlines()) == 30
    assert (tmp_path / f"{library}.png").stat().st_size > 10_000


def fed(K=3, d=4, n=20, seed=3):
    random = np.random.default_rng(seed)
    H, labels = random.normal(size=(K * n, d)), np.tile(np.arange(K), n)
    recorder = ufm.Recorder(K)
    recorder.add(H, labels)
    return recorder, H, labels, random


def test_other_features_in_the_second_pass_are_refused():
    # independent errors e_i of relative size r: Σ_k E‖Σ_{i∈k} e_i‖² = Σ_i E‖e_i‖² = r² Σ_i ‖h_i‖²
    for size, refused in ((0.1, True), (2.0**-8, False)):
        recorder, H, labels, random = fed(n=400, d=16)
        recorder.revisit(H + size * random.normal(size=H.shape), labels)
        if refused:
            with pytest.raises(ValueError, match="evaluation mode"):
                recorder.epoch()
            assert len(recorder.history.step) == 0
        else:
            recorder.epoch()
    recorder, H, labels, random = fed()
    recorder.revisit(H, labels[::-1].copy())  # as many of each class, but not the same ones
    with pytest.raises(ValueError, match="evaluation mode"):
        recorder.epoch()
    recorder, H, labels, random = fed()
    recorder.revisit(H, np.where(np.arange(60) == 0, 1, labels))
    with pytest.raises(ValueError, match=r"60 samples, added 60 \(of class 0 19 and 20\)"):
        recorder.epoch()
    recorder.discard()
    with pytest.raises(ValueError, match="call add first"):
        recorder.epoch()


def memory_of_arrays():
    """Bytes of NumPy's arrays alone: what JAX or other threads keep of code and caches is no feature."""
    of_arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([of_arrays]).traces)


def test_nothing_is_kept_where_the_classifier_comes_with_the_batch():
    _, H, labels, random = fed(n=400, d=64)
    A = random.normal(size=(3, 64))
    held = {}
    for classifier in ((), (A,)):
        recorder = ufm.Recorder(3)
        for warm in (True, False):
            tracemalloc.start()
            for batch in batches(H, labels, 100):
                recorder.add(*batch)
            for batch in batches(H, labels, 100):
                recorder.revisit(*batch, *classifier)
            gc.collect()  # what waits to be collected isn't kept
            held[len(classifier)] = memory_of_arrays()
            tracemalloc.stop()
            if warm:
                recorder.epoch(A)
    assert held[0] > H.nbytes
    assert held[1] < H.nbytes / 4


def test_a_loop_may_overwrite_its_features():
    recorder, H, labels, random = fed()
    A, whole = random.normal(size=(3, 4)), ufm.measure(H, labels)
    recorder.revisit(H, labels)
    expected = ufm.measure(H, labels, A)
    H[:], labels[:] = 0.0, 0
    assert_equal(recorder.epoch(A), expected)
    assert whole.nc1 == expected.nc1


def test_history_goes_on_after_an_error_and_from_a_file(tmp_path):
    recorder, H, labels, random = fed()
    A = random.normal(size=(3, 4))
    recorder.revisit(H[:30], labels[:30])
    with pytest.raises(ValueError, match="revisited 30 samples, added 60"):
        recorder.epoch(A)
    recorder.revisit(H[30:], labels[30:])
    first = recorder.epoch(A, loss=0.5)
    assert_equal(first, ufm.measure(H, labels, A))
    recorder.add(H, labels)
    recorder.epoch(A, step=10)
    recorder.save(tmp_path / "history.npz")
    again = ufm.load(tmp_path / "history.npz")
    again.add(H[:, :2], labels)  # nothing of one epoch binds the next
    again.revisit(H[:, :2], labels, A[:, :2])
    last = again.epoch(loss=jnp.asarray(0.25, jnp.float32))
    assert again.history.step.tolist() == [1, 10, 11]
    assert_allclose(again.history.loss, [0.5, np.nan, 0.25])
    assert_allclose(again.history.nc4, [first.nc4, np.nan, last.nc4])
    assert recorder.history.step.tolist() == [1, 10]


def test_figure_shows_every_epoch_that_was_measured():
    recorder, H, labels, random = fed(seed=5)
    A = random.normal(size=(3, 4))
    recorder.epoch(A)
    for turn in range(4):
        recorder.add(H, labels)
        if turn % 2:
            recorder.revisit(H, labels, A)
        recorder.epoch(A)
    nc1, nc2, _, nc4 = (axis.get_lines()[0] for axis in recorder.figure().axes)
    assert nc2.get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert nc1.get_xdata().tolist() == nc4.get_xdata().tolist() == [3, 5]
    alone, H, labels, _ = fed()
    alone.epoch()
    assert alone.figure().axes[1].get_lines()[0].get_marker() == "."


GOOD = {"features": np.ones((6, 4)) + np.eye(6, 4), "labels": np.tile(np.arange(3), 2)}
WRONG = {
    "features H of shape (6,)": {"features": np.ones(6)},
    "features H of shape (6, 2, 2)": {"features": np.ones((6, 2, 2))},
    "a NaN or an infinity": {"features": np.full((6, 4), np.nan)},
    "an array of type": {"features": np.full((6, 4), "a")},
    "labels of shape (5,)": {"labels": np.arange(5)},
    "labels[0] = 0.5, of type float64": {"labels": np.arange(6) + 0.5},
    "labels down to -100": {"labels": np.array([0, 1, 2, 0, 1, -100])},
    "labels up to 3": {"labels": np.array([0, 1, 2, 0, 1, 3])},
    "A of shape (3, 5)": {"A": np.ones((3, 5))},
    "A of shape (4, 4)": {"A": np.ones((4, 4))},
    "b of shape (2,)": {"A": np.ones((3, 4)), "b": np.zeros(2)},
    "b of shape (3,)": {"b": np.zeros(3)},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_input_is_named(message):
    recorder, words = ufm.Recorder(3), {**GOOD, **WRONG[message]}
    recorder.add(**GOOD)
    places = [lambda: fed_twice(recorder, words)]
    if words.keys() == GOOD.keys():
        places.append(lambda: ufm.Recorder(3).add(**words))
    else:
        places.append(lambda: recorder.epoch(words.get("A"), words.get("b")))
    for place in places:
        with pytest.raises(ValueError, match=re.escape(message)):
            place()


def fed_twice(recorder, words):
    recorder.revisit(**words)
    recorder.epoch()


def test_order_and_arguments_are_checked():
    with pytest.raises(ValueError, match="num_classes = 1: an integer of at least 2"):
        ufm.Recorder(1)
    recorder = ufm.Recorder(3)
    for too_early in (recorder.epoch, lambda: recorder.revisit(**GOOD)):
        with pytest.raises(ValueError, match="call add first"):
            too_early()
    with pytest.raises(ValueError, match="figure before epoch"):
        recorder.figure()
    recorder.add(GOOD["features"][:2], GOOD["labels"][:2])
    with pytest.raises(ValueError, match="no sample of class 2"):
        recorder.epoch()
    recorder.add(GOOD["features"][2:], GOOD["labels"][2:])
    with pytest.raises(ValueError, match="4 columns"):
        recorder.revisit(np.ones((2, 5)), np.array([0, 1]))
    recorder.revisit(**GOOD)
    with pytest.raises(ValueError, match="add after revisit"):
        recorder.add(**GOOD)
    with pytest.raises(ValueError, match="loss = 'low'"):
        recorder.epoch(loss="low")
    assert len(recorder.history.step) == 0
    recorder.epoch(step=4)
    recorder.add(**GOOD)
    with pytest.raises(ValueError, match="step = 4: an integer of at least 5"):
        recorder.epoch(step=4)
    A = np.ones((3, 4))
    recorder.revisit(GOOD["features"][:3], GOOD["labels"][:3], A)
    with pytest.raises(ValueError, match="another classifier"):
        recorder.revisit(GOOD["features"][3:], GOOD["labels"][3:], 2 * A)
    recorder.revisit(GOOD["features"][3:], GOOD["labels"][3:], A)
    for other in ((2 * A,), (A, np.ones(3))):
        with pytest.raises(ValueError, match="another classifier"):
            recorder.epoch(*other)
    recorder.epoch(A)
