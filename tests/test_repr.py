import dataclasses
import types

import numpy as np
import optax
import pytest
from zoo import ZOO, problem

import ufm
from ufm._core.repr import brief
from ufm.theory.registry import Prediction

UNEVEN = problem(num_classes=5, dim=12, per_class=[7, 3, 2, 2, 2], class_weights=np.arange(1.0, 6.0))


@pytest.fixture(scope="module")
def found():
    run = ufm.train(problem(), optax.sgd(0.5), steps=20, snapshots=9)
    seeds = ufm.train(problem(), optax.sgd(0.5), steps=20, snapshots=9, seed=[0, 1, 2])
    best = ufm.minimize(problem())
    report = ufm.verify(best)
    return types.SimpleNamespace(run=run, seeds=seeds, best=best, report=report)


def test_everything_that_is_returned_has_a_short_text(found):
    many = (found.best, found.best.params, found.best.metrics, found.report, *found.report.claims, *ufm.theorems())
    runs = (found.run, found.run.params, found.run.history, found.seeds, found.seeds.params, found.seeds.history)
    nothing = ufm.Recorder(3).history
    for value in (*ZOO.values(), UNEVEN, UNEVEN.init(), ufm.predict(UNEVEN), *many, *runs, nothing):
        lines = repr(value).splitlines()
        assert len(lines) <= 3, value
        assert max(map(len, lines)) < (900 if isinstance(value, Prediction) else 400), value


def test_the_texts_say_what_matters(found):
    for said in (repr(problem()), f"value {found.best.value:.12g}", "certified", "converged"):
        assert said in repr(found.best)
    for said in (repr(problem()), "20 steps", "seed 0", "finished", f"nc2 {found.run.history.nc2[-1]:.1e}"):
        assert said in repr(found.run)
    assert "3 seeds" in repr(found.seeds.history)
    assert "3 finished" in repr(found.seeds)
    assert f"{len(found.report.claims)} hold, 0 fail, 0 undecided" in repr(found.report)
    assert "Fixed(matrix=float64[3,4])" in repr(ZOO["forced ETF"])
    assert "per_class=(7, 3, 2, …, 2; 5 in all)" in repr(UNEVEN)


def test_an_uncertified_optimum_says_so(found):
    assert "not certified" in repr(dataclasses.replace(found.best, certified=False))


def test_a_problem_reads_as_the_call_that_makes_it():
    for p in (
        problem(),
        problem(per_class=[3, 2, 1], bias=False, loss=ufm.LabelSmoothing(0.2), features=ufm.Ball(2.0)),
    ):
        again = eval(repr(p), vars(ufm))
        assert repr(again) == repr(p)
        assert (again.per_class, again.bias, again.loss.__class__) == (p.per_class, p.bias, p.loss.__class__)


def test_foreign_values_are_cut():
    class Wordy:
        def __repr__(self):
            return "many words\n" * 100

    assert len(brief(Wordy())) < 100
    assert "\n" not in brief(Wordy())
    assert brief([[1], [2, 3]]) == "[[1], [2, 3]]"


def test_notebooks_get_tables(found):
    html = found.report._repr_html_()
    assert html.count("<tr>") == 1 + len(found.report.claims) + len({claim.theorem for claim in found.report.claims})
    assert all(claim.quantity in html for claim in found.report.claims)
    for value in (found.best, found.best.metrics):
        assert all(name in value._repr_html_() for name in ufm.Metrics._fields)
    for value in (found.run, found.run.history, found.seeds):
        history = getattr(value, "history", value)
        assert f">{np.mean(history.loss[..., -1]):.4g}</td>" in value._repr_html_()
    assert "certified" in found.best._repr_html_()
