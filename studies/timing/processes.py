"""Code in processes of its own: how long it takes, and the memory that it needs at most."""

import subprocess
import sys
import time
from collections.abc import Iterator

from timing.problems import Config
from timing.race import Row

MEASURED = {
    "a gradient": (
        1.5,
        """
import jax, jax.numpy as jnp, ufm
from ufm.model.params import columns
from ufm.model.problem import risk
problem = ufm.Problem(K, d, per_class=1)
params = columns(ufm.Params(*(jnp.asarray(x, jnp.float32) for x in problem.init(0)[:3])))
jax.block_until_ready(jax.jit(jax.value_and_grad(risk, argnums=1))(problem, params))
""",
    ),
    "training with a bar": (
        1.5,
        """
import optax, ufm
run = ufm.train(ufm.Problem(K, d, per_class=1), optax.sgd(0.5), steps=steps, snapshots=2, progress=True)
assert run.status is ufm.Status.FINISHED
""",
    ),
    "recording": (
        3.0,
        """
import numpy as np, ufm
random, recorder = np.random.default_rng(0), ufm.Recorder(K)
H, A = random.standard_normal((2, K, d), np.float32)
batches = [(H[first : first + 4096], np.arange(K)[first : first + 4096]) for first in range(0, K, 4096)]
for batch in batches:
    recorder.add(*batch)
for batch in batches:
    recorder.revisit(*batch, A)
recorder.epoch()
""",
    ),
}
MEASURED_ALONE = {
    "K = 1,000, counts all different, price 1e-6": (3.0, "price = 1e-6"),
    "K = 1,000, counts all different, price 1e-5": (3.0, "price = 1e-5"),
    "K = 1,000, counts all different, price 1e-4": (3.0, "price = 1e-4"),
    "K = 1,000, counts all different, price 1e-3": (3.0, "price = 1e-3"),
    "K = 16,384 of two sizes": (1.0, "price = 1e-6; counts = [40] * 384 + [3] * 16000"),
    "K = 16,384, Zipf's counts": (60.0, "price = 1e-6; counts = [max(round(1e5 / k), 1) for k in range(1, 16385)]"),
}
SOLVED = """
import numpy as np, ufm
counts = np.round(np.geomspace(256.0, 1.0, 1000) * 1000).astype(int)
{posed}
problem = ufm.Problem(len(counts), len(counts), per_class=counts, lambda_A=price, lambda_H=price)
start = time.perf_counter()
best = ufm.minimize(problem)
print(best.gap / best.value)
"""
FIRST = {
    "minimize, balanced": (0.1, "ufm.minimize(ufm.Problem(10, 64, per_class=100))"),
    "minimize, long-tailed": (0.1, "ufm.minimize(ufm.Problem(10, 64, per_class=[2 ** k for k in range(10)]))"),
    "verify": (0.5, "ufm.verify(ufm.Problem(10, 64, per_class=100, lambda_A=5e-3, lambda_H=5e-5))"),
    "a sweep of 39 shapes": (5.0, "ufm.sweep(ufm.Problem(2, 64, per_class=10), {'num_classes': range(2, 41)})"),
}
# VmHWM, since ru_maxrss counts what the parent process held when it forked
PEAK = """
import pathlib
status = dict(line.split(":") for line in pathlib.Path("/proc/self/status").read_text().splitlines())
print(time.perf_counter() - start, int(status["VmHWM"].split()[0]) * 1024 / 1e9)
"""


def python(code: str, words: str = "0, 0, 0") -> str:
    """What a new process prints that runs some code on numbers K, d and steps."""
    start = f"import time; start = time.perf_counter(); K, d, steps = {words}\n"
    done = subprocess.run([sys.executable, "-c", start + code], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def peaks(config: Config) -> Iterator[Row]:
    """What of the vocabulary group is resident at most, each in a process of its own."""
    words = f"{config.vocabulary}, {config.vocabulary_dim}, {config.vocabulary_steps}"
    for what, (goal, code) in MEASURED.items():
        seconds, peak = map(float, python(code + PEAK, words).split()[-2:])
        note = f"at most {goal:g} GB is the goal, {'met' if peak <= goal else 'missed'}; {seconds:.4g} s with compiling"
        yield Row(f"{what}, K = N = {config.vocabulary:,}: {peak:.2f} GB resident", note)


def alone() -> Iterator[Row]:
    """One large problem, in a process of its own: seconds of `minimize`, its gap, and what is resident at most."""
    for what, (goal, posed) in MEASURED_ALONE.items():
        gap, seconds, peak = map(float, python(SOLVED.format(posed=posed) + PEAK).split()[-3:])
        note = f"relative gap {gap:.1e}; at most {goal:g} s is the goal, {'met' if seconds <= goal else 'missed'}"
        yield Row(f"minimize, {what}: {seconds:.3g} s, {peak:.2f} GB resident", note)


def first() -> Iterator[Row]:
    """The first answer of a new process, after `import ufm`; and a command from the terminal, all in all."""
    for what, (goal, code) in FIRST.items():
        timed = f"import ufm\nstart = time.perf_counter()\n{code}\nprint(time.perf_counter() - start)"
        yield _within(goal, f"first {what}", float(python(timed).split()[-1]))
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "ufm", "verify"], check=True, stdout=subprocess.PIPE)
    yield _within(1.5, "ufm verify, all in all", time.perf_counter() - start)


def _within(goal, what, seconds):
    return Row(f"{what}: {seconds:.3g} s", f"at most {goal:g} s is the goal, {'met' if seconds <= goal else 'missed'}")
