"""PyTorch as a peer: loops of gradient descent, eager and compiled, and L-BFGS. It need not be installed."""

# pyright: reportMissingImports=false

import contextlib
import functools as ft
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import ufm
from timing.problems import Config

THREADS = (1, 2)
MISSING = "left out: PyTorch is not installed"

Trainings = dict[str, Callable[[], ufm.Params]]


def installed() -> bool:
    """Whether there is PyTorch to compare with."""
    return importlib.util.find_spec("torch") is not None


@contextlib.contextmanager
def fresh() -> Iterator[None]:
    """Without what an earlier process compiled, which would be found on disk; threads are as before at the end."""
    import torch
    from torch._inductor.utils import fresh_cache

    before = torch.get_num_threads()
    try:
        with fresh_cache():
            yield
    finally:
        torch.set_num_threads(before)


def in_threads(run: Callable[[], Any], name: str) -> dict[str, Callable[[], Any]]:
    """A run with one thread of PyTorch, and with two."""

    def within(threads: int) -> Any:
        import torch

        torch.set_num_threads(threads)
        return run()

    return {f"{name}, {threads} thread{'s' * (threads > 1)}": ft.partial(within, threads) for threads in THREADS}


def threaded(runs: Trainings) -> Trainings:
    """Every run in each number of threads."""
    return {name: run for each, of_each in runs.items() for name, run in in_threads(of_each, each).items()}


def eager(problem: ufm.Problem, config: Config) -> Trainings:
    """Loops with autograd: PyTorch's own SGD, and plain tensors with a feature vector a row or a column."""
    import torch

    decays = decays_of(problem)

    def sgd():
        params = start(problem, in_columns=False)
        groups = [{"params": [x], "weight_decay": decay} for x, decay in zip(params, decays, strict=True)]
        optimizer = torch.optim.SGD(groups, config.learning_rate, config.momentum, fused=True)
        loss = loss_of(problem, in_columns=False)
        for _ in range(config.steps):
            optimizer.zero_grad()
            loss(*params).backward()
            optimizer.step()
        return params_of(params, in_columns=False)

    def plain(in_columns):
        params = start(problem, in_columns)
        traces = [torch.zeros_like(x) for x in params]
        loss = loss_of(problem, in_columns)
        for _ in range(config.steps):
            gradients = torch.autograd.grad(loss(*params), params)
            with torch.no_grad():
                for x, trace, gradient, decay in zip(params, traces, gradients, decays, strict=True):
                    trace.mul_(config.momentum).add_(gradient).add_(x, alpha=decay)
                    x.sub_(trace, alpha=config.learning_rate)
        return params_of(params, in_columns)

    return {"SGD": sgd, "rows": ft.partial(plain, False), "columns": ft.partial(plain, True)}


def compiled(problem: ufm.Problem, config: Config) -> Trainings:
    """Loops whose whole step, gradient and momentum, is compiled; a feature vector a row or a column."""
    import torch
    from torch._inductor import config as inductor

    inductor.force_disable_caches = True
    warnings.filterwarnings("ignore", "dynamo_pgo force disabled")
    torch.compiler.reset()
    decays = decays_of(problem)

    def loop(in_columns):
        gradient = torch.func.grad(loss_of(problem, in_columns), argnums=tuple(range(len(decays))))

        def step(params, traces):
            gradients = zip(params, gradient(*params), decays, strict=True)
            gradients = [g + decay * x for x, g, decay in gradients]
            traces = [config.momentum * t + g for t, g in zip(traces, gradients, strict=True)]
            return [x - config.learning_rate * t for x, t in zip(params, traces, strict=True)], traces

        compiled = torch.compile(step, fullgraph=True, dynamic=False)

        def run():
            params = [x.detach() for x in start(problem, in_columns)]
            traces = [torch.zeros_like(x) for x in params]
            for _ in range(config.steps):
                params, traces = compiled(params, traces)
            return params_of(params, in_columns)

        return run

    return {"rows": loop(False), "columns": loop(True)}


def decays_of(problem: ufm.Problem) -> list[float]:
    """Weight decay of every parameter, in the order of `start`."""
    *hidden, of_A = (float(factor.decay) for factor in problem.factors()[1:])
    return [problem.lambda_H, of_A, problem.lambda_b, *hidden]


def start(problem: ufm.Problem, in_columns: bool) -> list[Any]:
    """H, A, b and hidden layers where ufm starts."""
    import torch

    H, A, b, W = problem.init(0)
    arrays = (np.ascontiguousarray(H.T) if in_columns else H, A, b, *W)
    return [torch.tensor(x, dtype=torch.float32, requires_grad=True) for x in arrays]


def loss_of(problem: ufm.Problem, in_columns: bool) -> Callable[..., Any]:
    """Cross-entropy of H, A, b and hidden layers."""
    import torch
    from torch.nn import functional

    labels = torch.tensor(problem.labels, dtype=torch.long)
    follows = torch.relu if problem.activation == "relu" else lambda X: X

    def of_rows(X, A, b, *W):
        for layer in W:
            X = follows(functional.linear(X, layer))
        return functional.cross_entropy(functional.linear(X, A, b), labels)

    def of_columns(X, A, b, *W):
        for layer in W:
            X = follows(layer @ X)
        return -torch.log_softmax(torch.addmm(b[:, None], A, X), 0).gather(0, labels[None]).mean()

    return of_columns if in_columns else of_rows


def params_of(params: list[Any], in_columns: bool) -> ufm.Params:
    """Parameters as ufm has them."""
    H, A, b, *W = (x.detach().numpy() for x in params)
    return ufm.Params(H.T if in_columns else H, A, b, tuple(W))


def lbfgs(problems: list[ufm.Problem]) -> dict[str, Callable[[], list[ufm.Params]]]:
    """L-BFGS with strong Wolfe line search on the problems as posed, to a gradient of 1e-9."""
    return in_threads(lambda: [minimum(problem) for problem in problems], "strong Wolfe") if installed() else {}


def minimum(problem: ufm.Problem) -> ufm.Params:
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
    return params_of(params, in_columns=False)
