import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_equal
from zoo import ZOO, problem

import ufm
from ufm.model.params import columns
from ufm.model.problem import risk


def test_objective_is_the_formula():
    p = problem(per_class=[4, 2, 1], lambda_b=3e-2, class_weights=[1.0, 2.0, 3.0], loss=ufm.SquaredError())
    H, A, b, _ = q = p.init(seed=1)._replace(b=np.array([0.3, -0.2, 0.1]))
    Z, Y, w = H @ A.T + b, np.eye(3)[p.labels], np.array([1.0, 2.0, 3.0])[p.labels]
    risk_ = np.mean(w * 0.5 * np.sum((Z - Y) ** 2, axis=1))
    decay = 0.5 * (1e-2 * np.sum(A**2) + 1e-2 * np.sum(H**2) + 3e-2 * np.sum(b**2))
    assert_allclose(p.objective(q), risk_ + decay, rtol=1e-14)


@pytest.mark.parametrize("name", ZOO)
def test_objective_is_float64_and_the_same_under_jit_and_grad(name):
    p = ZOO[name]
    q = p.init(seed=2)
    value = p.objective(q)
    assert value.dtype == np.float64
    assert not jax.config.jax_enable_x64
    with jax.enable_x64(True):
        assert_allclose(jax.jit(lambda p, q: p.objective(q))(p, q), value, rtol=1e-13)
        gradient = jax.grad(lambda A: p.objective(q._replace(A=A)))(jnp.asarray(q.A))
        direction = np.random.default_rng(0).normal(size=q.A.shape)
        step = 1e-6
        slope = (
            p.objective(q._replace(A=q.A + step * direction)) - p.objective(q._replace(A=q.A - step * direction))
        ) / (2 * step)
        assert_allclose(np.sum(np.asarray(gradient) * direction), slope, rtol=1e-7, atol=1e-9)


def test_float32_parameters_are_computed_in_float32():
    q = ufm.Params(*(np.asarray(x, np.float32) for x in problem().init()[:3]))
    assert problem().objective(q).dtype == np.float32


def test_no_number_of_a_problem_recompiles():
    traces = []

    @jax.jit
    def f(p, q):
        traces.append(1)
        return risk(p, columns(q))

    def variants(loss, other_loss):
        base = {"lambda_b": 1e-2, "class_weights": [1.0, 1.0, 2.0]}
        yield problem(loss=loss, **base)
        yield problem(loss=other_loss, **base)
        for change in ({"lambda_A": 0.3}, {"lambda_H": 0.0}, {"lambda_b": 0.5}, {"class_weights": [3.0, 1.0, 2.0]}):
            yield problem(loss=loss, **{**base, **change})

    q = problem().init()
    for pair in (
        (ufm.LabelSmoothing(0.1), ufm.LabelSmoothing(0.3)),
        (ufm.Focal(1.0), ufm.Focal(2.0)),
        (ufm.CrossEntropy(), ufm.CrossEntropy()),
    ):
        traces.clear()
        for p in variants(*pair):
            f(p, q)
        assert len(traces) == 1
    traces.clear()
    for radius in (1.0, 2.5):
        f(problem(lambda_H=0.0, features=ufm.Sphere(radius)), q)
    assert len(traces) == 1


def test_kind_of_bias_is_static():
    kinds = [problem(bias=False), problem(), problem(lambda_b=1e-3), problem(lambda_b=2e-3)]
    assert [p.bias_kind for p in kinds] == ["none", "free", "regularised", "regularised"]
    structures = [jax.tree.structure(p) for p in kinds]
    assert structures[2] == structures[3]
    assert len(set(structures)) == 3


WRONG = [
    ({"num_classes": 1}, "num_classes = 1"),
    ({"num_classes": 2.5}, "num_classes = 2.5"),
    ({"dim": 0}, "dim = 0"),
    ({"per_class": 0}, "per_class = 0"),
    ({"per_class": [1, 2]}, "per_class = "),
    ({"per_class": [1, 0, 2]}, "per_class = 0"),
    ({"per_class": "5"}, "per_class = "),
    ({"lambda_A": -1.0}, "lambda_A = -1.0"),
    ({"lambda_H": float("nan")}, "lambda_H = nan"),
    ({"lambda_b": float("inf")}, "lambda_b = inf"),
    ({"lambda_b": 1.0, "bias": False}, "lambda_b = 1.0"),
    ({"bias": 1}, "bias = 1"),
    ({"class_weights": [1.0, 2.0]}, "class_weights = "),
    ({"class_weights": [1.0, 2.0, 0.0]}, "class_weights = "),
    ({"class_weights": np.ones(2)}, "class_weights = "),
    ({"class_weights": np.array([])}, "class_weights = "),
    ({"loss": 3}, "loss = 3"),
    ({"loss": ufm.CrossEntropy}, "loss = "),
    ({"features": 2.0}, "features = 2.0"),
    ({"features": ufm.Sphere(1.0)}, "lambda_H = 0.01"),
    ({"classifier": ufm.Sphere(1.0)}, "lambda_A = 0.01"),
    ({"classifier": ufm.Fixed.etf(3, 4)}, "lambda_A = 0.01"),
    ({"classifier": ufm.Fixed.etf(3, 5), "lambda_A": 0.0}, r"classifier = Fixed of shape \(3, 5\): \(3, 4\) is needed"),
    ({"features": ufm.Fixed.etf(3, 4), "lambda_H": 0.0}, "features = Fixed"),
    ({"loss": ufm.DotRegression}, "loss = "),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_arguments_name_themselves(words, message):
    with pytest.raises(ValueError, match=message):
        problem(**words)


def test_init_is_feasible_reproducible_and_of_the_promised_shape():
    p = ZOO["spheres"]
    q = p.init(seed=7)
    assert np.shape(q.H) == (15, 4)
    assert np.shape(q.A) == (3, 4)
    assert np.shape(q.b) == (3,)
    assert_allclose(np.linalg.norm(q.H, axis=1), 2.0, rtol=1e-15)
    assert_allclose(np.linalg.norm(q.A, axis=1), 1.5, rtol=1e-15)
    assert all(np.array_equal(x, y) for x, y in zip(q[:3], p.init(seed=7)[:3], strict=True))
    assert not np.array_equal(q.H, p.init(seed=8).H)


def test_params_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"params.A of shape \(3, 5\): \(3, 4\) is needed"):
        problem().objective(problem().init()._replace(A=np.zeros((3, 5))))


@pytest.mark.parametrize("name", ["lambda_A", "lambda_H", "lambda_b"])
@pytest.mark.parametrize("value", [5e-324, 1e-101, 1e101, 1e200])
def test_weight_decays_beyond_what_can_be_computed_with_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} = .*: 0 or a number from 1e-100 to 1e"):
        problem(**{name: value})


def test_a_problem_without_weights_is_changed_in_its_number_of_classes():
    # the weights of ones that the constructor made are no wish of the caller's
    plain = ufm.Problem(num_classes=3, dim=4, per_class=5)
    assert_equal(dataclasses.replace(plain, num_classes=5).class_weights, np.ones(5))
    assert_equal(dataclasses.replace(problem(class_weights=np.ones(3)), num_classes=5).class_weights, np.ones(5))
    weighted = dataclasses.replace(plain, class_weights=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="class_weights"):
        dataclasses.replace(weighted, num_classes=5)
