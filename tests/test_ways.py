"""Which way problems are minimised: a function of the problems alone, on which nothing but the time depends."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from zoo import ZOO, problem

import ufm
from ufm.minima import optimum
from ufm.minima.ways import COMPILED_FROM, Way, way_in_lanes, way_of

# of the kinds of loss, bias and constraint, those whose programs compile soonest; the others take minutes
QUICK = "cross-entropy", "balls"


def found(p, way, monkeypatch):
    monkeypatch.setattr(optimum, "way_of", lambda problem, count: way)
    monkeypatch.setattr(optimum, "way_in_lanes", lambda problem, count: way)
    return ufm.minimize(p)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ZOO])
def test_numpy_and_compiled_programs_go_the_same_way(name, monkeypatch):
    at_once, compiled = (found(ZOO[name], way, monkeypatch) for way in (Way.AT_ONCE, Way.COMPILED))
    assert_allclose(at_once.value, compiled.value, rtol=1e-10)
    assert_allclose(at_once.lower_bound, compiled.lower_bound, rtol=1e-9, atol=1e-9 * compiled.value)
    assert at_once.certified == compiled.certified
    assert at_once.starts == compiled.starts


# a gap of g relative leaves the values of both ways within g of one another
@pytest.mark.parametrize("name", ["cross-entropy", "squared error", "label smoothing", "imbalanced"])
def test_the_problem_on_sizes_has_the_minimum_that_lanes_find(name, monkeypatch):
    on_sizes, at_once = (found(ZOO[name], way, monkeypatch) for way in (Way.ON_SIZES, Way.AT_ONCE))
    assert_allclose(on_sizes.value, at_once.value, rtol=1e-10)
    assert on_sizes.gap <= 1e-9 * on_sizes.value
    assert isinstance(on_sizes.solution, optimum.Sectors)
    for one, other in ((on_sizes.params.H, at_once.params.H), (on_sizes.A, at_once.A)):
        assert ufm.geometry.gram_distance(one, other) <= 1e-4  # lanes leave their minimiser free by the root of a gap


def test_the_way_is_a_function_of_shapes_kinds_and_how_many():
    def user(z, y):
        return ufm.CrossEntropy()(z, y)

    for count in (1, 8, COMPILED_FROM - 1, COMPILED_FROM, 10 * COMPILED_FROM):
        way = Way.ON_SIZES if count < COMPILED_FROM else Way.COMPILED
        for words in ({}, {"lambda_A": 0.3}, {"loss": ufm.SquaredError()}, {"bias": False}, {"per_class": [9, 2, 2]}):
            assert way_of(problem(**words), count) is way
        assert way_of(ZOO["balls"], count) is (Way.AT_ONCE if count < COMPILED_FROM else Way.COMPILED)
        assert way_of(problem(loss=user), count) is Way.COMPILED
    assert way_of(problem(features=ufm.Sphere(1.0), lambda_H=0.0), 1) is Way.AT_ONCE
    assert way_of(problem(lambda_A=0.0, features=ufm.Ball(1.0), classifier=ufm.Ball(1.0)), 1) is Way.AT_ONCE
    # what NumPy would take longer for than a compiler and its program do
    large = problem(num_classes=500, dim=500, per_class=1, features=ufm.Ball(1.0))
    assert way_in_lanes(large, 1) is Way.COMPILED


def test_a_few_dimensions_and_steps_that_do_not_suffice_go_on_in_lanes():
    # rank K − 1 = 2 is what the symmetric minimum needs
    line = ufm.minimize(problem(dim=1))
    assert isinstance(line.solution, optimum.LaneParams)
    assert line.params.H.shape == (15, 1)
    assert line.value > ufm.minimize(problem(dim=2)).value


def test_one_problem_a_list_and_a_sweep_give_the_same_bits():
    lambdas = [1e-3, 2e-3, 0.5]
    one_by_one = [ufm.minimize(problem(per_class=[7, 3, 2], lambda_A=decay)) for decay in lambdas]
    together = ufm.minimize([best.problem for best in one_by_one])
    table = ufm.sweep(problem(per_class=[7, 3, 2]), {"lambda_A": lambdas})
    for values in ([best.value for best in together], table.value.values):
        np.testing.assert_array_equal(values, [best.value for best in one_by_one])
    np.testing.assert_array_equal([best.A for best in together], [best.A for best in one_by_one])


def test_an_optimum_on_sizes_survives_its_file(tmp_path):
    best = ufm.minimize(problem(per_class=[7, 3, 3]))
    best.save(tmp_path / "best.npz")
    back = ufm.load(tmp_path / "best.npz")
    np.testing.assert_array_equal(back.params.H, best.params.H)
    assert (back.value, back.metrics) == (best.value, best.metrics)


def test_many_classes_of_few_sizes_take_no_memory_of_their_square():
    best = ufm.minimize(
        ufm.Problem(num_classes=16384, dim=16383, per_class=[40] * 384 + [3] * 16000, lambda_A=1e-6, lambda_H=1e-6)
    )
    assert_allclose(best.value, 0.423554771108, rtol=1e-11)  # by bisection on two sizes' logits
    assert best.gap <= 1e-9 * best.value
    assert best.b.shape == (16384,)
