import dataclasses
import errno
import functools
import json
import multiprocessing
import os
import pathlib
import platform
import random
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import optax
import pytest
import xarray
import zarr
from zoo import problem

import ufm
from ufm._core import identity, lanes
from ufm.minima import optimum
from ufm.sweeps import grid as sweeps
from ufm.sweeps import minimizing, store

DECAYS = np.geomspace(1e-4, 1e-2, 10).tolist()
OVER = {"lambda_A": DECAYS, "seed": range(4)}
SMOOTHED = ufm.LabelSmoothing(0.1)
SCRIPT = """
import sys, numpy as np, ufm
from ufm.minima import optimum
from ufm.sweeps import store
optimum.BATCHES = (8,)
store.FIRST_PUBLISHED = 0.0
problem = ufm.Problem(num_classes=3, dim=4, per_class=5, lambda_A=1e-2, lambda_H=1e-2)
over = {"lambda_A": np.geomspace(1e-4, 1e-2, 10).tolist(), "seed": range(4)}
ufm.sweep(problem, over, store=sys.argv[1])
"""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(optimum, "BATCHES", (8,))


@pytest.fixture(scope="module")
def reference():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimum, "BATCHES", (8,))
        return ufm.sweep(problem(), OVER)


def same(table, reference):
    xarray.testing.assert_equal(table, reference)


def opened(path):
    with xarray.open_zarr(path) as table:
        return table.load()


def test_a_point_is_a_single_minimisation(reference):
    for decay in DECAYS[::4]:
        point, best = reference.sel(lambda_A=decay, seed=1), ufm.minimize(problem(lambda_A=decay), seed=1)
        assert float(point["value"]) == pytest.approx(best.value, rel=1e-12)
        assert float(point.gap) < 1e-8
        assert bool(point.certified) == best.certified
        assert float(point.nc2) == pytest.approx(best.metrics.nc2, abs=1e-8)
    assert reference.certified.all()
    assert reference.value.dims == ("lambda_A", "seed")


def test_dataset_says_what_made_it(reference):
    assert json.loads(reference.attrs["problem"])["fields"]["num_classes"] == 3
    assert "jax" in reference.attrs["versions"]
    assert reference.attrs["precision"] == "float64"
    assert reference.attrs["command"]
    assert all(variable.attrs["long_name"] for variable in reference.data_vars.values())
    states = dict(zip(reference.status.flag_values, reference.status.flag_meanings.split(), strict=True))
    assert states == {-1: "pending", 0: "converged", 1: "max_steps", 2: "diverged"}
    assert set(ufm.Metrics._fields) < set(reference)


def test_parts_and_counts_are_swept(tmp_path):
    over = {"loss.alpha": [0.1, 0.2], "per_class": [5, (5, 3, 2)]}
    table = ufm.sweep(problem(loss=ufm.LabelSmoothing(0.1)), over, store=tmp_path / "s.zarr", params=True)
    assert table.sizes == {"loss.alpha": 2, "per_class": 2, "sample": 15, "axis": 4, "class": 3}
    one = problem(loss=ufm.LabelSmoothing(0.2), per_class=[5, 3, 2])
    found = table.sel({"loss.alpha": 0.2, "per_class": "5,3,2"})
    assert float(found["value"]) == pytest.approx(ufm.minimize(one).value, rel=1e-12)
    params = ufm.Params(found.H.values[:10], found.A.values, found.b.values)
    assert float(one.objective(params)) == pytest.approx(float(found["value"]), rel=1e-12)
    assert np.isnan(found.H.values[10:]).all()
    xarray.testing.assert_identical(opened(tmp_path / "s.zarr"), table)


def test_shapes_and_kinds_are_swept():
    over = {("loss", "dim"): [(ufm.CrossEntropy(), 2), (ufm.CrossEntropy(), 4), (ufm.SquaredError(), 4)], "seed": [0]}
    table = ufm.sweep(problem(), over, params=True)
    assert table.sizes == {"loss,dim": 3, "seed": 1, "sample": 15, "axis": 4, "class": 3}
    assert [name.split("(")[0] for name in table.loss.values.tolist()] == ["CrossEntropy"] * 2 + ["SquaredError"]
    for index, best in enumerate([ufm.minimize(problem(dim=2)), ufm.minimize(problem())]):
        assert float(table["value"][index, 0]) == pytest.approx(best.value, rel=1e-12)
    assert np.isnan(table.A.values[0, 0, :, 2:]).all()


def test_zipped_names_share_a_dimension():
    table = ufm.sweep(problem(), {("lambda_A", "lambda_H"): [(1e-2, 1e-3), (1e-3, 1e-2)], "seed": [0]})
    assert table.sizes == {"lambda_A,lambda_H": 2, "seed": 1}
    assert table.lambda_H.dims == ("lambda_A,lambda_H",)
    point = table.isel({"lambda_A,lambda_H": 1, "seed": 0})
    best = ufm.minimize(problem(lambda_A=1e-3, lambda_H=1e-2))
    assert float(point["value"]) == pytest.approx(best.value, rel=1e-12)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"lambda": [1.0]}, r"no 'lambda' to sweep over; there are num_classes, .*lambda_A.*, seed$"),
        ({"learning_rate": [1.0]}, "no 'learning_rate'"),
        ({"loss.alpha": [1.0]}, r"no 'loss.alpha'"),
        ({"lambda_A": []}, "has no values"),
        ({"lambda_A": 3.0}, "a list of values is needed"),
        ({("lambda_A", "lambda_H"): [1.0]}, "tuples of as many values"),
        ({("lambda_A", "seed"): [(1.0, 1)], "seed": [1]}, "'seed' stands in it twice"),
        ({"lambda_A": [1e-2, -1.0]}, r"lambda_A = -1.0"),
        ({"seed": [0.5]}, r"seed = 0.5"),
        ({}, r"over = {}: a dict is needed"),
        (None, r"over = None: a dict is needed"),
        ([("seed", [0])], r"over = \[.*: a dict is needed"),
        ({(): [()]}, r"over: \(\): a name, or a tuple of names, is needed"),
        ({"": [0]}, r"over: '': a name"),
        ({3: [0]}, r"over: 3: a name"),
        ({("lambda_A", 3): [(0, 1)]}, r"over: \('lambda_A', 3\): a name"),
        ({"lambda_A": np.array(1e-2)}, "a list of values is needed"),
        ({"lambda_A": {1e-2: "small"}}, "a list of values is needed"),
        ({"lambda_A": b"1"}, "a list of values is needed"),
        ({("lambda_A", "seed"): [(1e-2, 0), (1e-2,)]}, r"\(0.01,\) among the values; tuples of as many values"),
        ({("lambda_A", "seed"): ["ab"]}, "tuples of as many values"),
        ({"features.radius": [1.0]}, r"no 'features.radius' to sweep over; there are .*loss"),
        (
            {"loss": [ufm.LabelSmoothing(0.1), ufm.SquaredError()], "loss.alpha": [0.1]},
            r"over: loss.alpha: loss = SquaredError\(.*does not have it",
        ),
    ],
)
def test_what_cannot_be_swept_is_refused(over, message):
    with pytest.raises(ValueError, match=message):
        ufm.sweep(problem(), over)


def test_elements_of_a_tuple_may_be_tuples():
    over = {("per_class", "lambda_A"): [([5, 3, 2], 1e-3), (7, 1e-2)], ("loss", "loss.alpha"): [(SMOOTHED, 0.3)]}
    plan = sweeps._plan(problem(), over, ufm.minimize, False)
    one, two = (point.problem for point in plan.points)
    assert (one.per_class, one.lambda_A, one.loss.alpha) == ((5, 3, 2), 1e-3, 0.3)
    assert (two.per_class, two.lambda_A, two.loss.alpha) == (7, 1e-2, 0.3)
    found = plan.dataset(np.zeros((2, plan.width)), [plan.maker()])
    assert found.per_class.values.tolist() == ["5,3,2", "7"]
    assert found.lambda_A.values.tolist() == [1e-3, 1e-2]


@pytest.mark.parametrize("store", [1, True, [], "", 1.5, b""])
def test_a_store_is_a_path(store):
    with pytest.raises(ValueError, match=rf"store = {re.escape(repr(store))}: a path is needed"):
        ufm.sweep(problem(), {"seed": [0]}, store=store)


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.Store(
        "~/s.zarr", sweeps._plan(problem(), {"seed": [0]}, ufm.minimize, False), np.array([[0]])
    ).path == (tmp_path / "s.zarr")


@pytest.mark.parametrize("words", [{"problem": None}, {"problem": "p"}, {"params": 1}, {"progress": "yes"}])
def test_other_arguments_of_a_sweep_are_checked(words):
    ((name, value),) = words.items()
    with pytest.raises(ValueError, match=rf"{name} = {value!r}: "):
        ufm.sweep(**{"problem": problem(), "over": {"seed": [0]}, **words})


@pytest.mark.parametrize("executor", [1, "threads", ThreadPoolExecutor, map])
def test_an_executor_has_submit(executor, tmp_path):
    with pytest.raises(ValueError, match=r"executor = .*the submit of concurrent.futures.Executor, or None, is needed"):
        ufm.sweep(problem(), {"seed": [0]}, executor=executor, store=tmp_path / "s.zarr")
    assert not list(tmp_path.iterdir())


def test_an_executor_that_is_shut_down_is_refused():
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(ValueError, match=r"executor = .*: takes no work: .*after shutdown"):
        ufm.sweep(problem(), {"seed": [0]}, executor=pool)


def test_run_is_checked(reference):
    with pytest.raises(ValueError, match=r"ufm\.Training is needed"):
        ufm.sweep(problem(), {"seed": [0]}, run=ufm.train)
    loose = ufm.sweep(problem(), {"seed": [0]}, run=functools.partial(ufm.minimize, max_steps=500))
    assert float(loose["value"][0]) == pytest.approx(ufm.minimize(problem()).value, rel=1e-12)
    with pytest.raises(ValueError, match="no 'rate' among those of the optimizer, learning_rate"):
        ufm.Training(optax.sgd, {"rate": 0.1})
    with pytest.raises(ValueError, match="a function of options"):
        ufm.Training(optax.sgd(0.1))
    with pytest.raises(ValueError, match="precision"):
        ufm.Training(optax.sgd, precision="float16")


def test_training_is_swept_over_its_options(tmp_path, monkeypatch):
    training = ufm.Training(optax.sgd, {"learning_rate": 0.5, "momentum": 0.9}, steps=40, snapshots=5)
    over = {"learning_rate": [0.1, 0.5, 1e9], "lambda_A": [1e-3, 1e-2], "seed": range(2)}
    traces = []
    advance = ufm.training._advance
    monkeypatch.setattr(ufm.training, "_advance", lambda *a: traces.append(0) or advance(*a))
    fresh = functools.cache(ufm.training._compiled.__wrapped__)  # others' programs are left alone
    monkeypatch.setattr(ufm.training, "_compiled", fresh)
    table = ufm.sweep(problem(), over, run=training, store=tmp_path / "s.zarr", params=True)
    assert len(traces) == 1
    assert table.loss.dims == ("learning_rate", "lambda_A", "seed", "snapshot")
    assert table.step.values.tolist() == ufm.training.schedule(40, 5)
    run = ufm.train(problem(lambda_A=1e-3), optax.sgd(0.1, momentum=0.9), steps=40, seed=1, snapshots=5)
    point = table.sel(learning_rate=0.1, lambda_A=1e-3, seed=1)
    np.testing.assert_allclose(point.nc1, run.history.nc1, rtol=1e-5)
    np.testing.assert_allclose(point.H, run.params.H, rtol=1e-4, atol=1e-6)
    assert (table.status.sel(learning_rate=1e9) == 1).all()
    assert (table.status.sel(learning_rate=0.5) == 0).all()
    xarray.testing.assert_identical(opened(tmp_path / "s.zarr"), table)


def test_the_content_of_an_optimiser_is_found_once_for_all_points_of_a_batch(monkeypatch):
    found, digest = [], identity.identity
    monkeypatch.setattr(identity, "identity", lambda value: found.append(type(value)) or digest(value))
    training = ufm.Training(optax.sgd, {"momentum": 0.9}, steps=40, snapshots=5)
    table = ufm.sweep(problem(), {"learning_rate": [0.1, 0.2, 0.5, 1.0]}, run=training)
    assert found.count(optax.GradientTransformationExtraArgs) == 1
    assert len(np.unique(table.loss.values[:, -1])) == 4


def test_training_is_swept_over_what_needs_another_program():
    training = ufm.Training(
        optax.sgd, {"learning_rate": 0.1, "momentum": 0.9}, steps=10, snapshots=2, precision="float64"
    )
    over = {"nesterov": [True, False], "loss": [ufm.CrossEntropy(), ufm.SquaredError()]}
    table = ufm.sweep(problem(), over, run=training)
    run = ufm.train(problem(), optax.sgd(0.1, 0.9, nesterov=True), steps=10, snapshots=2, precision="float64")
    assert table.objective.values[0, 0, -1] == pytest.approx(run.history.loss[-1], rel=1e-12)
    assert table.attrs["precision"] == "float64"


def test_store_is_resumed_and_has_no_objects(reference, tmp_path, monkeypatch):
    path = tmp_path / "s.zarr"
    solve, calls = minimizing.Minimizing.solve, []

    def interrupted(*arguments):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return solve(*arguments)

    monkeypatch.setattr(minimizing.Minimizing, "solve", interrupted)
    monkeypatch.setattr(lanes, "all_places", functools.partial(lambda places: places[:1], lanes.all_places()))
    with pytest.raises(KeyboardInterrupt):
        ufm.sweep(problem(), OVER, store=path)
    part = opened(path)
    assert int((part.status >= 0).sum()) == 16
    assert int(np.isnan(part["value"]).sum()) == 24
    for batches in (3, 0):
        begun = len(calls)
        same(ufm.sweep(problem(), OVER, store=path), reference)
        assert len(calls) == begun + batches
    for _, array in zarr.open_group(path, mode="r").arrays():
        assert not array.dtype.hasobject
        assert [each.codec_id for each in array.metadata.filters] == ["crc32"]


def test_another_sweep_on_a_store_is_refused(tmp_path):
    path = tmp_path / "s.zarr"
    over = {"lambda_A": [1e-3, 1e-2]}
    ufm.sweep(problem(), over, store=path)
    for other, run, message in (
        (problem(lambda_H=2e-2), ufm.minimize, r"problem.lambda_H is 0.01 there and 0.02 here"),
        (problem(dim=3), ufm.minimize, r"problem.dim is 4 there and 3 here"),
        (problem(), functools.partial(ufm.minimize, tol=1e-6), r"run.tol is 1e-08 there and 1e-06 here"),
        (problem(), ufm.Training(optax.sgd, {"learning_rate": 0.1}), r"run.training.fields.*here"),
    ):
        with pytest.raises(ValueError, match=message):
            ufm.sweep(other, over, run=run, store=path)
    with pytest.raises(ValueError, match=r"over.lambda_A is \[\[0.001\], \[0.01\]\] there and \[\[0.001\]\] here"):
        ufm.sweep(problem(), {"lambda_A": [1e-3]}, store=path)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ValueError, match=r"a new folder, or one written by ufm.sweep"):
        ufm.sweep(problem(), {"seed": [0]}, store=tmp_path)
    with pytest.raises(OSError, match=r"notes.s.zarr': Not a directory"):
        ufm.sweep(problem(), {"seed": [0]}, store=tmp_path / "notes" / "s.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes"]


def test_a_full_disk_keeps_what_is_finished(reference, tmp_path, monkeypatch):
    path = tmp_path / "s.zarr"
    write, written = pathlib.Path.write_bytes, []

    def full(target, data):
        if target.parent.name == "table" and target.name[0].isdigit():
            written.append(target)
            if len(written) > 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(target, data)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "write_bytes", full)
        with pytest.raises(OSError, match=r"No space left on device; finished batches are kept") as raised:
            ufm.sweep(problem(), OVER, store=path)
        assert raised.value.errno == errno.ENOSPC
    assert int((opened(path).status >= 0).sum()) == 16
    same(ufm.sweep(problem(), OVER, store=path), reference)


def test_a_batch_whose_variables_cannot_be_written_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "s.zarr"

    def full(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(store, "FIRST_PUBLISHED", -1.0)
        patch.setattr(store.Store, "_publish", full)
        with pytest.raises(OSError, match=r"No space left on device; finished batches are kept"):
            ufm.sweep(problem(), {"seed": range(4)}, store=path)
    assert finished(path) == 1


def test_killed_at_any_moment_it_goes_on(reference, tmp_path):
    path, draw, times = tmp_path / "s.zarr", random.Random(0), []
    for more in (0, 2):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, path], cwd=tmp_path)
        while process.poll() is None and finished(path) <= more:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert finished(path) > more
        opened(path)
        times.append((path / "batches" / "done" / "0").stat().st_mtime_ns)
    assert times[0] == times[1]
    same(ufm.sweep(problem(), OVER, store=path), reference)
    same(opened(path), reference)


def test_a_store_begun_with_other_versions_is_finished_where_this_is_asked_for(tmp_path, monkeypatch):
    path, over, versions = tmp_path / "s.zarr", {"seed": range(16)}, sweeps.versions
    monkeypatch.setattr(lanes, "all_places", functools.partial(lambda places: places[:1], lanes.all_places()))
    with monkeypatch.context() as patch:
        patch.setattr(sweeps, "versions", lambda: {**versions(), "jax": "0.1"})
        done_first(1, patch)
        with pytest.raises(KeyboardInterrupt):
            ufm.sweep(problem(), over, store=path)
    with pytest.raises(ValueError, match=r"""versions.jax is "0.1" there .* versions='any'"""):
        ufm.sweep(problem(), over, store=path)
    with pytest.raises(ValueError, match="versions = 'all': one of 'same', 'any' is needed"):
        ufm.sweep(problem(), over, store=path, versions="all")
    table = ufm.sweep(problem(), over, store=path, versions="any")
    assert (table.status >= 0).all()
    made_by = [" ".join(f"{n} {v}" for n, v in each.items()) for each in ({**versions(), "jax": "0.1"}, versions())]
    assert table.attrs["versions"] == "; ".join(made_by)
    xarray.testing.assert_identical(opened(path), table)
    with pytest.raises(ValueError, match="other versions made what it holds"):
        ufm.sweep(problem(), over, store=path)


def done_first(batches, patch):
    """Interrupt a sweep after some batches."""
    solve, calls = minimizing.Minimizing.solve, []

    def interrupted(*arguments):
        calls.append(0)
        if len(calls) > batches:
            raise KeyboardInterrupt
        return solve(*arguments)

    patch.setattr(minimizing.Minimizing, "solve", interrupted)


def test_damage_to_a_store_is_said_and_mended(reference, tmp_path):
    path = tmp_path / "s.zarr"
    same(ufm.sweep(problem(), OVER, store=path), reference)
    (path / "batches" / "table" / "1.0.0").unlink()
    flip(path / "batches" / "table" / "3.0.0")
    (path / "nc1" / "0.0").unlink()
    flip(path / "value" / "0.0")
    with pytest.warns(UserWarning, match="missing or damaged") as said:
        same(ufm.sweep(problem(), OVER, store=path), reference)
    said = [str(each.message) for each in said]
    assert any(f"{str(path)!r}: 2 of 5 batches were missing or damaged" in each for each in said)
    assert any(f"{str(path)!r}: 2 files were missing or damaged" in each and "nc1/0.0" in each for each in said)
    same(opened(path), reference)


def flip(file, bit=77):
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def finished(path):
    return sum(file.name.isdigit() for file in (path / "batches" / "done").glob("*"))


def test_a_second_process_is_refused_unless_all_is_there(tmp_path):
    path, over = tmp_path / "s.zarr", {"seed": [0]}
    before = ufm.sweep(problem(), over, store=path)
    hold = f"import ufm._core.lock, pathlib; lock = ufm._core.lock.hold(pathlib.Path({str(path / 'batches/done')!r}))"
    hold += "; print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        same(ufm.sweep(problem(), over, store=path), before)
        (path / "batches" / "done" / "0").unlink()
        with pytest.raises(BlockingIOError, match=rf"{path}': in use by process {other.pid} on {platform.node()}"):
            ufm.sweep(problem(), over, store=path)
        other.kill()
    same(ufm.sweep(problem(), over, store=path), before)


def test_threads_give_the_same_bits(reference, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        same(ufm.sweep(problem(), OVER, store=tmp_path / "s.zarr", executor=pool), reference)


def test_processes_give_the_same_bits(reference, tmp_path):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        same(ufm.sweep(problem(), OVER, store=tmp_path / "s.zarr", executor=pool), reference)


@pytest.mark.filterwarnings("default:a worker failed")
def test_a_dead_worker_loses_nothing(reference):
    class Dying(ProcessPoolExecutor):
        def submit(self, fn, /, *arguments):
            return super().submit(os.abort)

    with Dying(1, mp_context=multiprocessing.get_context("spawn")) as pool, pytest.warns(UserWarning, match="Broken"):
        same(ufm.sweep(problem(), OVER, executor=pool), reference)


def test_an_error_of_a_batch_is_raised_here():
    class Failing:
        def submit(self, fn, /, *arguments):
            future = Future()
            future.set_exception(RuntimeError("no memory there"))
            return future

    with pytest.warns(UserWarning, match="no memory there"):
        table = ufm.sweep(problem(), {"seed": [0]}, executor=Failing())
    assert table.certified.all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_dask_gives_the_same_bits(reference, tmp_path):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.run_on_scheduler(lambda: None)
        same(ufm.sweep(problem(), OVER, store=tmp_path / "s.zarr", executor=client.get_executor()), reference)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_dask_worker_killed_in_the_middle_loses_nothing(reference, tmp_path):
    distributed = pytest.importorskip("distributed")
    path = tmp_path / "s.zarr"
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
        ThreadPoolExecutor(1) as aside,
    ):
        pids = client.run(os.getpid)

        def kill():
            while not path.exists() or not finished(path):
                time.sleep(0.005)
            busy = next(worker for worker, tasks in client.processing().items() if tasks)
            os.kill(pids[busy], signal.SIGKILL)
            return finished(path)

        class Slow:  # so that workers have batches left when the first has ended
            def submit(self, function, *arguments):
                def slowly():
                    time.sleep(0.5)
                    return function(*arguments)

                return client.get_executor().submit(slowly)

        killing = aside.submit(kill)
        same(ufm.sweep(problem(), OVER, store=path, executor=Slow()), reference)
        assert 0 < killing.result() < 5
    same(opened(path), reference)


def test_importing_ufm_imports_nothing_slow():
    code = "import sys, ufm; print([n for n in ('xarray', 'zarr', 'rich', 'matplotlib') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_places_give_the_same_bits(reference, monkeypatch):
    monkeypatch.setattr(lanes, "all_places", functools.partial(lambda places: places[:1] * 5, lanes.all_places()))
    same(ufm.sweep(problem(), OVER), reference)


def margin(target):
    return lambda z, y: (z[y] - target) ** 2


SHORT = ufm.Training(optax.sgd, {"learning_rate": 0.1}, steps=5, snapshots=2)


def test_a_store_tells_functions_of_one_name_apart(tmp_path):
    path, over = tmp_path / "s.zarr", {"seed": [0]}
    table = ufm.sweep(problem(loss=margin(1.0)), over, run=SHORT, store=path)
    same(ufm.sweep(problem(loss=margin(1.0)), over, run=SHORT, store=path), table)
    for field, other in (("problem.loss", margin(2.0)), ("problem.loss", margin(1)), ("problem.loss", Focal(1.0))):
        with pytest.raises(ValueError, match=rf"{field}.*<lambda> \(content .* there and "):
            ufm.sweep(problem(loss=other), over, run=SHORT, store=path)
    same(ufm.sweep(problem(loss=margin(1.0)), over, run=SHORT, store=path), table)


def test_a_users_own_class_is_not_taken_for_one_of_ours(tmp_path):
    path, over = tmp_path / "s.zarr", {"seed": [0]}
    ufm.sweep(problem(loss=Focal(1.0)), over, run=SHORT, store=path)
    for other in (ufm.Focal(1.0), Focal(2.0)):
        with pytest.raises(ValueError, match=r"problem.loss.*Focal \(content .* there"):
            ufm.sweep(problem(loss=other), over, run=SHORT, store=path)


@dataclasses.dataclass(frozen=True)
class Focal:
    gamma: float

    def __call__(self, z, y):
        return self.gamma * (z[y] - 1.0) ** 2


def rated(rate):
    return lambda step: rate


def longer(value):
    weights = np.zeros(2000)
    weights[1000] = value
    return weights


def decayed(weights):
    return optax.sgd(float(weights.sum()))


class Nameless:
    def __init__(self, rate):
        self.rate = rate

    def __call__(self, step):
        return self.rate

    def __repr__(self):
        return "schedule"


@pytest.mark.parametrize(
    ("optimizer", "name", "make"),
    [(optax.sgd, "learning_rate", rated), (optax.sgd, "learning_rate", Nameless), (decayed, "weights", longer)],
)
def test_options_are_compared_by_value(optimizer, name, make, tmp_path):
    def swept(value, **words):
        training = ufm.Training(optimizer, {name: make(value)}, steps=5, snapshots=2)
        return ufm.sweep(problem(), {"seed": [0]}, run=training, **words)

    rates = {rate: swept(rate, store=tmp_path / f"{rate}.zarr") for rate in (0.1, 0.5)}
    for rate, table in rates.items():
        run = ufm.train(problem(), optax.sgd(rate), steps=5, snapshots=2)
        np.testing.assert_allclose(table.loss[0], run.history.loss, rtol=1e-6)
        same(swept(rate, store=tmp_path / f"{rate}.zarr"), table)
    with pytest.raises(ValueError, match=r"holds another sweep: run.training.fields.options"):
        swept(0.1, store=tmp_path / "0.5.zarr")


def test_what_cannot_be_told_apart_is_swept_without_a_store_only(tmp_path):
    lock = threading.Lock()

    def loss(z, y):
        return (z[y] - (1.0 if lock else 0.0)) ** 2

    over = {"seed": [0]}
    with pytest.raises(ValueError, match=r"problem: .*a lock, whose content can't be read, so that a store"):
        ufm.sweep(problem(loss=loss), over, run=SHORT, store=tmp_path / "s.zarr")
    ufm.sweep(problem(), over, run=SHORT, store=tmp_path / "s.zarr")
    assert np.all(ufm.sweep(problem(loss=loss), over, run=SHORT).loss > 0)


def test_swept_functions_have_labels_of_their_own():
    first, second = margin(1.0), margin(2.0)
    losses = [first, second, margin(1.0), ufm.CrossEntropy(), ufm.CrossEntropy()]
    labels = sweeps._coordinate(losses).tolist()
    assert labels == ["<lambda> 0", "<lambda> 1", "<lambda> 0", "CrossEntropy()", "CrossEntropy()"]
    table = ufm.sweep(problem(), {"loss": [second, first]}, run=SHORT)
    run = ufm.train(problem(loss=first), optax.sgd(0.1), steps=5, snapshots=2)
    np.testing.assert_allclose(table.objective.sel(loss="<lambda> 1"), run.history.loss, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "over", "message"),
    [
        (["learning_rate"], {}, r"options = \['learning_rate'\]"),
        ("fast", {}, "options = 'fast'"),
        ({"learning_rate": "fast"}, {}, "learning_rate = 'fast'"),
        ({}, {}, "options: 'learning_rate' is missing"),
        ({}, {"momentum": [0.9]}, "options: 'learning_rate' is missing"),
    ],
)
def test_options_are_checked_before_anything_runs(options, over, message):
    with pytest.raises(ValueError, match=message):
        ufm.sweep(problem(), {"seed": [0], **over}, run=ufm.Training(optax.sgd, options, steps=5, snapshots=2))


def test_seeds_of_more_than_64_bits_are_kept(tmp_path):
    table = ufm.sweep(problem(), {"seed": [1, 2**70]}, store=tmp_path / "store")
    assert table.seed.values.tolist() == ["1", str(2**70)]
    assert table.equals(ufm.sweep(problem(), {"seed": [1, 2**70]}, store=tmp_path / "store"))
