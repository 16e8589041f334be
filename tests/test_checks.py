"""Arguments of the right kind are taken from every library, and what can't be converted says why."""

import collections
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas
import pytest
import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal
from zoo import problem

import ufm
from ufm._core import checks

SGD = optax.sgd(0.5)


class Tensor:
    """Stands for torch's: its numbers are had by `detach().cpu().numpy()` alone, of half precisions after `float()`."""

    layout, is_quantized = "torch.strided", False

    def __init__(self, values, device="cpu", half=False, **facts):
        self.values, self.half = np.asarray(values), half
        self.device = types.SimpleNamespace(type=device)
        self.__dict__.update(facts)

    ndim = property(lambda self: self.values.ndim)

    def __len__(self):
        if not self.ndim:
            raise TypeError("len() of a 0-d tensor")
        return len(self.values)

    def __iter__(self):
        return (Tensor(value) for value in self.values)

    def __array__(self, *_, **__):
        raise RuntimeError("a tensor that requires grad, or isn't on the CPU")

    def detach(self):
        return self

    cpu = detach

    def is_floating_point(self):
        return self.values.dtype.kind == "f"

    def element_size(self):
        return 2 if self.half else self.values.dtype.itemsize

    def float(self):
        return Tensor(self.values.astype(np.float32))

    def numpy(self):
        if self.half:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.values


THREES = {
    "NumPy's": np.int64(3),
    "NumPy's of no axes": np.array(3),
    "NumPy's float": np.float32(3.0),
    "JAX's": jnp.asarray(3),
    "JAX's float": jnp.asarray(3.0),
    "torch's": Tensor(3),
    "torch's float": Tensor(3.0),
    "a float": 3.0,
}


@pytest.mark.parametrize("three", THREES.values(), ids=THREES)
def test_a_whole_number_of_any_library_is_a_count(three):
    p = ufm.Problem(num_classes=three, dim=three, per_class=three)
    assert (p.num_classes, p.dim, p.per_class) == (3, 3, 3)
    assert all(type(n) is int for n in (p.num_classes, p.dim, p.per_class))
    assert ufm.Problem(num_classes=3, dim=4, per_class=[three, 2, 1]).per_class == (3, 2, 1)
    assert_array_equal(ufm.geometry.simplex_etf(three, 4, seed=three), ufm.geometry.simplex_etf(3, 4, seed=3))
    assert_array_equal(p.init(seed=three).H, p.init(seed=3).H)
    assert_array_equal(ufm.Fixed.etf(3, 4, seed=three).matrix, ufm.Fixed.etf(3, 4, seed=3).matrix)
    assert ufm.minimize(p, seed=three).seed == 3
    assert ufm.train(problem(), SGD, steps=1, seed=three, snapshots=2).seed == 3
    assert ufm.train(problem(), SGD, steps=1, seed=[three, 1], snapshots=2).seed.tolist() == [3, 1]
    assert checks.integer("n", three, least=3, most=3) == 3


COUNTS = {
    "whole floats": [5.0, 3.0, 2.0],
    "an array": np.array([5, 3, 2]),
    "JAX's": jnp.asarray([5, 3, 2]),
    "floats of JAX": jnp.asarray([5.0, 3.0, 2.0]),
    "a list of JAX's": [jnp.asarray(5), jnp.asarray(3.0), 2],
    "a tensor": Tensor([5, 3, 2]),
    "a tensor of floats": Tensor([5.0, 3.0, 2.0]),
    "a list of tensors": [Tensor(5), Tensor(3.0), 2],
    "a series": pandas.Series([5, 3, 2], index=["a", "b", "c"]),
    "a Counter's values": collections.Counter({"a": 5, "b": 3, "c": 2}).values(),
    "an iterable with a length": collections.deque([5, 3, 2]),
}


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_counts_and_weights_come_in_any_container_with_an_order(counts):
    weighted = not isinstance(counts, collections.deque) and counts is not COUNTS["a list of tensors"]
    p = problem(per_class=counts, class_weights=counts if weighted else None)
    assert p.per_class == (5, 3, 2)
    assert_array_equal(p.class_weights, [5.0, 3.0, 2.0] if weighted else np.ones(3))


def test_counts_and_seeds_of_any_library_are_whole_numbers_in_the_table():
    counts = [
        [3.0, 2.0],
        Tensor([2, 3]),
        [Tensor(4), jnp.asarray(1)],
        (np.float64(1), np.int64(4)),
        collections.Counter("aaaab").values(),
        pandas.Series([5.0, 1.0]),
        np.float32(2),
    ]
    p = problem(num_classes=2)
    table = ufm.sweep(p, over={"per_class": counts, "seed": jnp.arange(2.0), "dim": [3.0]})
    assert table.per_class.values.tolist() == ["3,2", "2,3", "4,1", "1,4", "4,1", "5,1", "2"]
    assert table.seed.dtype.kind == table.dim.dtype.kind == "i"
    assert_allclose(table.value[2], table.value[4], rtol=0)
    together = ufm.sweep(p, over={("per_class", "seed"): [(collections.Counter("aab").values(), Tensor(1.0)), (2, 0)]})
    assert together.per_class.values.tolist() == ["2,1", "2"]
    assert together.seed.values.tolist() == [1, 0]


def test_what_a_caller_does_to_an_array_later_changes_no_problem():
    weights, matrix = np.ones(3), np.eye(3, 4)
    p = problem(class_weights=weights, classifier=ufm.Fixed(matrix), lambda_A=0.0)
    weights[0], matrix[0, 0] = 7.0, 7.0
    assert p.class_weights[0] == 1.0
    assert p.classifier.matrix[0, 0] == 1.0


ARRAYS = {
    "a list": lambda x: x.tolist(),
    "big-endian": lambda x: x.astype(">f8"),
    "a long double": lambda x: x.astype(np.longdouble),
    "without a masked entry": np.ma.array,
    "a data frame": pandas.DataFrame,
    "a tensor": Tensor,
    "a matrix": np.matrix,
}


@pytest.mark.parametrize("convert", ARRAYS.values(), ids=ARRAYS)
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_arrays_of_any_library_are_measured_and_are_parameters(convert):
    p, q = problem(), ufm.Params(*(np.asarray(x) for x in problem().init()[:3]))
    other = q._replace(H=convert(q.H), A=convert(q.A))
    assert p.objective(other) == p.objective(q)
    assert p.objective(other).dtype == np.float64
    expected = ufm.measure(q.H, p.labels, q.A, q.b)
    assert ufm.measure(convert(q.H), p.labels.tolist(), convert(q.A), q.b) == expected


def test_half_precisions_are_widened_and_whole_numbers_are_doubles():
    ones = np.ones((2, 2))
    for half in (ones.astype(np.float16), jnp.asarray(ones, jnp.bfloat16), Tensor(ones.astype(np.float32), half=True)):
        assert checks.numeric("x", half).dtype == np.float32
    zeros = ufm.Params(np.zeros((15, 4), int), np.zeros((3, 4), int), np.zeros(3, int))
    assert_allclose(problem().objective(zeros), np.log(3), rtol=1e-15)  # cross-entropy of equal logits


def test_a_bias_in_double_makes_the_objective_one_of_doubles():
    q = problem().init()
    single = ufm.Params(q.H.astype(np.float32), q.A.astype(np.float32), np.zeros(3))
    exact = ufm.Params(single.H.astype(float), single.A.astype(float), np.zeros(3))
    assert problem().objective(single) == problem().objective(exact)


def test_traced_parameters_pass_untouched():
    p, q = problem(), problem().init()
    q = ufm.Params(*(jnp.asarray(x, jnp.float32) for x in q[:3]))
    many = jax.tree.map(lambda x: jnp.stack([x, x]), q)
    assert jax.eval_shape(jax.vmap(p.objective), many).shape == (2,)
    assert jax.eval_shape(jax.jit(jax.grad(p.objective)), q).H.dtype == jnp.float32
    seen = []
    jax.eval_shape(lambda q: seen.append(p.check_params(q)) or q, q)
    assert all(isinstance(x, jax.core.Tracer) for x in seen[0][:3])


REFUSED = {
    "masked": (np.ma.array(np.ones((9, 2)), mask=np.eye(9, 2)), "masked"),
    "sparse": (scipy.sparse.csr_matrix(np.ones((9, 2))), "sparse"),
    "sparse of torch": (Tensor(np.ones((9, 2)), layout="torch.sparse_coo"), "to_dense"),
    "meta": (Tensor(np.ones((9, 2)), device="meta"), "no values"),
    "quantised": (Tensor(np.ones((9, 2)), is_quantized=True), "dequantize"),
    "complex": (np.ones((9, 2), complex), "complex128"),
    "complex of JAX": (jnp.ones((9, 2), complex), "complex64"),
    "truth values": (np.ones((9, 2), bool), "bool"),
    "text": (np.full((9, 2), "1"), "<U1"),
    "keys": (jax.random.key(0), "key"),
}


@pytest.mark.parametrize(("wrong", "why"), REFUSED.values(), ids=REFUSED)
def test_arrays_that_have_no_real_numbers_say_why(wrong, why):
    labels = np.repeat(np.arange(3), 3)
    with pytest.raises(ValueError, match=f"(?s)features H.*{why}"):
        ufm.measure(wrong, labels)
    with pytest.raises(ValueError, match=f"(?s)features H.*{why}"):
        ufm.Recorder(3).add(wrong, labels)
    with pytest.raises(ValueError, match=f"(?s)params.H.*{why}"):
        problem().objective(ufm.Params(wrong, np.ones((3, 4)), np.zeros(3)))


def test_labels_that_32_bits_would_wrap_are_refused():
    with pytest.raises(ValueError, match="labels up to 4294967297"):
        ufm.measure(np.eye(3), [0, 1, 2**32 + 1])
    with pytest.raises(ValueError, match=r"no sample of class 2; each of 0\.\.2147483646"):
        ufm.measure(np.eye(3), [0, 1, 2**31 - 2])


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["H", "A", "b"])
def test_bounds_and_curvature_refuse_parameters_that_are_not_finite(number, name):
    q = ufm.Params(np.ones((15, 4)), np.ones((3, 4)), np.zeros(3))
    q = q._replace(**{name: np.full_like(getattr(q, name), number)})
    for function in (ufm.lower_bound, ufm.curvature):
        with pytest.raises(ValueError, match=f"params.{name}.*a NaN or an infinity"):
            function(problem(), q)


def test_hidden_layers_are_not_ignored():
    with pytest.raises(ValueError, match=r"params\.W"):
        problem().objective(ufm.Params(np.ones((15, 4)), np.ones((3, 4)), np.zeros(3), (np.eye(4),)))


@pytest.mark.parametrize(
    ("call", "needed"),
    [
        (lambda: problem(num_classes=2**31), "80 GiB"),  # 2³¹ · (4 + 1) · 8 bytes
        (lambda: problem(dim=2**40), "24,576 GiB"),
        (lambda: problem(per_class=10**10).labels, "112 GiB"),
        (lambda: problem(per_class=10**10).init(), "894 GiB"),
        (lambda: ufm.geometry.simplex_etf(10**6, 10**6), "14,901 GiB"),
        (lambda: ufm.geometry.polygon(10**10), "149 GiB"),
        (lambda: ufm.Recorder(10**11), "745 GiB"),
        (lambda: ufm.Recorder(10**9).add(np.ones((1, 10**2)), [0]), "745 GiB"),
    ],
)
def test_what_memory_cannot_hold_is_said_before_it_is_tried(call, needed, monkeypatch):
    monkeypatch.setattr(checks, "_memory", lambda: 2**36)
    with pytest.raises(ValueError, match=f"which need {needed} of memory; this machine has 64 GiB"):
        call()


def test_a_problem_of_samples_beyond_memory_is_a_problem():
    p = problem(per_class=10**10)
    assert p.num_samples == 3 * 10**10
    assert p.balanced
