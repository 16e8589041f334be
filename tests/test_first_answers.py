"""The first answer needs no compiler: NumPy gives it, and the same as the programs do."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from zoo import ZOO

import ufm
from ufm._core.precision import float64
from ufm.model.params import columns
from ufm.model.problem import risk

FRESH = """
import jax.monitoring, jax.numpy
compiled = []

def heard(event, seconds, **about):
    if event.startswith("/jax/core/compile"):
        compiled.append(f"{event.rpartition('/')[2]} of {about.get('fun_name')}")

jax.monitoring.register_event_duration_secs_listener(heard)

import contextlib, io
import numpy as np
import ufm, ufm.cli
from zoo import ZOO

def once(what, answer):
    compiled.clear()
    answer()
    if compiled:
        print(what, *compiled[:3])

for name, p in ZOO.items():
    q = p.init(0)
    once(f"init of {name}", lambda: p.init(1))
    once(f"objective of {name}", lambda: p.objective(q))
    once(f"predict of {name}", lambda: ufm.predict(p))
    once(f"minimize of {name}", lambda: ufm.minimize(p))
    once(f"lower bound of {name}", lambda: ufm.lower_bound(p, q))
    if name != "focal":
        once(f"verify of {name}", lambda: ufm.verify(p))
    if name != "focal":  # whose curvature isn't declared
        once(f"curvature of {name}", lambda: ufm.curvature(p, q))
    for dtype in (np.float32, np.float64):
        H, A, b = (x.astype(dtype) for x in (q.H, q.A, q.b))
        once(f"measure of {name}", lambda: ufm.measure(H, p.labels, A, b))
        once(f"evaluate of {name}", lambda: ufm.metrics.evaluate(H, p.labels, A, b))
    of_jax = jax.numpy.asarray(H, dtype=np.float32)
    once(f"measure of {name}, of JAX's arrays", lambda: ufm.measure(of_jax, p.labels, A, b))

def streamed():
    recorder = ufm.Recorder(p.num_classes)
    recorder.add(q.H, p.labels)
    recorder.revisit(q.H, p.labels, q.A, q.b)
    recorder.epoch()

once("recorder", streamed)
with contextlib.redirect_stdout(io.StringIO()):
    once("ufm verify", lambda: ufm.cli.main(["verify"]))
"""


def test_nothing_is_compiled_for_small_arrays_in_a_fresh_process():
    here = str(pathlib.Path(__file__).parent)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {here!r})\n{FRESH}"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr


@pytest.mark.parametrize("name", ZOO)
def test_the_objective_is_the_same_in_numpy_and_in_jax(name):
    p, q = ZOO[name], ZOO[name].init(3)
    with float64():
        of_jax = risk(p, columns(jax.tree.map(jnp.asarray, q)))
        assert isinstance(of_jax, jax.Array)
        assert_allclose(p.objective(q), np.asarray(of_jax), rtol=1e-12)


# few classes are summed over by products, many by scattering
@pytest.mark.parametrize(("K", "dtype"), [(3, np.float32), (70, np.float64)])
def test_metrics_are_the_same_at_once_and_by_programs(K, dtype):
    random = np.random.default_rng(K)
    labels = random.permutation(np.repeat(np.arange(K), 3))
    H = (random.normal(size=(K, 8))[labels] + 0.1 * random.normal(size=(3 * K, 8))).astype(dtype)
    A, b = random.normal(size=(K, 8)), random.normal(size=K)
    at_once = ufm.measure(H, labels, A, b)
    with jax.enable_x64(dtype == np.float64):
        by_programs = jax.jit(ufm.metrics.evaluate)(H, labels, A, b)
    for one, other in zip(at_once, by_programs, strict=True):
        assert (one.dtype, other.dtype) == (np.float64, dtype)
        assert_allclose(one, other, rtol=1e-12 if dtype == np.float64 else 1e-4)
