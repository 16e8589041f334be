import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import CancelledError

import jax
import numpy as np
import optax
import pytest

import ufm
from ufm import training
from ufm._core import interrupts
from ufm._core.interrupts import Threads, check, ending, interruptible
from ufm.minima import solver

LONG = 20  # seconds that an answer may take on a busy machine; the work itself takes far more
SHAPE = ["--num-classes", "3", "--dim", "4", "--per-class", "5", "--lambda-H", "1e-2"]


def until_given_up(stopped):
    try:
        while True:
            check()
            time.sleep(0.001)
    except CancelledError:
        stopped.set()
        raise


def interrupted(stopped):
    os.kill(os.getpid(), signal.SIGINT)
    until_given_up(stopped)


def test_an_interrupt_leaves_work_which_stops_at_its_next_check():
    stopped, told = threading.Event(), []

    def work():
        with ending(lambda: told.append(threading.current_thread())):
            interrupted(stopped)

    with pytest.raises(KeyboardInterrupt):
        interruptible(work)()
    assert told == [threading.main_thread()]
    assert stopped.wait(LONG)


def test_work_within_work_is_given_up_with_it():
    stopped = threading.Event()

    def outer():
        with Threads(1) as inner:
            inner.submit(interrupted, stopped).result()

    with pytest.raises(KeyboardInterrupt):
        interruptible(outer)()
    assert stopped.wait(LONG)


def test_an_interrupt_says_what_it_leaves():
    stopped = threading.Event()
    with pytest.raises(KeyboardInterrupt) as error:
        interruptible(interrupted, note="half a cake")(stopped)
    assert error.value.__notes__ == ["half a cake"]
    assert stopped.wait(LONG)


def test_threads_work_in_the_scopes_of_whoever_asks():
    def seen():
        return [getattr(jax.config, name) for name in (*interrupts.SCOPES, "jax_disable_jit")], np.geterr()["over"]

    usual = interruptible(seen)()
    device, precision = jax.default_device(jax.devices()[0]), jax.default_matmul_precision("highest")
    scopes = jax.enable_x64(True), device, precision, jax.disable_jit()
    with contextlib.ExitStack() as stack:
        for scope in (*scopes, jax.debug_nans(True), np.errstate(over="ignore")):
            stack.enter_context(scope)
        expected = seen()
        assert interruptible(seen)() == expected
        with Threads(1) as threads:
            assert threads.submit(seen).result() == expected
    assert expected != usual
    assert interruptible(seen)() == usual


def test_errors_surface_with_where_they_were_raised():
    def culprit():
        raise ZeroDivisionError("of ours")

    with pytest.raises(ZeroDivisionError, match="of ours") as error:
        interruptible(culprit)()
    assert "in culprit" in "".join(traceback.format_exception(error.value))


def test_work_of_other_threads_stays_there():
    with Threads(1) as threads:
        outer = threads.submit(lambda: (threading.get_ident(), interruptible(threading.get_ident)())).result()
    assert outer[0] == outer[1]
    assert interruptible(threading.get_ident)() != threading.get_ident()


@pytest.mark.parametrize("snapshots", [6, [0, 3, 50], [7, 40]])
@pytest.mark.parametrize("seed", [0, [0, 1]])
def test_training_is_the_same_bits_however_its_calls_are_split(seed, snapshots, monkeypatch):
    problem, optimizer = ufm.Problem(3, 4, per_class=[9, 4, 2]), optax.sgd(0.5, momentum=0.9)

    def train():
        return ufm.train(problem, optimizer, steps=50, seed=seed, snapshots=snapshots)

    whole = train()
    monkeypatch.setattr(training, "FIRST_STEPS", 3)
    monkeypatch.setattr(interrupts, "GOAL", 0.0)
    split = train()
    kept = [(run.params, run.history, run.ended_at, run.optimizer_state, run.steps) for run in (whole, split)]
    for one, other in zip(*map(jax.tree.leaves, kept), strict=True):
        np.testing.assert_array_equal(one, other)
    assert split.status == whole.status


def test_minima_are_the_same_bits_however_iterations_are_split(monkeypatch):
    problem = ufm.Problem(3, 4, per_class=[9, 4, 2])
    whole = ufm.minimize(problem)
    monkeypatch.setattr(solver, "FIRST_ITERATIONS", 2)
    monkeypatch.setattr(interrupts, "GOAL", 0.0)
    split = ufm.minimize(problem)
    assert (split.value, split.lower_bound, split.steps) == (whole.value, whole.lower_bound, whole.steps)
    np.testing.assert_array_equal(split.means, whole.means)


def answer(script, ready=None):
    """Run a script, interrupt it once it has printed a line and is ready; its exit code and what it wrote."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], env=environment, **pipes) as process:
        try:
            assert process.stdout.readline() == "go\n"
            until = time.monotonic() + 120
            while ready is not None and not ready() and time.monotonic() < until:
                time.sleep(0.05)
            time.sleep(1.0)  # into the compiler
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=LONG)
        finally:
            process.kill()
    return process.returncode, out, err


def command(*arguments):
    return f"import sys, ufm.cli; print('go', flush=True); sys.exit(ufm.cli.main({[*map(str, arguments)]!r}))"


def test_a_script_ends_as_python_ends_it_while_a_program_compiles():
    problem = "ufm.Problem(60, 64, per_class=100, lambda_A=1e-5, lambda_H=1e-6, features=ufm.Nonnegative())"
    code, _, err = answer(f"import ufm; print('go', flush=True); ufm.minimize({problem})")
    assert code in (interrupts.INTERRUPTED, -signal.SIGINT)
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert "Fatal" not in err


def test_a_command_says_that_training_left_nothing():
    code, _, err = answer(command("train", *SHAPE, "--steps", 10**9, "--snapshots", 2))
    assert code == interrupts.INTERRUPTED
    assert err == "ufm: interrupted; nothing was written\n"


def test_a_command_says_that_a_sweep_goes_on(tmp_path):
    store = tmp_path / "s.zarr"
    over = ["--run", "sgd", "--steps", 10**9, "--snapshots", 2, "--over", "learning_rate=0.1,0.2", "--store", store]
    code, _, err = answer(command("sweep", *SHAPE, *over), pathlib.Path(store, "batches", ".zattrs").exists)
    assert code == interrupts.INTERRUPTED
    assert err == f"ufm: interrupted; the same command goes on from what is stored in {store}\n"


@pytest.mark.parametrize("where", ["Theorems.__call__", "tyro.extras.subcommand_cli_from_dict"])
def test_a_command_ends_at_once_whenever_and_however_often_it_is_interrupted(where):
    script = f"""
import atexit, signal, sys, time
atexit.register(time.sleep, 600)  # as the interpreter's end may take long

class Impatient:
    def write(self, text):
        signal.raise_signal(signal.SIGINT)
        return sys.__stderr__.write(text)

    def flush(self):
        sys.__stderr__.flush()

import ufm.cli
ufm.cli.{where} = lambda *_, **__: signal.raise_signal(signal.SIGINT)
sys.stderr = Impatient()
sys.exit(ufm.cli.main(["theorems"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (interrupts.INTERRUPTED, "ufm: interrupted\n")
