import json
import sys

import jax
import numpy as np
import pytest

from timing import processes, race
from ufm._core import blocks

SMALL = {
    "repeats": 1,
    "repeats_metrics": 1,
    "num_classes": 3,
    "dim": 4,
    "per_class": 5,
    "steps": 20,
    "snapshots": 5,
    "measured_classes": 5,
    "measured_dim": 8,
    "measured_samples": 200,
    "recorded": (4, 30, 5, 8),
    "hidden": (6, 5),
    "deep_steps": 20,
    "certified_widths": (6, 5),
    "batch": 8,
    "sweep_side": 3,
    "repeats_sweeps": 1,
    "peer_problems": 2,
    "vocabulary": 24,
    "vocabulary_dim": 4,
    "vocabulary_steps": 2,
    "vocabulary_batches": (2, 20),
    "repeats_vocabulary": 1,
    "alone": ((5, (1e-3,)),),
    "repeats_alone": 1,
    "many_tailed": 4,
}


@pytest.fixture
def benchmark(study, monkeypatch):
    monkeypatch.setattr(race, "REST", 0.0)
    monkeypatch.setattr(jax, "clear_caches", lambda: None)  # other tests in this process need them
    return study("benchmark")


def test_without_torch_its_rows_are_left_out(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    config = benchmark.Config(**SMALL, only=("training", "metrics"), output=tmp_path / "benchmark.json")
    benchmark.main(config)
    assert capsys.readouterr().out.count("left out") == 2
    written = json.loads((tmp_path / "benchmark.json").read_text())
    assert "jax" in written["versions"]
    rows = written["rows"]
    assert [set(row) for row in rows[:2]] == [{"what", "note"}] * 2
    assert len(rows) == 6
    for row in rows[2:]:
        assert row["ratio"] == row["peer"] / row["ufm"] > 0
        assert {len(seconds) for seconds in row["runs"].values()} == {1}
    assert "NC1" in rows[-2]["note"]


def test_deep_problems_are_timed_against_shallow_ones_and_products(benchmark, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    certified, *trained = race.rows(benchmark.depth(benchmark.Config(**SMALL)))
    assert "largest relative gap" in certified.note
    for torch, products in (trained[:2], trained[2:]):
        assert "left out" in torch.note
        assert "a bound" in products.note
        assert products.record()["ratio"] > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_torch_takes_the_same_steps_through_hidden_layers(benchmark):
    pytest.importorskip("torch")
    for activation in ("linear", "relu"):
        compiled, _ = benchmark.deep_training(benchmark.Config(**SMALL), activation)
        assert "loss" in compiled.row().note


def test_without_cvxpy_its_rows_say_what_to_install(benchmark, monkeypatch):
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    rows = race.rows(benchmark.imbalance(benchmark.Config(**SMALL)))
    assert [row.what.split(", ")[1] for row in rows] == ["two groups", "two groups layer-peeled", *["long-tailed"] * 2]
    assert all("pip install -e '.[benchmark]'" in row.note for row in rows)


def test_convex_programs_find_the_certified_minima(benchmark):
    pytest.importorskip("cvxpy")
    pytest.importorskip("clarabel")
    rows = race.rows(benchmark.imbalance(benchmark.Config(**SMALL)))
    told = [row.what.split(": cvxpy")[1] for row in rows]
    assert told == ["", ", ours by 2"] * 3 + ["", ", ours by 1"]
    for row in rows:
        ours, theirs = (float(part.split()[-1]) for part in row.note.split("relative gap ")[1].split(",")[:2])
        assert ours <= 1e-8
        assert theirs <= 1e-6
        assert "gave up" not in row.note


def test_sweeps_are_timed_against_scipy(benchmark):
    pytest.importorskip("threadpoolctl")
    rows = race.rows(benchmark.sweeps(benchmark.Config(**SMALL)))
    assert [row.what.split(": ")[-1] for row in rows] == [
        "one batch",
        "no store, no bar",
        "9 points",
        "SciPy, reduced problem",
        "import ufm",
    ]
    assert "at least 15 is the goal" in rows[3].note
    assert "mean value" in rows[3].note
    assert all(row.record()["ratio"] > 0 for row in rows)


def test_one_problem_is_timed_against_scipy_and_in_new_processes(benchmark, monkeypatch):
    pytest.importorskip("threadpoolctl")
    for table in ("MEASURED_ALONE", "FIRST"):
        listed = getattr(processes, table)
        last = list(listed)[-1] if table == "FIRST" else "K = 16,384 of two sizes"
        monkeypatch.setattr(processes, table, {last: listed[last]})
    *raced, large, sweep, command = race.rows(benchmark.alone(benchmark.Config(**SMALL)))
    assert [row.what.split(":")[0] for row in raced] == [
        "minimize, K = 3, balanced",
        "minimize, K = 3, long-tailed",
        "minimize, K = 5, price 0.001",
    ]
    for row in raced:
        assert float(row.note.split("worst relative gap ")[1].split(",")[0]) <= 1e-9
    assert "GB resident" in large.what
    assert sweep.what.startswith("first a sweep of 39 shapes")
    assert command.what.startswith("ufm verify")


def test_streamed_gradients_are_timed_against_their_products(benchmark, monkeypatch):
    monkeypatch.setattr(blocks, "LOGITS_AT_ONCE", 100)
    gradient, record, *memory = race.rows(benchmark.vocabulary(benchmark.Config(**SMALL)))
    assert "objective" in gradient.note
    assert "accuracy" in record.note
    assert [row.what.split(",")[0] for row in memory] == ["a gradient", "training with a bar", "recording"]
    assert all("met" in row.note for row in memory)


def test_eager_torch_takes_the_same_steps(benchmark):
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    row = next(benchmark.training(benchmark.Config(**SMALL))).row()
    assert len(row.peers) == 6
    assert "loss" in row.note
    assert torch.get_num_threads() == threads


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_torch_takes_the_same_steps(benchmark):
    pytest.importorskip("torch")
    _, compiled, *_ = benchmark.training(benchmark.Config(**SMALL))
    row = compiled.row()
    assert len(row.peers) == 4
    assert all(peer.compilation is not None for peer in row.peers.values())


def test_another_loss_raises():
    assert "loss" in race.same("loss", 1.0, 1.00001)
    for other in (1.01, np.nan):
        with pytest.raises(AssertionError, match="loss: 1 by ufm"):
            race.same("loss", 1.0, other)


def test_groups_are_in_the_help_and_unknown_ones_are_refused(benchmark):
    for group in benchmark.GROUPS:
        assert group in benchmark.description()
    with pytest.raises(ValueError, match=r"only = 'speed': one of training, metrics"):
        benchmark.main(benchmark.Config(only=("training", "speed")))
