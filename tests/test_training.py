import functools
import json
import pathlib
import threading

import jax
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose
from zoo import FREE, ZOO, problem

import ufm
from ufm import training
from ufm._core import programs
from ufm.training import schedule

SGD = optax.sgd(0.5, momentum=0.9)


def same(x, y):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))


def by_hand(p, q, rate, momentum, steps):
    """Heavy-ball descent with the gradient of the formula: ∂f/∂Z = (softmax − Y)/N."""
    H, A, b = (np.array(x) for x in q[:3])
    Y, N = np.eye(p.num_classes)[p.labels], p.num_samples
    speeds = [np.zeros_like(x) for x in (H, A, b)]
    for _ in range(steps):
        Z = H @ A.T + b
        E = np.exp(Z - Z.max(axis=1, keepdims=True))
        U = (E / E.sum(axis=1, keepdims=True) - Y) / N
        gradients = (U @ A + p.lambda_H * H, U.T @ H + p.lambda_A * A, U.sum(axis=0))
        for x, v, g in zip((H, A, b), speeds, gradients, strict=True):
            v *= momentum
            v += g
            x -= rate * v
    return H, A, b


def test_training_is_heavy_ball_descent_on_the_formula():
    p = problem(lambda_A=3e-2)
    run = ufm.train(p, SGD, steps=40, seed=3, snapshots=[0, 40], precision="float64")
    for found, expected in zip(run.params, by_hand(p, p.init(seed=3), 0.5, 0.9, 40), strict=False):
        assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_every_problem_trains_downhill_on_its_constraint(name, precision):
    p = ZOO[name]
    run = ufm.train(p, SGD, steps=300, snapshots=[0, 1, 2, 3, 300], precision=precision)
    rounding = np.finfo(precision).eps
    assert run.params.H.dtype == precision
    assert run.history.loss[-1] < run.history.loss[0]
    assert_feasible(p, run.params, 4 * rounding)
    assert_allclose(run.history.loss[-1], p.objective(run.params), rtol=100 * rounding)
    assert not jax.config.jax_enable_x64


def assert_feasible(p, q, rounding):
    """Constraints by their definitions, on features of samples and on rows of the classifier."""
    shares = 1.0 / (p.num_classes * p.class_counts[p.labels])
    for constraint, rows, of_each in ((p.features, q.H, shares), (p.classifier, q.A, np.full(p.num_classes, 1 / 3))):
        rows = np.asarray(rows, np.float64)
        norms = np.linalg.norm(rows, axis=1)
        if isinstance(constraint, ufm.Sphere):
            assert_allclose(norms, constraint.radius, rtol=rounding)
        if isinstance(constraint, ufm.Ball):
            assert np.all(norms <= constraint.radius * (1 + rounding))
        if isinstance(constraint, ufm.MeanBall):
            assert np.sqrt(of_each @ norms**2) <= constraint.radius * (1 + rounding)
        if isinstance(constraint, ufm.Nonnegative):
            assert np.all(rows >= 0)
        if isinstance(constraint, ufm.Fixed):
            assert_allclose(rows, constraint.matrix, rtol=rounding)


CONSTRAINED = [name for name in ZOO if name not in FREE]


@pytest.mark.parametrize("name", CONSTRAINED)
def test_constraints_hold_at_every_step(name):
    p = ZOO[name]
    for steps in range(1, 6):
        q = ufm.train(p, optax.sgd(3.0, momentum=0.9), steps=steps, snapshots=2, precision="float64").params
        assert_feasible(p, q, 1e-15)


@pytest.mark.parametrize("optimizer", [optax.adam(0.05), optax.lbfgs(), optax.polyak_sgd(), optax.adafactor(0.05)])
def test_any_optax_optimiser_is_taken(optimizer):
    with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic mixes its counts with floats
        run = ufm.train(problem(), optimizer, steps=50, snapshots=3)
    assert run.history.loss[-1] < run.history.loss[0]


def sharpness_aware(opaque=False):
    """Steps of size 0.5 against the gradient at the point 0.05 along it."""
    along = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    return optax.contrib.sam(optax.sgd(0.5), along, opaque_mode=opaque)


@pytest.mark.parametrize("opaque", [False, True])
def test_sharpness_aware_descent_steps_against_the_gradient_at_the_worst_point_nearby(opaque):
    p = problem(lambda_A=3e-2)
    point = ufm.Params(*(np.asarray(x) for x in p.init(seed=3)[:3]))
    with jax.enable_x64(True):
        slope = jax.jit(jax.grad(p.objective))
        for _ in range(20):
            gradient = slope(point)
            size = optax.tree.norm(gradient)
            worst = jax.tree.map(lambda x, g, size=size: x + 0.05 * g / size, point, gradient)
            point = jax.tree.map(lambda x, g: x - 0.5 * g, point, slope(worst))
    with jax.numpy_dtype_promotion("standard"):
        run = ufm.train(p, sharpness_aware(opaque), steps=40 - 20 * opaque, seed=3, snapshots=2, precision="float64")
    for found, expected in zip(run.params[:3], point[:3], strict=True):
        assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


PARTICULAR = {  # about what they are given
    "nothing of it": optax.GradientTransformation(*optax.sgd(0.5)),
    "within a chain": optax.chain(optax.clip(1.0), sharpness_aware(opaque=True)),
    "with rates injected": optax.inject_hyperparams(lambda rate: sharpness_aware())(rate=0.5),
    "where finite": optax.apply_if_finite(sharpness_aware(), 3),
    "on a plateau": optax.chain(optax.sgd(0.5), optax.contrib.reduce_on_plateau()),
    "momentum of values": optax.contrib.momo(),
    "line search": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10)),
    "curvature of the objective": optax.contrib.sophia(1e-2),
}


@pytest.mark.parametrize("optimizer", PARTICULAR.values(), ids=PARTICULAR)
def test_an_optimiser_is_given_what_it_takes_however_it_is_wrapped(optimizer):
    with jax.numpy_dtype_promotion("standard"):
        run = ufm.train(problem(), optimizer, steps=50, snapshots=2)
    assert run.history.loss[-1] < run.history.loss[0]


def test_what_an_optimiser_needs_and_there_is_not_is_said():
    def update(updates, state, params=None, *, temperature, **others):
        return updates, state

    def broken(updates, state, params=None, **others):
        return updates - state, state

    def of(update):
        return optax.GradientTransformationExtraArgs(lambda params: (), update)

    offered = "value, grad, value_fn, obj_fn, grad_fn"
    with pytest.raises(ValueError, match=f"optimizer: .*'temperature'; what all of it can be given is {offered}"):
        ufm.train(problem(), optax.chain(optax.sgd(0.5), of(update)), steps=5)
    with pytest.raises(ValueError, match="'hessian'; what all of it can be given is nothing"):
        ufm.train(problem(), of(lambda updates, state, params=None, *, hessian: (updates, state)), steps=5)
    at_odds = optax.chain(optax.contrib.reduce_on_plateau(), sharpness_aware())
    said = pytest.raises(
        ValueError, match=r"optimizer: .*missing .*'value'; what all of it can be given is grad, value_fn"
    )
    with jax.numpy_dtype_promotion("standard"), said:
        ufm.train(problem(), at_odds, steps=5)
    with pytest.raises(TypeError, match="unsupported operand"):  # a mistake of its own
        ufm.train(problem(), of(broken), steps=5)


def test_history_is_what_measure_says_of_the_parameters():
    p = ZOO["imbalanced"]
    run = ufm.train(p, SGD, steps=25, snapshots=[0, 7, 25], precision="float64")
    m = ufm.measure(run.params.H, p.labels, run.params.A, run.params.b)
    for name, value in m._asdict().items():
        assert_allclose(getattr(run.history, name)[-1], value, rtol=1e-9, atol=1e-14)
    assert run.history.step.tolist() == [0, 7, 25]
    with pytest.raises(AttributeError, match="History has no 'nc5'"):
        _ = run.history.nc5


def test_one_compilation_serves_all_snapshots_and_numbers(monkeypatch):
    traces = []
    step = training._step
    monkeypatch.setattr(training, "_step", lambda *args: traces.append(1) or step(*args))
    optimizer = optax.sgd(0.25)
    for snapshots in (2, 3, 9, 40, [0, 5, 6, 77]):
        ufm.train(problem(lambda_A=1e-3), optimizer, steps=100, snapshots=snapshots)
    ufm.train(problem(lambda_A=0.2, lambda_H=0.1), optimizer, steps=31, snapshots=4)
    assert len(traces) <= 2  # scan traces its body once, or twice where it checks types


@pytest.mark.parametrize("name", ["cross-entropy", "sphere"])
def test_same_seed_same_bits_and_snapshots_do_not_touch_them(name):
    runs = [ufm.train(ZOO[name], SGD, steps=60, seed=5, snapshots=n) for n in (2, 2, 30)]
    assert same(runs[0].params, runs[1].params)
    assert same(runs[0].params, runs[2].params)
    assert not same(runs[0].params, ufm.train(ZOO[name], SGD, steps=60, seed=6, snapshots=2).params)


def test_many_seeds_are_the_single_ones():
    p = problem()
    many = ufm.train(p, SGD, steps=30, seed=[1, 4], snapshots=[0, 10, 30], precision="float64")
    assert many.params.H.shape == (2, 15, 4)
    assert many.history.nc1.shape == (2, 3)
    for row, seed in enumerate((1, 4)):
        one = ufm.train(p, SGD, steps=30, seed=seed, snapshots=[0, 10, 30], precision="float64")
        assert_allclose(many.params.H[row], one.params.H, rtol=1e-12)
        assert_allclose(many.history.loss[row], one.history.loss, rtol=1e-13)
        assert many.status[row] is one.status is ufm.Status.FINISHED
        assert (many.ended_at.step[row], many.ended_at.snapshot[row]) == one.ended_at == (30, 2)


def test_the_users_parameters_are_left_alone():
    p = problem()
    start = p.init(seed=1)
    copies = [np.array(x) for x in start[:3]]
    for precision in ("float32", "float64"):
        ufm.train(p, SGD, steps=5, params=start, snapshots=2, precision=precision)
    on_device = jax.tree.map(lambda x: jax.numpy.asarray(x, jax.numpy.float32), start)
    ufm.train(p, SGD, steps=5, params=on_device, snapshots=2)
    assert same(copies, list(start[:3]))
    assert np.all(np.isfinite(on_device.H))  # a donated buffer would raise


def test_a_run_goes_on_where_it_stopped(tmp_path):
    p = problem()
    whole = ufm.train(p, SGD, steps=50, snapshots=[0, 20, 50])
    half = ufm.train(p, SGD, steps=20, snapshots=[0, 20])
    half.save(tmp_path / "half")
    for first in (half, ufm.load(tmp_path / "half")):
        rest = ufm.train(p, SGD, steps=30, snapshots=[0, 30], resume=first)
        assert same(rest.params, whole.params)
        assert rest.history.step.tolist() == [20, 50]
        assert rest.steps == 50
    with pytest.raises(ValueError, match="optimizer: its state"):
        ufm.train(p, optax.adam(0.1), steps=3, resume=half)


def test_saved_runs_come_back_whole_and_without_pickle(tmp_path):
    p = ZOO["imbalanced"]
    run = ufm.train(p, SGD, steps=10, snapshots=3)
    run.save(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    back = ufm.load(tmp_path / "run")
    assert same(run.params, back.params)
    assert same(run.history, back.history)
    assert back.status is run.status
    assert back.ended_at == run.ended_at
    assert back.problem.objective(run.params) == p.objective(run.params)
    own = ufm.train(problem(loss=lambda z, y: (z[y] - 1.0) ** 2), SGD, steps=2, snapshots=2)
    own.save(tmp_path / "own")
    with pytest.raises(ValueError, match="was not saved"):
        ufm.load(tmp_path / "own").problem.objective(own.params)
    np.savez(tmp_path / "other.npz", x=1)
    with pytest.raises(ValueError, match="written by save"):
        ufm.load(tmp_path / "other.npz")


def written_earlier(run, path):
    """A run as files had it when each status was an outcome with a step and a snapshot."""
    run.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    tree = json.loads(str(arrays.pop("__tree__")))
    places = np.atleast_2d(np.stack(run.ended_at, axis=-1)).tolist()
    outcomes = [
        {"class": "TrainingStatus", "fields": {"outcome": {"class": "Outcome", "member": status.name}}}
        for status in np.atleast_1d(run.status)
    ]
    for outcome, (step, snapshot) in zip(outcomes, places, strict=True):
        outcome["fields"] |= {"step": step, "snapshot": snapshot}
    del tree["fields"]["ended_at"]
    tree["fields"]["status"] = outcomes[0] if run.params.H.ndim == 2 else {"items": outcomes}
    with path.open("wb") as file:
        np.savez(file, __tree__=np.asarray(json.dumps(tree)), **arrays)


@pytest.mark.parametrize("seed", [0, [0, 1]])
@pytest.mark.parametrize("rate", [0.5, 1e9])
def test_runs_that_earlier_versions_saved_are_read(seed, rate, tmp_path):
    p = problem()
    run = ufm.train(p, optax.sgd(rate), steps=50, seed=seed, snapshots=4)
    written_earlier(run, tmp_path / "run")
    back = ufm.load(tmp_path / "run")
    assert back.status == run.status
    assert same(back.ended_at, run.ended_at)
    assert (back.ended(), back.steps) == (run.ended(), run.steps)
    assert same(back.history, run.history)


def test_divergence_is_found_and_what_came_before_stays():
    p = problem(loss=ufm.SquaredError())
    run = ufm.train(p, optax.sgd(300.0), steps=4000, snapshots=60)
    assert run.status is ufm.Status.DIVERGED
    assert not run.status.ok
    assert "smaller learning rate" in str(run.status)
    assert f"diverged at step {run.ended_at.step} (snapshot {run.ended_at.snapshot})" in repr(run)
    assert len(run.history.loss) == run.ended_at.snapshot
    assert np.all(np.isfinite(run.history.loss))
    assert 0 < run.ended_at.step < 4000


def test_schedule_is_log_spaced_with_both_ends_or_as_listed():
    assert schedule(1000, 5) == [0, 1, 10, 100, 1000]
    assert schedule(3, 100) == [0, 1, 2, 3]
    assert schedule(7, 2) == [0, 7]
    assert schedule(10, [3, 10, 3]) == [3, 10]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"steps": 0}, "steps = 0"),
        ({"snapshots": 1}, "snapshots = 1"),
        ({"snapshots": [5, 11]}, "snapshots ="),
        ({"precision": "half"}, "precision = 'half'"),
        ({"optimizer": 0.1}, "optimizer = 0.1"),
        ({"params": ufm.Params(np.zeros((2, 2)), np.zeros((3, 4)), np.zeros(3))}, "params.H of shape"),
        ({"seed": -1}, "seed = -1"),
        ({"steps": 10**30}, "steps = 1000000.*at least 1 and at most"),
        ({"snapshots": []}, r"snapshots = \[\]"),
        ({"snapshots": "all"}, "snapshots = 'all'"),
        ({"snapshots": [[1, 2]]}, "snapshots = "),
        ({"snapshots": 10**15}, "snapshots: .*GiB of memory"),
        ({"optimizer": optax.GradientTransformation(1, 2)}, "optimizer = .*init and update"),
        ({"optimizer": optax.sgd}, "optimizer = .*optax GradientTransformation"),
        ({"resume": "run"}, "resume = 'run'"),
    ],
)
def test_wrong_arguments_name_themselves(words, message):
    with pytest.raises(ValueError, match=message):
        ufm.train(problem(), **{"optimizer": SGD, "steps": 10, **words})


def counted(monkeypatch):
    """Traces of the training program from now on, in a list; others' programs are left alone."""
    traces = []
    advance = training._advance
    monkeypatch.setattr(training, "_advance", lambda *a: traces.append(0) or advance(*a))
    monkeypatch.setattr(training, "_compiled", functools.cache(training._compiled.__wrapped__))
    return traces


def test_equal_optimisers_share_a_program_and_others_do_not(monkeypatch):
    traces = counted(monkeypatch)
    p = problem()
    for _ in range(30):
        ufm.train(p, optax.sgd(0.5), steps=5, snapshots=2)
        ufm.train(p, optax.GradientTransformation(*optax.sgd(0.5)), steps=5, snapshots=2)
    assert len(traces) <= 2
    for rate in (lambda step: 0.5, lambda step: 0.1):
        run = ufm.train(p, optax.sgd(rate), steps=5, snapshots=2)
        assert same(run.params, ufm.train(p, optax.sgd(rate(0)), steps=5, snapshots=2).params)


def test_an_optimiser_that_cannot_be_identified_is_taken_and_never_taken_for_another(monkeypatch):
    traces = counted(monkeypatch)

    def hidden(rate):
        lock = threading.Lock()
        return optax.sgd(lambda step: rate if lock is not None else 0.0)

    first, second = hidden(0.5), hidden(0.1)
    runs = [ufm.train(problem(), each, steps=5, snapshots=2) for each in (first, first, second)]
    assert len(traces) == 2
    assert same(runs[0].params, runs[1].params)
    assert not same(runs[0].params, runs[2].params)


SEEDS = [[3, 5], (3, 5), range(3, 6, 2), np.array([3, 5], np.uint8), jax.numpy.array([3, 5]), [np.int64(3), 5.0]]


@pytest.mark.parametrize("seeds", SEEDS)
def test_runs_of_several_seeds_go_on_again_and_again_loaded_or_not(seeds, tmp_path):
    p = problem()
    whole = ufm.train(p, SGD, steps=30, seed=[3, 5], snapshots=2)
    run = ufm.train(p, SGD, steps=10, seed=seeds, snapshots=2)
    for _ in range(2):
        run.save(tmp_path / "run")
        run = ufm.load(tmp_path / "run")
        run = ufm.train(p, SGD, steps=10, snapshots=2, resume=run)
        assert run.seed.tolist() == [3, 5]
    assert same(run.params, whole.params)
    assert run.steps == 30


def assert_same_run(found, expected):
    """Up to the rounding of a program for several seeds."""
    assert (found.status, found.ended_at, found.steps) == (expected.status, expected.ended_at, expected.steps)
    assert (found.seed, found.precision, type(found.seed)) == (expected.seed, expected.precision, int)
    for name in ("params", "history", "optimizer_state"):
        leaves = (jax.tree.leaves(getattr(run, name)) for run in (found, expected))
        for one, other in zip(*leaves, strict=True):
            assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_one_of_several_seeds_is_a_run_like_any_other(tmp_path):
    p = problem()
    words = {"steps": 30, "snapshots": [0, 10, 30], "precision": "float64"}
    several = ufm.train(p, SGD, seed=[1, 4], **words)
    assert len(list(several)) == 2
    alone = ufm.train(p, SGD, seed=4, **words)
    for taken in (several[1], several[-1], several[np.int64(1)]):
        assert_same_run(taken, alone)
    several[1].save(tmp_path / "run")
    loaded = ufm.load(tmp_path / "run")
    assert_same_run(loaded, alone)
    gone_on = (ufm.train(p, SGD, resume=run, **words) for run in (loaded, alone))
    assert_same_run(*gone_on)
    assert [claim.quantity for claim in ufm.verify(loaded).claims] == [c.quantity for c in ufm.verify(alone).claims]


def test_a_run_taken_out_ends_where_its_own_seed_diverged():
    p = problem(loss=ufm.SquaredError(), bias=False)
    steep = jax.tree.map(lambda leaf: 1e3 * leaf, p.init(1))  # far out, where a step of the same rate overshoots
    starts = jax.tree.map(lambda *leaves: np.stack(leaves), p.init(0), steep)
    several = ufm.train(p, SGD, seed=[0, 1], params=starts, steps=30, snapshots=[0, 1, 10, 30])
    assert several.status == (ufm.Status.FINISHED, ufm.Status.DIVERGED)
    assert several[0].history.step.tolist() == [0, 1, 10, 30]
    diverged = several[1]
    assert diverged.history.step.tolist() == several.history.step[: diverged.ended_at.snapshot].tolist()
    assert np.all(np.isfinite(diverged.history.loss))


def test_a_run_is_a_labelled_table():
    p = problem()
    words = {"steps": 30, "snapshots": [0, 10, 30], "precision": "float64"}
    several = ufm.train(p, SGD, seed=[1, 4], **words)
    table = several.to_xarray()
    assert (dict(table.sizes), table.nc1.dims) == ({"seed": 2, "snapshot": 3}, ("seed", "snapshot"))
    assert (table.seed.values.tolist(), table.step.values.tolist()) == ([1, 4], [0, 10, 30])
    for name in ("loss", *ufm.Metrics._fields):
        assert np.array_equal(table[name], getattr(several.history, name))
        assert table[name].attrs["long_name"]
    assert dict(zip(table.status.flag_meanings.split(), table.status.flag_values, strict=True))["finished"] == 0
    assert table.status.values.tolist() == [0, 0]
    assert json.loads(table.attrs["problem"])["fields"]["num_classes"] == 3
    assert table.attrs["precision"] == "float64"
    assert all(table.attrs[name] for name in ("versions", "command"))
    alone = several[1].to_xarray()
    assert (alone.nc1.dims, int(alone.seed), int(alone.status)) == (("snapshot",), 4, 0)
    assert np.array_equal(alone.loss, table.loss.sel(seed=4))


def test_a_table_of_a_run_has_any_seed():
    run = ufm.train(problem(), SGD, steps=5, seed=10**30, snapshots=2)
    assert str(run.to_xarray().seed.values) == str(10**30)


def test_what_is_no_seed_of_a_run_is_said():
    several, alone = (ufm.train(problem(), SGD, steps=5, snapshots=2, seed=seed) for seed in ([0, 1], 0))
    with pytest.raises(IndexError, match=r"run\[2\]: there are 2 seeds, 0 to 1"):
        several[2]
    with pytest.raises(ValueError, match="index = 'a'"):
        several["a"]
    with pytest.raises(ValueError, match="a run of one seed"):
        alone[0]
    with pytest.raises(ValueError, match=r"a run of 2 seeds; verify\(run\[i\]\)"):
        ufm.verify(several)


def test_a_run_that_goes_on_keeps_its_seed_and_takes_no_other():
    run = ufm.train(problem(), SGD, steps=5, seed=7, snapshots=2)
    assert ufm.train(problem(), SGD, steps=5, snapshots=2, resume=run).seed == 7
    for seed in (0, 7, [7]):
        with pytest.raises(ValueError, match=r"seed = .*a run that is resumed has its own, 7"):
            ufm.train(problem(), SGD, steps=5, snapshots=2, resume=run, seed=seed)


@pytest.mark.parametrize("seed", ["a", None, 1.5, True, [], [[1]], (x for x in (1,)), 1 + 0j, {1}, {1: 1}, [1, True]])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ValueError, match="seed = "):
        ufm.train(problem(), SGD, steps=5, seed=seed)


def test_parameters_of_several_seeds_have_one_entry_each():
    p = problem()
    starts = [p.init(seed) for seed in (1, 4)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *starts)
    run = ufm.train(p, SGD, steps=30, seed=[1, 4], params=stacked, snapshots=2)
    assert same(run.params, ufm.train(p, SGD, steps=30, seed=[1, 4], snapshots=2).params)
    with pytest.raises(ValueError, match=r"params with leading axes of .*\(3,\)"):
        ufm.train(p, SGD, steps=5, seed=[1, 4, 5], params=stacked)


def test_hidden_layers_are_refused_where_a_problem_has_none():
    p = problem()
    deep = p.init()._replace(W=(np.eye(4),))
    stacked = jax.tree.map(lambda leaf: leaf[None], deep)
    for use in (
        lambda: p.objective(deep),
        lambda: ufm.train(p, SGD, steps=5, params=deep),
        lambda: ufm.train(p, SGD, steps=5, seed=[0], params=stacked),
        lambda: ufm.curvature(p, deep),
        lambda: ufm.lower_bound(p, deep),
    ):
        with pytest.raises(ValueError, match=r"params\.W = .*no hidden layers"):
            use()


MAPS = pathlib.Path("/proc/self/maps")


@pytest.mark.slow
@pytest.mark.skipif(not MAPS.exists(), reason="the system doesn't say how often memory is mapped")
def test_memory_maps_stay_bounded_whatever_is_trained(monkeypatch):
    programs.forget_all()
    before = maps()
    monkeypatch.setattr(programs, "MOST_MAPS", before + 300)
    monkeypatch.setattr(programs, "FEWEST", 4)
    most = 0
    for dim in range(5, 12):  # 250 maps each
        ufm.train(problem(dim=dim), SGD, steps=3, snapshots=2)
        most = max(most, maps())
    assert most < before + 1000


def maps():
    return MAPS.read_bytes().count(b"\n")
