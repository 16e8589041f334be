"""What ufm costs, against peers that do the same work: medians of runs taken in turn in one process.

Compiling is timed apart, as what a first run takes longer. Where several peers compete the table shows the fastest,
and the JSON has every run of each. Rows check that both sides found the same numbers, and raise where they did not.
"""

import dataclasses
import functools as ft
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
import optax
import tyro

import ufm
from timing import convex_programs, problems, processes, products, pytorch, race, scipy_and_numpy
from timing.problems import Config
from timing.race import OURS, Comparison, Row, Timed, at_least, at_most
from ufm import plot
from ufm.console import show

Rows = Iterator[Comparison | Row]


def training(config: Config) -> Rows:
    """Gradient descent with momentum: against PyTorch, against its matrix products alone, and what recording costs."""
    problem = problems.trained(config)
    ours, many = (ft.partial(train, problem, config, count) for count in (2, config.snapshots))
    agreement = ft.partial(problems.same_loss, problem)
    raced = {"repeats": config.repeats, "agreement": agreement}
    for kind, goal, peers in (("eager", 5, pytorch.eager), ("compiled", 2, pytorch.compiled)):
        runs = pytorch.threaded(peers(problem, config)) if pytorch.installed() else {}
        compiles = {"peers_compile": kind == "compiled", "within": pytorch.fresh, "missing": pytorch.MISSING}
        yield Comparison(f"train: PyTorch, {kind}", at_least(goal), ours, runs, **raced, **compiles)
    steps = products.Steps(problem, config.steps)
    bound = {"repeats": config.repeats, "agreement": steps.agreement}
    yield Comparison("train: its matrix products", at_most(1.4), ours, {"products": steps.run}, **bound)
    yield Comparison(f"train: {config.snapshots} snapshots", at_most(1.05), many, {"2 snapshots": ours}, **raced)


def metrics(config: Config) -> Rows:
    """`ufm.measure` against a pseudoinverse in NumPy; and a recorder of batches of any sizes against equal ones."""
    H, labels = problems.features(config)
    yield Comparison(
        f"measure: NC1 in NumPy (K={config.measured_classes}, d={config.measured_dim}, N={config.measured_samples})",
        at_least(10),
        lambda: ufm.measure(H, labels).nc1,
        {"NumPy": ft.partial(scipy_and_numpy.pseudoinverse_nc1, H, labels)},
        agreement=lambda timed: race.same("NC1", timed[OURS].result, timed["NumPy"].result),
        repeats=config.repeats_metrics,
        peers_compile=False,
    )
    count, size, K, d = config.recorded
    unequal = np.random.default_rng(0).integers(size // 2, size + size // 2 + 1, count)
    ours, peers = (products.Recorded(problems.batches(sizes, K, d), K) for sizes in (unequal, [size] * count))
    yield Comparison(
        f"record: {count} batches of {size // 2} to {size + size // 2} samples (K={K}, d={d}): of {size} each",
        at_most(2),
        ours.recorder,
        {"equal sizes": peers.recorder},
        agreement=ours.agreement,
        repeats=config.repeats_metrics,
        peers_compile=False,
    )


def certified(config: Config) -> Rows:
    """Certified minimisation of a batch over a range of decays, per problem, against peers on some of the problems."""
    for name, counts in problems.counts(config).items():
        batch = problems.decays(config, counts)
        some = problems.spaced(batch, config.peer_problems)[: config.peer_problems]
        ours = race.race({}, minima(batch), config.repeats, peers_compile=False)[OURS].per_problem(len(batch))
        assert all(best.certified for best in ours.result)
        for what, goal, peers in (
            ("PyTorch L-BFGS", 2000, pytorch.lbfgs(some)),
            ("SciPy", 1000, scipy_and_numpy.lbfgs(some, whole=True)),
            ("SciPy, reduced problem", 10, scipy_and_numpy.lbfgs(some, whole=False)),
        ):
            words = {"problems": len(some), "missing": pytorch.MISSING, "agreement": ft.partial(problems.gaps, some)}
            yield Comparison(f"minimize, {name}: {what}", at_least(goal), ours, peers, **words)


def imbalance(config: Config) -> Rows:
    """Certified minimisation of imbalanced classes, per problem, against convex programs in cvxpy on some of them."""
    for name, batch in problems.imbalanced(config).items():
        title = f"minimize, {name}"
        if not convex_programs.installed():
            yield Row(f"{title}: cvxpy", convex_programs.MISSING)
            continue
        count = config.peer_problems if batch[0].num_classes <= config.num_classes else 1
        some = problems.spaced(batch, count)[:count]
        peers = {way: race.once(run).per_problem(count) for way, run in convex_programs.minima(some).items()}
        for what, goal, together in (("cvxpy", 100, batch), (f"cvxpy, ours by {count}", 5, some)):
            ours = race.race({}, minima(together), config.repeats, peers_compile=False)[OURS].per_problem(len(together))
            best = problems.spaced(ours.result, count)[:count]
            yield Comparison(
                f"{title}: {what}", at_least(goal), ours, peers, agreement=ft.partial(problems.program_gaps, best)
            )


def growth(config: Config) -> Rows:
    """Minimisation as samples and dimensions grow: the solve stays the same, the lifting grows apart from it."""
    for change, (small, large) in problems.grown(config).items():
        ours, peers = ft.partial(ufm.minimize, large), {"n = 10, d = 64": ft.partial(ufm.minimize, small)}
        yield Comparison(f"minimize: {change}", at_most(1.5), ours, peers, agreement=lifting, repeats=5)


def spheres(config: Config) -> Rows:
    """Certified minimisation with features and classifier on spheres, against weight decay in the same shape."""
    for name, counts in problems.counts(config).items():
        free, held = problems.decays(config, counts), problems.on_spheres(config, counts)
        words = {"problems": config.batch, "agreement": problems.largest_gap, "repeats": config.repeats}
        peers = {"weight decay": minima(free)}
        yield Comparison(f"minimize on spheres, {name}", at_most(3.0), minima(held), peers, **words)


def targets(config: Config) -> Rows:
    """Certified minima of soft labels, per problem, against class labels; regression against its moments in NumPy."""
    groups, many = config.soft_groups, problems.decays(config, problems.counts(config)["long-tailed"])
    words = {"problems": config.batch, "agreement": problems.largest_gap, "repeats": config.repeats}
    for count in (config.num_classes, groups):
        soft, peers = problems.soft(config, count), {"classes": minima(many)}
        goal = at_most(3.0 * count / config.num_classes)
        yield Comparison(f"minimize, soft labels of {count} groups: classes", goal, minima(soft), peers, **words)
    Y, regression = problems.regression(config)
    yield Comparison(
        f"minimize, regression (N = {config.regressed[0]:,}, K = {config.regressed[1]}): NumPy",
        at_most(2.0),
        ft.partial(ufm.minimize, regression),
        {"moments": ft.partial(scipy_and_numpy.thresholded, Y, regression)},
        agreement=problems.same_minimum,
        repeats=config.repeats,
        peers_compile=False,
    )


def depth(config: Config) -> Rows:
    """Hidden layers: certified deep linear problems against shallow ones; training against PyTorch and its products."""
    linear, shallow = (problems.squared_errors(config, widths) for widths in (config.certified_widths, ()))
    yield Comparison(
        f"minimize, {2 + len(config.certified_widths)} linear factors: 2",
        at_most(1.0),
        minima(linear),
        {"shallow": minima(shallow)},
        problems=config.batch,
        agreement=problems.largest_gap,
        repeats=config.repeats,
    )
    config = dataclasses.replace(config, steps=config.deep_steps)
    for activation in ("linear", "relu"):
        yield from deep_training(config, activation)


def deep_training(config: Config, activation: str) -> Rows:
    """Training of hidden layers; ufm multiplies linear ones before they meet the samples."""
    problem = problems.deep(config, activation)
    ours, title = ft.partial(train, problem, config, 2), f"train, {len(config.hidden)} {activation} layers"
    words = {"repeats": config.repeats, "within": pytorch.fresh, "missing": pytorch.MISSING}
    runs = pytorch.threaded(pytorch.compiled(problem, config)) if pytorch.installed() else {}
    agreement = ft.partial(problems.same_loss, problem)
    yield Comparison(f"{title}: PyTorch, compiled", at_least(2), ours, runs, agreement=agreement, **words)
    steps = products.Steps(problem, config.steps)
    bound = {"repeats": config.repeats, "agreement": steps.agreement}
    yield Comparison(f"{title}: its matrix products", at_most(1.3), ours, {"products": steps.run}, **bound)


def sweeps(config: Config) -> Rows:
    """A grid of certified points, per point: against one batch, without store and bar, a small grid; and imports."""
    problem, over = problems.posed(config, config.per_class), problems.grid(config)
    pairs = [(a, h) for a in over["lambda_A"] for h in over["lambda_H"]]
    count, few, batch = len(pairs), problems.spaced(pairs, 16), problems.spaced(pairs, config.batch)
    sides = {
        "one batch": (1.0, len(batch), minima(problems.decayed(problem, batch))),
        "no store, no bar": (1.1, count, ft.partial(ufm.sweep, problem, over)),
        f"{len(few)} points": (1.0, len(few), ft.partial(ufm.sweep, problem, {("lambda_A", "lambda_H"): few})),
    }
    runs = {name: run for name, (_, _, run) in sides.items()}
    with tempfile.TemporaryDirectory() as folder:
        ours = ft.partial(stored_sweep, problem, over, folder)
        timed = race.race(runs, ours, config.repeats_sweeps, peers_compile=True)
    ours = timed[OURS].per_problem(count)
    assert ours.result.certified.all()
    rate, title = f"{1 / ours.median:,.0f} certified points a second", f"sweep of {count:,}"
    for name, (goal, points, _) in sides.items():
        peers = {name: timed[name].per_problem(points)}
        yield Comparison(f"{title}: {name}", at_most(goal), ours, peers, agreement=lambda timed: rate)
    some = problems.spaced(pairs, config.peer_problems)[: config.peer_problems]
    solved = problems.decayed(problem, some)
    words = {"problems": len(some), "agreement": ft.partial(problems.same_values, solved, some)}
    peers = scipy_and_numpy.lbfgs(solved, whole=False)
    yield Comparison(f"{title}: SciPy, reduced problem", at_least(15), ours, peers, **words)
    imports = {"import jax, optax": ft.partial(processes.python, "import jax, optax")}
    words = {"repeats": config.repeats, "peers_compile": False, "agreement": lambda timed: "each in a new process"}
    yield Comparison("import ufm", at_most(1.25), ft.partial(processes.python, "import ufm"), imports, **words)


def alone(config: Config) -> Rows:
    """One problem of any size, certified, against SciPy on the reduced problem; first answers of new processes."""
    for name, problem in problems.unlike(config).items():
        ours = race.race({}, ft.partial(ufm.minimize, problem), config.repeats_alone, peers_compile=False)[OURS]
        ours = ours._replace(result=[ours.result])
        goal = at_least(20 if problem.num_classes >= 300 else 5)
        peers = scipy_and_numpy.lbfgs([problem], whole=False)
        yield Comparison(f"minimize, {name}: SciPy", goal, ours, peers, agreement=ft.partial(problems.gaps, [problem]))
    yield from processes.alone()
    yield from processes.first()


def vocabulary(config: Config) -> Rows:
    """As many classes as a vocabulary has words: a gradient and a recorder against their products; peak memory."""
    large, repeats = products.Streamed(config), config.repeats_vocabulary
    peers, title = {"products": large.products}, f"gradient, K = N = {config.vocabulary:,}: products"
    yield Comparison(title, at_most(1.25), large.gradient, peers, agreement=large.agreement, repeats=repeats)
    count, size = config.vocabulary_batches
    recorded = products.Recorded(
        problems.batches([size] * count, config.vocabulary, config.vocabulary_dim), config.vocabulary
    )
    yield Comparison(
        f"record, K = {config.vocabulary:,}: products",
        at_most(1.5),
        recorded.recorder,
        {"products": recorded.products},
        agreement=recorded.agreement,
        repeats=repeats,
        peers_compile=False,
    )
    yield from processes.peaks(config)


GROUPS: dict[str, Callable[[Config], Rows]] = {
    "training": training,
    "metrics": metrics,
    "certified": certified,
    "alone": alone,
    "spheres": spheres,
    "imbalance": imbalance,
    "growth": growth,
    "targets": targets,
    "depth": depth,
    "sweeps": sweeps,
    "vocabulary": vocabulary,
}


def train(problem: ufm.Problem, config: Config, snapshots: int) -> ufm.Params:
    """What the training rows time."""
    return ufm.train(problem, optimizer(config), steps=config.steps, snapshots=snapshots, progress=False).params


@ft.cache
def optimizer(config: Config) -> optax.GradientTransformation:
    """One object for all runs: with another, ufm would compile again."""
    return optax.sgd(config.learning_rate, momentum=config.momentum)


def minima(batch: list[ufm.Problem]) -> Callable[[], list[ufm.Optimum]]:
    """What the certified rows time."""
    return ft.partial(ufm.minimize, batch)


def stored_sweep(problem: ufm.Problem, over: dict[Any, Any], folder: str) -> Any:
    """A sweep with a new store in the folder and a progress bar."""
    return ufm.sweep(problem, over, store=f"{tempfile.mkdtemp(dir=folder)}/sweep.zarr", progress=True)


def lifting(timed: dict[str, Timed]) -> str:
    """A note on what it takes to lift a minimum to all samples."""
    return f"lifting {race.duration(race.clock(lambda: timed[OURS].result.params)[0])}"


def machine() -> str:
    """What the times depend on besides the versions."""
    peers = [*["torch"] * pytorch.installed(), *["cvxpy", "clarabel"] * convex_programs.installed()]
    found = "".join(f", {name} {version(name)}" for name in peers)
    return f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, JAX on {jax.default_backend()}{found}"


def chosen(config: Config) -> tuple[str, ...]:
    """The groups to time.

    Raises:
        ValueError: for a group that is none.
    """
    for name in config.only:
        if name not in GROUPS:
            raise ValueError(f"only = {name!r}: one of {', '.join(GROUPS)} is needed")
    return config.only or tuple(GROUPS)


def main(config: Config) -> None:
    """Time, print, write."""
    rows: list[Row] = []
    for name in chosen(config):
        print(f"timing: {name}", file=sys.stderr)
        rows += race.rows(GROUPS[name](config))
    show(race.HEADER, [row.cells() for row in rows], caption=machine())
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
