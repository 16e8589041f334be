"""Code in processes of its own: how long it takes, and the memory that it needs at most."""

import subprocess
import sys
from collections.abc import Iterator

from timing.problems import Config
from timing.race import Row

MEASURED = {
    "a gradient": """
import jax, jax.numpy as jnp, ufm
from ufm.model.params import columns
from ufm.model.problem import risk
problem = ufm.Problem(K, d, per_class=1)
params = columns(ufm.Params(*(jnp.asarray(x, jnp.float32) for x in problem.init(0)[:3])))
jax.block_until_ready(jax.jit(jax.value_and_grad(risk, argnums=1))(problem, params))
""",
    "training with a bar": """
import optax, ufm
run = ufm.train(ufm.Problem(K, d, per_class=1), optax.sgd(0.5), steps=steps, snapshots=2, progress=True)
assert run.status is ufm.Status.FINISHED
""",
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
    for what, code in MEASURED.items():
        seconds, peak = map(float, python(code + PEAK, words).split()[-2:])
        note = f"at most 1.5 GB is the goal, {'met' if peak <= 1.5 else 'missed'}; {seconds:.4g} s with compiling"
        yield Row(f"{what}, K = N = {config.vocabulary:,}: {peak:.2f} GB resident", note)
