"""Labels of any library are classes, some samples can be left out, and what is no label says how to make it one."""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest
import torch_or_none
from numpy.testing import assert_allclose, assert_array_equal
from test_checks import Tensor

import ufm
from ufm.metrics.arguments import features_and_labels
from ufm.metrics.labels import checked_labels
from ufm.metrics.stream import Stream

RANDOM = np.random.default_rng(0)
H, LABELS, A = RANDOM.normal(size=(9, 4)), np.tile(np.arange(3), 3), RANDOM.normal(size=(3, 4))


def wide(labels):
    with jax.enable_x64(True):
        return jnp.asarray(labels, jnp.int64)


KINDS = {
    "uint8": LABELS.astype(np.uint8),
    "int16": LABELS.astype(np.int16),
    "uint64": LABELS.astype(np.uint64),
    "big-endian": LABELS.astype(">i4"),
    "a list": LABELS.tolist(),
    "a tuple of NumPy's": tuple(LABELS),
    "objects": LABELS.astype(object),
    "floats": LABELS.astype(float),
    "halves": LABELS.astype(np.float16),
    "long doubles": LABELS.astype(np.longdouble),
    "a dictionary's values": dict(enumerate(LABELS)).values(),
    "a Counter's values": collections.Counter(dict(enumerate(LABELS.tolist()))).values(),
    "a series": pandas.Series(LABELS, index=LABELS + 5),
    "a nullable series": pandas.Series(LABELS, dtype="Int64"),
    "a column": pandas.DataFrame({"y": LABELS, "name": "x"})["y"],
    "of rows of mixed types": pandas.DataFrame({"y": LABELS, "name": "x"}).to_numpy()[:, 0],
    "JAX's": jnp.asarray(LABELS),
    "JAX's in 64 bits": wide(LABELS),
    "JAX's in four bits": jnp.asarray(LABELS, jnp.int4),
    "JAX's bfloat16": jnp.asarray(LABELS, jnp.bfloat16),
    "a tensor": Tensor(LABELS),
    "a tensor of floats": Tensor(LABELS.astype(np.float32)),
    "a tensor of halves": Tensor(LABELS.astype(np.float32), half=True),
} | {f"torch's {tensor.dtype}": tensor for pair in torch_or_none.tensors(LABELS.astype(float)) for tensor in pair}


@pytest.mark.parametrize("labels", KINDS.values(), ids=KINDS)
def test_whole_numbers_of_any_library_are_labels(labels):
    found, keep = checked_labels("labels", labels, 9)
    assert found.dtype == np.int32
    assert keep is None
    assert_array_equal(found, LABELS)
    assert ufm.measure(H, labels, A) == ufm.measure(H, LABELS, A)
    assert ufm.metrics.evaluate(H, labels, A) == ufm.metrics.evaluate(H, LABELS, A)


def names(labels):
    return np.array(["a", "b", "c"])[labels]


def at(index, value, dtype=np.int64):
    labels = LABELS.astype(dtype)
    labels[index] = value
    return labels


TOO_LARGE = "integers from 0 to 2147483646"
WRONG = {
    "2³¹ − 1": (at(0, 2**31 - 1), f"labels up to 2147483647: {TOO_LARGE}"),
    "what 32 bits wrap to 0": (at(0, 2**32), f"labels up to 4294967296: {TOO_LARGE}"),
    "the same of JAX": (wide(at(0, 2**32)), f"labels up to 4294967296: {TOO_LARGE}"),
    "the same as floats": (at(0, 2.0**32, float), f"labels up to 4294967296: {TOO_LARGE}"),
    "what 64 bits hold without a sign": (at(0, 2**64 - 1, np.uint64), f"labels up to {2**64 - 1}: {TOO_LARGE}"),
    "what no bits hold": ([2**70, *LABELS[1:].tolist()], f"labels up to {2**70}: {TOO_LARGE}"),
    "a fraction": (at(4, 0.5, np.float32), "labels[4] = 0.5, of type float32: whole numbers"),
    "NaN": (at(4, np.nan, float), "labels[4] = nan, of type float64: whole numbers"),
    "infinity": (at(4, np.inf, float), "labels[4] = inf, of type float64: whole numbers"),
    "a missing one": (pandas.Series([*LABELS[1:], None], dtype="Int64"), "labels[8] = nan"),
    "none": (None, "labels = None: (9,)"),
    "one alone": (2, "labels = 2: (9,)"),
    "names": (names(LABELS), "labels[0] = 'a': whole numbers are needed; np.unique(labels, return_inverse=True)[1]"),
    "names of pandas": (pandas.Series(names(LABELS), dtype="category"), "return_inverse=True"),
    "objects that are no numbers": ([None, *LABELS[1:].tolist()], "labels[0] = None"),
    "truth values": (LABELS > 0, "truth values: whole numbers are needed; labels.astype(int)"),
    "complex numbers": (LABELS.astype(complex), "real numbers"),
    "halves that were rounded": (jnp.asarray(at(0, 257), jnp.bfloat16), "labels up to 256 in bfloat16, which rounds"),
    "singles that were rounded": (at(0, 2**24 + 1, np.float32), "labels up to 16777216 in float32, which rounds"),
    "too few": (LABELS[1:], "labels of shape (8,): (9,), one for each row of the features H"),
    "one-hot": (np.eye(3)[LABELS], "labels of shape (9, 3): (9,), one for each row of the features H, are needed; "
                                   "labels.argmax(axis=1)"),
    "one-hot of truth values": (np.eye(3, dtype=bool)[LABELS], "labels.argmax(axis=1)"),
    "a batch of tokens": (LABELS.reshape(3, 3), "labels.reshape(-1) makes them, as H.reshape(-1, d)"),
    "a column of a table": (LABELS[:, None], "labels.ravel()"),
    "a frame of one column": (pandas.DataFrame({"y": LABELS}), "labels.ravel()"),
    "PyTorch's ignored": (at(2, -100), "labels down to -100: integers from 0 are needed; ignore=-100"),
    "unlabelled": (at(2, -1, np.int8), "labels down to -1: integers from 0 are needed; ignore=-1 "),
    "below what is ignored": (at([2, 3], [-100, -200]), "labels down to -200: integers from 0 are needed; ignore=-100"),
}  # fmt: skip


@pytest.mark.parametrize(("labels", "why"), WRONG.values(), ids=WRONG)
def test_what_is_no_label_says_what_to_do(labels, why):
    fed = ufm.Recorder(3), Stream(3)
    for each in fed:
        each.add(H, LABELS)
    traced = jax.jit(lambda H: ufm.metrics.evaluate(H, labels).nc1)
    calls = [ufm.measure, ufm.metrics.evaluate, ufm.Recorder(3).add, Stream(3).add, *(each.revisit for each in fed)]
    for call in [*calls, lambda H, _: traced(H)]:
        with pytest.raises(ValueError, match=re.escape(why)):
            call(H, labels)


def test_other_negative_labels_are_nothing_that_is_usually_ignored():
    with pytest.raises(ValueError, match=r"labels down to -3: integers from 0 are needed$"):
        ufm.measure(H, at(0, -3))


@pytest.mark.parametrize(
    ("shape", "labels", "why"),
    [
        ((3, 3, 4), LABELS.reshape(3, 3), "H.reshape(-1, 4) and labels.reshape(-1)"),
        ((3, 3, 4), LABELS, "H.reshape(-1, 4) and labels.reshape(-1)"),
        ((9, 2, 2), LABELS, "H.reshape(len(H), -1)"),
        ((36,), LABELS, "(N, d), one sample a row, are needed"),
    ],
)
def test_features_of_tokens_say_how_to_make_samples_of_them(shape, labels, why):
    for call in (ufm.measure, ufm.metrics.evaluate, ufm.Recorder(3).add, Stream(3).add):
        with pytest.raises(ValueError, match=re.escape(f"features H of shape {shape}: ") + ".*" + re.escape(why)):
            call(H.reshape(shape), labels)


def test_what_the_advice_makes_is_measured():
    expected = ufm.measure(H, LABELS, A)
    assert ufm.measure(H.reshape(3, 3, 4).reshape(-1, 4), LABELS.reshape(3, 3).reshape(-1), A) == expected
    assert ufm.measure(H, np.eye(3)[LABELS].argmax(axis=1), A) == expected
    assert ufm.measure(H, np.unique(names(LABELS), return_inverse=True)[1], A) == expected


IGNORED = {
    "PyTorch's": (-100, at([0, 4], -100)),
    "of NumPy": (np.int64(-100), at([0, 4], -100)),
    "a class": (2, at([0, 4], 2)),
    "a byte": (255, at([0, 4], 255, np.uint8)),
    "what a byte can't be": (-100, LABELS.astype(np.uint8)),
    "the least there is": (-(2**63), at([0, 4], -(2**63))),
    "beyond 32 bits": (2**32, at([0, 4], 2**32)),
    "as a float": (-1.0, at([0, 4], -1, np.float32)),
    "of a tensor": (-100, Tensor(at([0, 4], -100))),
    "of JAX": (-100, jnp.asarray(at([0, 4], -100))),
}


@pytest.mark.parametrize(("ignore", "labels"), IGNORED.values(), ids=IGNORED)
def test_ignored_samples_are_left_out(ignore, labels):
    values = np.asarray(labels.numpy() if isinstance(labels, Tensor) else labels)
    wanted = values != ignore
    found, keep = checked_labels("labels", labels, 9, ignore)
    assert_array_equal(found, LABELS[wanted])
    assert keep is None if np.all(wanted) else np.array_equal(keep, wanted)
    for features in (H, jnp.asarray(H), H.tolist(), Tensor(H)):
        rows, found = features_and_labels(features, labels, ignore=ignore)
        assert_allclose(rows, H[wanted], rtol=1e-6)
        assert_array_equal(found, LABELS[wanted])


@pytest.mark.parametrize(("ignore", "labels"), IGNORED.values(), ids=IGNORED)
def test_what_is_ignored_counts_nowhere(ignore, labels):
    wanted = np.asarray(labels.numpy() if isinstance(labels, Tensor) else labels) != ignore
    hurt = np.where(wanted[:, None], H, np.nan)  # as what is padded may be
    words = {"absent": "drop"}  # a class of which all is ignored
    expected = ufm.measure(H[wanted], LABELS[wanted], A, **words)
    words["ignore"] = ignore
    assert ufm.measure(hurt, labels, A, **words) == expected
    recorder, stream = ufm.Recorder(3, **words), Stream(3, **words)
    for fed in (recorder, stream):
        fed.add(hurt, labels)
        fed.add(hurt, np.full(9, ignore))  # a batch of padding alone
        fed.revisit(hurt, labels, A)
        fed.revisit(hurt, np.full(9, ignore), A)
    assert recorder.epoch() == expected
    assert stream.metrics() == expected


def test_ignored_samples_of_traced_features_are_left_out():
    def rows(H):
        return features_and_labels(H, at([0, 4], -100), ignore=-100)[0]

    assert_allclose(jax.jit(rows)(H), np.delete(H, [0, 4], axis=0), rtol=1e-6)


def test_what_is_ignored_is_an_integer_and_leaves_a_sample():
    with pytest.raises(ValueError, match="labels: every sample has the one that ignore = -100 leaves out"):
        ufm.measure(H, np.full(9, -100), ignore=-100)
    for wrong in (0.5, "x", True, [1], np.nan):
        for call in (lambda wrong=wrong: ufm.measure(H, LABELS, ignore=wrong), lambda w=wrong: Stream(3, ignore=w)):
            with pytest.raises(ValueError, match="ignore = "):
                call()
    with pytest.raises(ValueError, match="ignore = -1: labels traced by JAX"):
        jax.jit(lambda labels: features_and_labels(H, labels, ignore=-1)[1])(LABELS)


@pytest.mark.parametrize("dtype", ["int64", "uint64", "uint32"])
def test_traced_labels_that_32_bits_would_wrap_stay_out_of_range(dtype):
    with jax.enable_x64(True):
        labels = jnp.array([2**32 if "64" in dtype else 2**32 - 1, 2, 1], dtype)
        found = jax.jit(lambda labels: checked_labels("labels", labels, 3)[0])(labels)
        below = jax.jit(lambda labels: checked_labels("labels", labels, 3)[0])(jnp.array([-(2**32), 0, 1]))
    assert_array_equal(found, [2**31 - 1, 2, 1])
    assert_array_equal(below, [-1, 0, 1])
    assert found.dtype == below.dtype == np.int32


@pytest.mark.parametrize("labels", [LABELS.astype(np.float32), LABELS > 0])
def test_traced_labels_are_integers(labels):
    with pytest.raises(ValueError, match="traced by JAX: integers are needed"):
        jax.jit(lambda labels: ufm.metrics.evaluate(H, labels, A).nc1)(labels)


def refusals(A, b=None):
    """What everything that takes a classifier says of a wrong one."""
    for call in (
        lambda: ufm.measure(H, LABELS % 2, A, b),
        lambda: ufm.metrics.evaluate(H, LABELS % 2, A, b),
        lambda: jax.jit(lambda A: ufm.metrics.evaluate(H, LABELS % 2, A, b).nc3)(np.asarray(A)),
        lambda: twice(ufm.Recorder(2)).revisit(H, LABELS % 2, A, b),
        lambda: twice(ufm.Recorder(2)).epoch(A, b),
        lambda: twice(Stream(2)).revisit(H, LABELS % 2, A, b),
        lambda: twice(Stream(2)).metrics(A, b),
    ):
        with pytest.raises(
            ValueError, match=re.escape(f"A of shape {np.shape(A)}: a finite (K, 4) classifier")
        ) as raised:
            call()
        yield str(raised.value)


def twice(fed):
    fed.add(H, LABELS % 2)
    return fed


@pytest.mark.parametrize("shape", [(4,), (1, 4), (4, 1)])
@pytest.mark.parametrize("b", [None, 0.3, [0.3]])
def test_one_logit_for_two_classes_says_which_two_rows_decide_alike(shape, b):
    for said in refusals(A[0].reshape(shape), b):
        assert "A = np.stack([-a / 2, a / 2]), b = np.ravel([-b / 2, b / 2])" in said
        assert "a = A.ravel()" in said


@pytest.mark.parametrize("b", [0.3, np.array([0.3])])
def test_the_two_rows_decide_as_the_logit_does_and_have_its_odds(b):
    a, labels = A[:1].ravel(), LABELS % 2
    logit = H @ a + b
    rows, bias = np.stack([-a / 2, a / 2]), np.ravel([-b / 2, b / 2])
    assert set(logit > 0) == {True, False}
    assert_allclose(ufm.measure(H, labels, rows, bias).accuracy, np.mean((logit > 0) == labels), rtol=1e-15)
    assert_allclose(H @ (rows[1] - rows[0]) + bias[1] - bias[0], logit, rtol=1e-13)  # so are softmax's probabilities


def test_the_two_rows_are_those_that_align_with_collapsed_features():
    a, labels = A[0], LABELS % 2
    collapsed = np.stack([-a, a])[labels] + 0.7
    assert ufm.measure(collapsed, labels, np.stack([-a / 2, a / 2])).nc3 < 1e-15
    assert ufm.measure(collapsed, labels, np.stack([0 * a, a])).nc3 > 0.5  # the same decisions, but no simplex


def test_a_kernel_is_transposed_where_shapes_tell():
    for said in refusals(RANDOM.normal(size=(4, 3))):
        assert said.endswith("a kernel (d, K), as of Flax and Keras, is passed as A.T")
    for said in refusals(RANDOM.normal(size=(2, 3))):
        assert "A.T" not in said
    square = RANDOM.normal(size=(4, 4))
    assert ufm.measure(H[:8], np.tile(np.arange(4), 2), square).nc3 > 0
