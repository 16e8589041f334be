"""What ufm costs, against peers that do the same work: medians of runs taken in turn in one process.

Compiling is timed apart, as what a first run takes longer. Where several peers compete the table shows the fastest,
and the JSON has every run of each. Rows check that both sides found the same numbers, and raise where they did not.
"""

# pyright: reportMissingImports=false
# PyTorch is a peer that need not be installed: its rows are then left out.

import dataclasses
import functools as ft
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import ufm
from ufm import plot
from ufm._core.blocks import cut, over_blocks, put
from ufm._core.tables import number, show
from ufm.minima.optimum import minimize_all
from ufm.model.params import columns, rows
from ufm.model.problem import risk

REST = 0.05  # seconds before a run, in which idle threads of another library stop spinning
SAME = 1e-4  # relative difference up to which two results are the same
THREADS = (1, 2)  # of PyTorch
NO_TORCH = "left out: PyTorch is not installed"


@dataclasses.dataclass(frozen=True)
class Config:
    """What is timed, and how often."""

    only: tuple[str, ...] = ()
    """Groups of rows to time; all where none is named."""
    repeats: int = 5
    """Runs of each side in the training group."""
    repeats_metrics: int = 3
    """Runs of each side in the metrics group."""
    num_classes: int = 10
    """K of the trained problem."""
    dim: int = 64
    """d of the trained problem."""
    per_class: int = 100
    """Samples of each class of the trained problem."""
    lambda_A: float = 5e-3
    """Weight decay of its classifier."""
    lambda_H: float = 5e-5
    """Weight decay of its features."""
    learning_rate: float = 0.5
    """Of gradient descent."""
    momentum: float = 0.9
    """Of gradient descent."""
    steps: int = 2000
    """Optimiser steps."""
    snapshots: int = 100
    """How often every metric is recorded in the row that records; 2 in the others."""
    measured_classes: int = 100
    """K of the measured features."""
    measured_dim: int = 2048
    """d of the measured features."""
    measured_samples: int = 50_000
    """N of the measured features."""
    batch: int = 256
    """Problems of the certified group, decays λ_A log-spaced over [1e-5, 1e-2]."""
    peer_problems: int = 3
    """How many of them the peers solve, once."""
    sweep_side: int = 64
    """Values of each decay of the swept grid, λ_A over [1e-5, 1e-2] and λ_H over [5e-7, 5e-5]."""
    repeats_sweeps: int = 3
    """Runs of each side in the sweeps group."""
    vocabulary: int = 16_384
    """K and N of the vocabulary group."""
    vocabulary_dim: int = 256
    """Its d."""
    vocabulary_steps: int = 3
    """Its optimiser steps."""
    repeats_vocabulary: int = 5
    """Runs of each side in the vocabulary group."""
    output: pathlib.Path = pathlib.Path("figures/benchmark.json")
    """Results to write."""

    def __post_init__(self):
        unknown = [name for name in self.only if name not in GROUPS]
        if unknown:
            raise ValueError(f"only = {unknown[0]!r}: one of {', '.join(GROUPS)} is needed")


class Timed(NamedTuple):
    """Seconds of every run, seconds that compiling adds to the first, and what the last run returned."""

    seconds: list[float]
    compilation: float | None
    result: Any

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return float(np.median(self.seconds))


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison of ufm with peers; without `ufm` it could not be timed, and the note says why."""

    what: str
    note: str
    ufm: Timed | None = None
    peers: dict[str, Timed] = dataclasses.field(default_factory=dict)

    def cells(self) -> list[str]:
        """What the table shows."""
        if self.ufm is None:
            return [self.what, "", "", "", "", self.note]
        name, peer = fastest(self.peers)
        times = [duration(self.ufm.median), duration(peer.median), number(peer.median / self.ufm.median)]
        compilation = f"{duration(self.ufm.compilation)}, {duration(peer.compilation)}"
        return [self.what, *times, compilation, f"{name}; {self.note}"]

    def record(self) -> dict[str, Any]:
        """What the JSON holds; times in seconds."""
        if self.ufm is None:
            return {"what": self.what, "note": self.note}
        name, peer = fastest(self.peers)
        sides = {"ufm": self.ufm, **self.peers}
        return {
            "what": self.what,
            "ufm": self.ufm.median,
            "peer": peer.median,
            "ratio": peer.median / self.ufm.median,
            "compilation": [self.ufm.compilation, peer.compilation],
            "note": f"{name}; {self.note}",
            "runs": {side: timed.seconds for side, timed in sides.items()},
        }


def training(config: Config) -> list[Row]:
    """Gradient descent with momentum: against PyTorch, against its matrix products alone, and what recording costs."""
    problem = ufm.Problem(
        config.num_classes, config.dim, per_class=config.per_class, lambda_A=config.lambda_A, lambda_H=config.lambda_H
    )
    ours = ft.partial(train, problem, config, 2)
    return [
        against_torch("train: PyTorch, eager", problem, ours, eager_peers, config, at_least(5)),
        against_torch("train: PyTorch, compiled", problem, ours, compiled_peers, config, at_least(2)),
        against_products(problem, ours, config),
        recording(problem, ours, config),
    ]


def metrics(config: Config) -> list[Row]:
    """`ufm.measure` against the definition of NC1 by a pseudoinverse, in NumPy."""
    random = np.random.default_rng(0)
    K, d, N = config.measured_classes, config.measured_dim, config.measured_samples
    labels = np.arange(N) % K
    H = random.standard_normal((N, d), np.float32)
    H += random.standard_normal((K, d), np.float32)[labels]
    peers = {"NumPy": ft.partial(pseudoinverse_nc1, H, labels)}
    timed = race(peers, lambda: ufm.measure(H, labels).nc1, config.repeats_metrics, peers_compile=False)
    agreement = same("NC1", timed["ufm"].result, timed["NumPy"].result)
    return [compared(f"measure: NC1 in NumPy (K={K}, d={d}, N={N})", timed, at_least(10), agreement)]


def certified(config: Config) -> list[Row]:
    """Certified minimisation of a batch over a range of decays, per problem, against peers on some of the problems."""
    rows = []
    for name, counts in (("balanced", config.per_class), ("long-tailed", long_tail(config))):
        problems = decays(config, counts, config.batch)
        some = problems[:: max(len(problems) // config.peer_problems, 1)][: config.peer_problems]
        ours = ft.partial(minimize_all, problems, [0] * len(problems))
        mine = per_problem(race({}, ours, config.repeats, peers_compile=False)["ufm"], len(problems))
        assert all(best.certified for best in mine.result)
        for what, goal, peers in (
            ("PyTorch L-BFGS", 2000, torch_lbfgs_peers(some)),
            ("SciPy", 1000, scipy_peers(some, whole=True)),
            ("SciPy, reduced problem", 10, scipy_peers(some, whole=False)),
        ):
            title = f"minimize, {name}: {what}"
            if not peers:
                rows.append(Row(title, NO_TORCH))
                continue
            timed = {key: per_problem(once(run), len(some)) for key, run in peers.items()}
            rows.append(compared(title, {**timed, "ufm": mine}, at_least(goal), gaps(some, timed, mine)))
    return rows


def growth(config: Config) -> list[Row]:
    """Minimisation as samples and dimensions grow: the solve stays the same, the lifting grows apart from it."""
    small = ufm.Problem(config.num_classes, 64, per_class=10, lambda_A=5e-3, lambda_H=5e-5)
    rows = []
    for words in ({"per_class": 1000}, {"per_class": 100_000}, {"dim": 10}, {"dim": 4096}):
        n = words.get("per_class", 10)
        large = dataclasses.replace(small, **words, lambda_H=small.lambda_H * 10 / n)
        timed = race({"n = 10, d = 64": ft.partial(ufm.minimize, small)}, ft.partial(ufm.minimize, large), 5, True)
        lifting = clock(lambda best=timed["ufm"].result: best.params)[0]
        title = f"minimize: {', '.join(f'{name} = {value}' for name, value in words.items())}"
        rows.append(compared(title, timed, at_most(1.5), f"lifting {duration(lifting)}"))
    return rows


def spheres(config: Config) -> list[Row]:
    """Certified minimisation with features and classifier on spheres, against weight decay in the same shape."""
    held: dict[str, Any] = {"lambda_A": 0.0, "lambda_H": 0.0, "bias": False}
    radii = np.sqrt(np.geomspace(1.0, 30.0, config.batch)).tolist()
    rows = []
    for name, counts in (("balanced", config.per_class), ("long-tailed", long_tail(config))):
        free = decays(config, counts, config.batch)
        round_ = [
            ufm.Problem(
                config.num_classes,
                config.dim,
                per_class=counts,
                features=ufm.Sphere(r),
                classifier=ufm.Sphere(r),
                **held,
            )
            for r in radii
        ]
        ours, peer = (ft.partial(minimize_all, problems, [0] * config.batch) for problems in (round_, free))
        timed = race({"weight decay": peer}, ours, config.repeats, peers_compile=True)
        assert all(best.certified for best in timed["ufm"].result)
        timed = {key: per_problem(side, config.batch) for key, side in timed.items()}
        rows.append(compared(f"minimize on spheres, {name}", timed, at_most(3.0), f"largest {largest_gap(timed)}"))
    return rows


def long_tail(config: Config) -> tuple[int, ...]:
    """Counts from 1,000 down to 10."""
    return tuple(int(n) for n in np.round(np.geomspace(1000, 10, config.num_classes)))


def largest_gap(timed: dict[str, Any]) -> str:
    """Relative to the value."""
    return f"relative gap {max(best.gap / best.value for best in timed['ufm'].result):.0e}"


def sweeps(config: Config) -> list[Row]:
    """A grid of certified points, per point: against one batch, without store and bar, a small grid; and imports."""
    problem = ufm.Problem(config.num_classes, config.dim, per_class=config.per_class)
    over = {
        "lambda_A": np.geomspace(1e-5, 1e-2, config.sweep_side).tolist(),
        "lambda_H": np.geomspace(5e-7, 5e-5, config.sweep_side).tolist(),
    }
    count = config.sweep_side**2
    pairs = [(a, h) for a in over["lambda_A"] for h in over["lambda_H"]]
    few, some = pairs[:: max(count // 16, 1)], pairs[:: max(count // config.batch, 1)]
    problems = [dataclasses.replace(problem, lambda_A=a, lambda_H=h) for a, h in some]
    sides = {
        "one batch": (len(some), ft.partial(minimize_all, problems, [0] * len(problems))),
        "no store, no bar": (count, ft.partial(ufm.sweep, problem, over)),
        f"{len(few)} points": (len(few), ft.partial(ufm.sweep, problem, {("lambda_A", "lambda_H"): few})),
    }
    runs = {name: run for name, (_, run) in sides.items()}
    with tempfile.TemporaryDirectory() as folder:
        ours = ft.partial(stored_sweep, problem, over, folder)
        timed = race(runs, ours, config.repeats_sweeps, peers_compile=True)
    assert timed["ufm"].result.certified.all()
    timed = {name: per_problem(side, sides[name][0] if name in sides else count) for name, side in timed.items()}
    rate = f"{1 / timed['ufm'].median:,.0f} certified points a second"
    table, mine = timed["ufm"].result, pairs[:: max(count // config.peer_problems, 1)][: config.peer_problems]
    solved = [dataclasses.replace(problem, lambda_A=a, lambda_H=h) for a, h in mine]
    scipy = {name: per_problem(once(run), len(solved)) for name, run in scipy_peers(solved, whole=False).items()}
    values = [float(table["value"].sel(lambda_A=a, lambda_H=h)) for a, h in mine]
    theirs = [float(p.objective(q)) for p, q in zip(solved, fastest(scipy)[1].result, strict=True)]
    agreement = same("mean value", float(np.mean(values)), float(np.mean(theirs)))
    against = compared(
        f"sweep of {count:,}: SciPy, reduced problem", {**scipy, "ufm": timed["ufm"]}, at_least(15), agreement
    )
    goals = zip(sides, (1.0, 1.1, 1.0), strict=True)
    rows = [
        compared(f"sweep of {count:,}: {n}", {n: timed[n], "ufm": timed["ufm"]}, at_most(g), rate) for n, g in goals
    ]
    imports: dict[str, Callable[[], Any]] = {"import jax, optax": ft.partial(python, "import jax, optax")}
    timed = race(imports, ft.partial(python, "import ufm"), config.repeats, peers_compile=False)
    return [*rows, against, compared("import ufm", timed, at_most(1.25), "each in a new process")]


def vocabulary(config: Config) -> list[Row]:
    """As many classes as a vocabulary has words: a gradient against the matrix products of its blocks; peak memory."""
    problem = ufm.Problem(config.vocabulary, config.vocabulary_dim, per_class=1)
    params = columns(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), problem.init(0)))
    gradient = jax.jit(jax.value_and_grad(risk, argnums=1))
    peers = {"products": ft.partial(streamed_products, params.H, params.A)}
    timed = race(peers, ft.partial(gradient, problem, params), config.repeats_vocabulary, peers_compile=True)
    value = same("objective", float(timed["ufm"].result[0]), float(problem.objective(rows(params))))
    size = f"K = N = {config.vocabulary:,}"
    found = [compared(f"gradient, {size}: products", timed, at_most(1.25), value)]
    words = f"{config.vocabulary}, {config.vocabulary_dim}, {config.vocabulary_steps}"
    for what, code in MEASURED.items():
        seconds, peak = map(float, python(code + PEAK, words).split()[-2:])
        note = f"at most 1.5 GB is the goal, {'met' if peak <= 1.5 else 'missed'}; {number(seconds)} s with compiling"
        found.append(Row(f"{what}, {size}: {peak:.2f} GB resident", note))
    return found


MEASURED = {
    "a gradient": """
import jax, jax.numpy as jnp, ufm
from ufm.model.params import columns, rows
from ufm.model.problem import risk
problem = ufm.Problem(K, d, per_class=1)
params = columns(ufm.Params(*(jnp.asarray(x, jnp.float32) for x in problem.init(0)[:3])))
jax.block_until_ready(jax.jit(jax.value_and_grad(risk, argnums=1))(problem, params))
""",
    "training with a bar": """
import optax, ufm
run = ufm.train(ufm.Problem(K, d, per_class=1), optax.sgd(0.5), steps, snapshots=2, progress=True)
assert run.status is ufm.Status.FINISHED
""",
}
# VmHWM, since ru_maxrss counts what the parent process held when it forked
PEAK = """
import pathlib
status = dict(line.split(":") for line in pathlib.Path("/proc/self/status").read_text().splitlines())
print(time.perf_counter() - start, int(status["VmHWM"].split()[0]) * 1024 / 1e9)
"""


@jax.jit
def streamed_products(H, A):
    """Logits and both gradients of a step in ufm's blocks, with the logits for the slopes."""

    def step(carry, first, fresh):
        along_H, along_A = carry
        here = cut(H, first, fresh, 1)
        U = A @ here
        return put(along_H, A.T @ U, first, 1), along_A + U @ here.T

    return over_blocks(step, (jnp.zeros_like(H), jnp.zeros_like(A)), H.shape[1], A.shape[0])


def stored_sweep(problem: ufm.Problem, over: dict[str, Any], folder: str) -> Any:
    """A sweep with a new store in the folder and a progress bar."""
    return ufm.sweep(problem, over, store=f"{tempfile.mkdtemp(dir=folder)}/sweep.zarr", progress=True)


def python(code: str, words: str = "0, 0, 0") -> str:
    """What a new process prints that runs some code on numbers K, d and steps."""
    start = f"import time; start = time.perf_counter(); K, d, steps = {words}\n"
    done = subprocess.run([sys.executable, "-c", start + code], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


GROUPS: dict[str, Callable[[Config], list[Row]]] = {
    "training": training,
    "metrics": metrics,
    "certified": certified,
    "spheres": spheres,
    "growth": growth,
    "sweeps": sweeps,
    "vocabulary": vocabulary,
}


def race(
    peers: dict[str, Callable[[], Any]], ours: Callable[[], Any], repeats: int, peers_compile: bool
) -> dict[str, Timed]:
    """Time the peers and ufm in turn, after a first run of each that compiles and a second that is not counted."""
    sides = {**peers, "ufm": ours}
    first = {}
    for name, run in sides.items():
        jax.clear_caches()  # what the sides share is compiled for each
        first[name] = clock(run)[0]
    for run in sides.values():
        clock(run)
    rounds = [{name: clock(run) for name, run in sides.items()} for _ in range(repeats)]
    timed = {}
    for name in sides:
        seconds = [each[name][0] for each in rounds]
        more = max(first[name] - float(np.median(seconds)), 0.0)
        timed[name] = Timed(seconds, more if name == "ufm" or peers_compile else None, rounds[-1][name][1])
    return timed


def clock(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a run takes until its results are there, and the results."""
    time.sleep(REST)
    start = time.perf_counter()
    result = jax.block_until_ready(run())
    return time.perf_counter() - start, result


def compared(what: str, timed: dict[str, Timed], goal: Callable[[float], str], agreement: str) -> Row:
    """A row of what a race measured."""
    peers = {name: side for name, side in timed.items() if name != "ufm"}
    ratio = fastest(peers)[1].median / timed["ufm"].median
    return Row(what, f"{goal(ratio)}; {agreement}", timed["ufm"], peers)


def fastest(peers: dict[str, Timed]) -> tuple[str, Timed]:
    """The peer with the smallest median, and its name."""
    return min(peers.items(), key=lambda item: item[1].median)


def at_least(goal: float) -> Callable[[float], str]:
    """A note on how many times as fast as its peer ufm is."""
    return lambda ratio: f"at least {goal:g} is the goal, {'met' if ratio >= goal else 'missed'}"


def at_most(goal: float) -> Callable[[float], str]:
    """A note on how many times as long as its peer ufm takes."""
    return lambda ratio: (
        f"ufm/peer {1 / ratio:.3f}, at most {goal:g} is the goal, {'met' if ratio * goal >= 1 else 'missed'}"
    )


def same(quantity: str, ours: float, theirs: float) -> str:
    """A note that two numbers agree.

    Raises:
        AssertionError: where they do not.
    """
    if not abs(ours - theirs) <= SAME * abs(theirs):
        raise AssertionError(f"{quantity}: {ours:.8g} by ufm, {theirs:.8g} by its peer; they differ by over {SAME:g}")
    return f"{quantity} {ours:.7g}, {theirs:.7g}"


def train(problem: ufm.Problem, config: Config, snapshots: int) -> ufm.Params:
    """What the training rows time."""
    return ufm.train(problem, optimizer(config), config.steps, snapshots=snapshots, progress=False).params


@ft.cache
def optimizer(config: Config) -> optax.GradientTransformation:
    """One object for all runs: with another, ufm would compile again."""
    return optax.sgd(config.learning_rate, momentum=config.momentum)


def same_loss(problem: ufm.Problem, timed: dict[str, Timed]) -> str:
    """A note that every peer ended at the loss where ufm did."""
    ours = problem.objective(timed["ufm"].result)
    losses = {name: problem.objective(side.result) for name, side in timed.items() if name != "ufm"}
    notes = {name: same("loss", ours, loss) for name, loss in losses.items()}
    return notes[fastest({name: timed[name] for name in losses})[0]]


def against_torch(
    what: str,
    problem: ufm.Problem,
    ours: Callable[[], ufm.Params],
    peers: Callable[[ufm.Problem, Config], dict[str, Callable[[], ufm.Params]]],
    config: Config,
    goal: Callable[[float], str],
) -> Row:
    """Training against loops in PyTorch, each with one thread and with two."""
    if importlib.util.find_spec("torch") is None:
        return Row(what, NO_TORCH)
    import torch
    from torch._inductor.utils import fresh_cache

    before = torch.get_num_threads()
    runs = {
        f"{name}, {threads} thread{'s' * (threads > 1)}": ft.partial(in_threads, threads, run)
        for name, run in peers(problem, config).items()
        for threads in THREADS
    }
    with fresh_cache():  # or what an earlier process compiled would be found on disk
        timed = race(runs, ours, config.repeats, peers_compile=peers is compiled_peers)
    torch.set_num_threads(before)
    return compared(what, timed, goal, same_loss(problem, timed))


def in_threads(threads: int, run: Callable[[], Any]) -> Any:
    """A run with so many threads of PyTorch."""
    import torch

    torch.set_num_threads(threads)
    return run()


def eager_peers(problem: ufm.Problem, config: Config) -> dict[str, Callable[[], ufm.Params]]:
    """Loops with autograd: PyTorch's own SGD, and plain tensors with a feature vector a row or a column."""
    import torch

    decays = (problem.lambda_H, problem.lambda_A, problem.lambda_b)

    def sgd():
        params = torch_start(problem, columns=False)
        groups = [{"params": [x], "weight_decay": decay} for x, decay in zip(params, decays, strict=True)]
        optimizer = torch.optim.SGD(groups, config.learning_rate, config.momentum, fused=True)
        loss = torch_loss(problem, columns=False)
        for _ in range(config.steps):
            optimizer.zero_grad()
            loss(*params).backward()
            optimizer.step()
        return torch_params(params, columns=False)

    def plain(columns):
        params = torch_start(problem, columns)
        traces = [torch.zeros_like(x) for x in params]
        loss = torch_loss(problem, columns)
        for _ in range(config.steps):
            gradients = torch.autograd.grad(loss(*params), params)
            with torch.no_grad():
                for x, trace, gradient, decay in zip(params, traces, gradients, decays, strict=True):
                    trace.mul_(config.momentum).add_(gradient).add_(x, alpha=decay)
                    x.sub_(trace, alpha=config.learning_rate)
        return torch_params(params, columns)

    return {"SGD": sgd, "rows": ft.partial(plain, False), "columns": ft.partial(plain, True)}


def compiled_peers(problem: ufm.Problem, config: Config) -> dict[str, Callable[[], ufm.Params]]:
    """Loops whose whole step, gradient and momentum, is compiled; a feature vector a row or a column."""
    import torch
    from torch._inductor import config as inductor

    inductor.force_disable_caches = True
    warnings.filterwarnings("ignore", "dynamo_pgo force disabled")
    torch.compiler.reset()
    decays = (problem.lambda_H, problem.lambda_A, problem.lambda_b)

    def loop(columns):
        gradient = torch.func.grad(torch_loss(problem, columns), argnums=(0, 1, 2))

        def step(params, traces):
            gradients = zip(params, gradient(*params), decays, strict=True)
            gradients = [g + decay * x for x, g, decay in gradients]
            traces = [config.momentum * t + g for t, g in zip(traces, gradients, strict=True)]
            return [x - config.learning_rate * t for x, t in zip(params, traces, strict=True)], traces

        compiled = torch.compile(step, fullgraph=True, dynamic=False)

        def run():
            params = [x.detach() for x in torch_start(problem, columns)]
            traces = [torch.zeros_like(x) for x in params]
            for _ in range(config.steps):
                params, traces = compiled(params, traces)
            return torch_params(params, columns)

        return run

    return {"rows": loop(False), "columns": loop(True)}


def torch_start(problem: ufm.Problem, columns: bool) -> list[Any]:
    """H, A and b where ufm starts."""
    import torch

    H, A, b, _ = problem.init(0)
    arrays = (np.ascontiguousarray(H.T) if columns else H, A, b)
    return [torch.tensor(x, dtype=torch.float32, requires_grad=True) for x in arrays]


def torch_loss(problem: ufm.Problem, columns: bool) -> Callable[..., Any]:
    """Cross-entropy of H, A and b."""
    import torch
    from torch.nn import functional

    labels = torch.tensor(problem.labels, dtype=torch.long)

    def in_rows(H, A, b):
        return functional.cross_entropy(functional.linear(H, A, b), labels)

    def in_columns(H, A, b):
        return -torch.log_softmax(torch.addmm(b[:, None], A, H), 0).gather(0, labels[None]).mean()

    return in_columns if columns else in_rows


def torch_params(params: list[Any], columns: bool) -> ufm.Params:
    """Parameters as ufm has them."""
    H, A, b = (x.detach().numpy() for x in params)
    return ufm.Params(H.T if columns else H, A, b)


def against_products(problem: ufm.Problem, ours: Callable[[], ufm.Params], config: Config) -> Row:
    """Training against a loop of the three matrix products of its steps, a bound on what a step can cost."""
    H, A, _, _ = problem.init(0)
    inputs = [jnp.asarray(x, jnp.float32) for x in (H.T, A, A @ H.T / problem.num_samples)]
    timed = race({"products": lambda: products(*inputs, config.steps)}, ours, config.repeats, peers_compile=True)
    for ours_, theirs in zip(timed["products"].result, (A @ H.T, inputs[2] @ H, A.T @ inputs[2]), strict=True):
        np.testing.assert_allclose(ours_, theirs, rtol=1e-3, atol=1e-5)
    return compared("train: its matrix products", timed, at_most(1.4), "a bound, nothing else is done")


@jax.jit
def products(H, A, U, steps):
    """Logits and both gradients of a step, so many times; the barrier keeps them from being computed once."""

    def step(_, carry):
        H, A, U = jax.lax.optimization_barrier(carry[:3])
        return H, A, U, A @ H, U @ H.T, A.T @ U

    start = (H, A, U, jnp.zeros_like(U), jnp.zeros_like(A), jnp.zeros_like(H))
    return jax.lax.fori_loop(0, steps, step, start)[3:]


def recording(problem: ufm.Problem, few: Callable[[], ufm.Params], config: Config) -> Row:
    """Training with many snapshots against training with the first and last."""
    many = ft.partial(train, problem, config, config.snapshots)
    timed = race({"2 snapshots": few}, many, config.repeats, peers_compile=True)
    return compared(f"train: {config.snapshots} snapshots", timed, at_most(1.05), same_loss(problem, timed))


def pseudoinverse_nc1(H: np.ndarray, labels: np.ndarray) -> float:
    """NC1 as it is defined: (1/K) Tr(Cov_W Cov_B†), both covariances formed."""
    K = labels.max() + 1
    means = np.stack([H[labels == k].mean(axis=0) for k in range(K)])
    deviations = H - means[labels]
    centred = means - means.mean(axis=0)
    within, between = deviations.T @ deviations / len(H), centred.T @ centred / K
    return float(np.trace(within @ np.linalg.pinv(between, rcond=1e-5)) / K)


def decays(config: Config, counts: Any, number: int) -> list[ufm.Problem]:
    """Problems that differ in the classifier's decay."""
    return [
        ufm.Problem(config.num_classes, config.dim, per_class=counts, lambda_A=float(decay), lambda_H=5e-6)
        for decay in np.geomspace(1e-5, 1e-2, number)
    ]


def per_problem(timed: Timed, count: int) -> Timed:
    """The same times for one of so many problems."""
    return timed._replace(seconds=[seconds / count for seconds in timed.seconds])


def once(run: Callable[[], Any]) -> Timed:
    """A single run: these take minutes where ufm takes milliseconds."""
    seconds, result = clock(run)
    return Timed([seconds], None, result)


def gaps(problems: list[ufm.Problem], timed: dict[str, Timed], mine: Timed) -> str:
    """A note on the relative gaps reached, each to the lower bound at the peer's own parameters."""
    _, peer = fastest(timed)
    theirs = [
        (p.objective(q) - ufm.lower_bound(p, q)) / p.objective(q) for p, q in zip(problems, peer.result, strict=True)
    ]
    ours = max(best.gap / best.value for best in mine.result)
    return f"worst relative gap {ours:.1e}, peer's {max(theirs):.1e}"


def numpy_objective(problem: ufm.Problem, whole: bool) -> tuple[Callable, np.ndarray, Callable]:
    """Value and gradient in NumPy, a start and a reader of its vectors: all samples, or class means with weights."""
    K, counts = problem.num_classes, problem.class_counts
    labels = problem.labels if whole else np.arange(K)
    weights = np.full(len(labels), 1 / problem.num_samples) if whole else counts / problem.num_samples
    decay_H = problem.lambda_H * (np.ones(len(labels)) if whole else counts)[:, None]
    d = problem.dim if whole else min(problem.dim, K)
    shapes = ((len(labels), d), (K, d), (K,))
    cuts = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
    targets = np.eye(K)[labels]

    def split(x):
        return [part.reshape(shape) for part, shape in zip(np.split(x, cuts), shapes, strict=True)]

    def value_and_gradient(x):
        H, A, b = split(x)
        Z = H @ A.T + b
        Z -= Z.max(axis=1, keepdims=True)
        E = np.exp(Z)
        total = E.sum(axis=1, keepdims=True)
        U = weights[:, None] * (E / total - targets)
        value = weights @ (np.log(total[:, 0]) - np.sum(Z * targets, axis=1))
        value += 0.5 * (np.sum(decay_H * H**2) + problem.lambda_A * np.sum(A**2))
        return value, np.concatenate(
            [(U @ A + decay_H * H).ravel(), (U.T @ H + problem.lambda_A * A).ravel(), U.sum(0)]
        )

    def params(x):
        H, A, b = split(x)
        pad = ((0, 0), (0, problem.dim - d))
        return ufm.Params(np.pad(H if whole else np.repeat(H, counts, axis=0), pad), np.pad(A, pad), b)

    start = np.concatenate([np.random.default_rng(0).normal(size=cuts[1]) / np.sqrt(d), np.zeros(K)])
    return value_and_gradient, start, params


def scipy_peers(problems: list[ufm.Problem], whole: bool) -> dict[str, Callable[[], list[ufm.Params]]]:
    """SciPy's L-BFGS-B with analytic gradients to a gradient of 1e-9, with one thread of BLAS and with two."""
    import scipy.optimize
    from threadpoolctl import threadpool_limits

    options = {"gtol": 1e-9, "ftol": 0.0, "maxiter": 100_000, "maxfun": 200_000, "maxcor": 20}

    def run(threads):
        found = []
        with threadpool_limits(threads):
            for problem in problems:
                fun, start, params = numpy_objective(problem, whole)
                result = scipy.optimize.minimize(fun, start, jac=True, method="L-BFGS-B", options=options)
                found.append(params(result.x))
        return found

    return {f"L-BFGS-B, {threads} thread{'s' * (threads > 1)}": ft.partial(run, threads) for threads in THREADS}


def torch_lbfgs_peers(problems: list[ufm.Problem]) -> dict[str, Callable[[], list[ufm.Params]]]:
    """PyTorch's L-BFGS with strong Wolfe line search on the problem as posed, to a gradient of 1e-9."""
    if importlib.util.find_spec("torch") is None:
        return {}
    return {
        f"strong Wolfe, {threads} thread{'s' * (threads > 1)}": ft.partial(
            in_threads, threads, lambda: [torch_lbfgs(problem) for problem in problems]
        )
        for threads in THREADS
    }


def torch_lbfgs(problem: ufm.Problem) -> ufm.Params:
    """One problem in float64."""
    import torch
    from torch.nn import functional

    params = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in problem.init(0)[:3]]
    labels = torch.tensor(problem.labels, dtype=torch.long)
    options = {"max_iter": 20_000, "max_eval": 40_000, "tolerance_grad": 1e-9, "tolerance_change": 0.0}
    solver = torch.optim.LBFGS(params, line_search_fn="strong_wolfe", history_size=20, **options)

    def closure():
        solver.zero_grad()
        H, A, b = params
        decay = problem.lambda_A * A.square().sum() + problem.lambda_H * H.square().sum()
        loss = functional.cross_entropy(functional.linear(H, A, b), labels) + 0.5 * decay
        loss.backward()
        return loss

    solver.step(closure)
    return torch_params(params, columns=False)


def duration(seconds: float | None) -> str:
    """Seconds in a unit that suits them."""
    if seconds is None:
        return "none"
    return f"{number(seconds)} s" if seconds >= 1 else f"{number(1e3 * seconds)} ms"


def machine() -> str:
    """What the times depend on besides the versions."""
    torch = f", torch {version('torch')}" if importlib.util.find_spec("torch") else ""
    return f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, JAX on {jax.default_backend()}{torch}"


def main(config: Config) -> None:
    """Time, print, write."""
    rows = []
    for name in config.only or GROUPS:
        print(f"timing: {name}", file=sys.stderr)
        rows += GROUPS[name](config)
    columns = ["what", "ufm", "peer", "peer/ufm", "compilation\n(ufm, peer)", "note"]
    show(columns, [row.cells() for row in rows], title=machine())
    made_by = {"command": plot.this_command(), "versions": plot.versions(), "machine": machine()}
    config.output.parent.mkdir(parents=True, exist_ok=True)
    config.output.write_text(json.dumps({**made_by, "rows": [row.record() for row in rows]}, indent=1) + "\n")
    print(f"wrote {config.output}")


def description() -> str:
    """What `--help` says, with the groups of rows."""
    groups = "\n".join(f"  {name}: {group.__doc__}" for name, group in GROUPS.items())
    return f"{__doc__}\nGroups of rows, for --only:\n\n{groups}"


if __name__ == "__main__":
    main(tyro.cli(Config, description=description()))
