import dataclasses
import json
import pathlib
import re
import tracemalloc

import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import problem

import ufm
from ufm.cli import main
from ufm.theory.registry import THEOREMS, Prediction, Theorem, theorem
from ufm.verification import _merged

README = pathlib.Path(__file__).parents[1] / "README.md"


def failing(report):
    return [(c.theorem, c.quantity, c.error, c.verdict) for c in report.claims if c.verdict != "holds"]


CASES = {
    "cross-entropy": {},
    "cross-entropy, no bias": {"bias": False},
    "cross-entropy, regularised bias": {"lambda_b": 1e-2},
    "label smoothing": {"loss": ufm.LabelSmoothing(0.1)},
    "focal": {"loss": ufm.Focal(1.0), "bias": False},
    "squared error": {"loss": ufm.SquaredError(), "bias": False},
    "squared error, free bias": {"loss": ufm.SquaredError()},
    "squared error, regularised bias": {"loss": ufm.SquaredError(), "lambda_b": 3e-2},
}


@pytest.mark.parametrize("name", CASES)
def test_balanced_theorems_hold(name):
    @settings(max_examples=6)
    @given(st.sampled_from((1, 30)), st.floats(-5, -2), st.floats(-5, -2))
    def check(n, log_A, log_H):
        p = problem(per_class=n, lambda_A=10.0**log_A, lambda_H=10.0**log_H, **CASES[name])
        kappa = 3 * np.sqrt(p.lambda_A * p.lambda_H * n)
        if 0.8 < kappa < 1.2:  # near the threshold the minimiser vanishes like a square root
            return
        report = ufm.verify(p)
        assert report.holds, failing(report)

    check()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("loss", [ufm.CrossEntropy(), ufm.SquaredError()], ids=["ce", "se"])
def test_imbalanced_theorems_hold(loss, bias):
    @settings(max_examples=6)
    @given(st.sampled_from(((20, 20, 3), (60, 2, 2))), st.floats(-4, -2))
    def check(counts, log_decay):
        decay = 10.0**log_decay
        p = problem(per_class=counts, loss=loss, lambda_A=decay, lambda_H=decay, bias=bias)
        c2 = sum(counts) ** 2 * decay**2
        if any(0.7 < n / c2 < 1.4 for n in counts):
            return
        report = ufm.verify(p)
        assert report.holds, failing(report)

    check()


def test_an_unfinished_run_never_holds_and_a_finished_one_can():
    p = problem()
    early = ufm.verify(ufm.train(p, optax.sgd(0.1), steps=3, snapshots=2))
    assert not early.holds
    assert not early.fails
    assert {c.verdict for c in early.claims} <= {"holds", "undecided"}
    late = ufm.verify(ufm.train(p, optax.sgd(2.0, momentum=0.9), steps=6000, snapshots=2, precision="float64"))
    assert late.holds, failing(late)


def test_a_wrong_theorem_fails(monkeypatch):
    p = problem()
    best = ufm.minimize(p)
    right = ufm.predict(p)

    def claims(**wrong):
        prediction = Prediction(**wrong)
        theorem = Theorem("wrong", "nobody", "", "", lambda p: True, lambda p: prediction)
        monkeypatch.setattr("ufm.verification.applicable", lambda p: [(theorem, prediction)])
        return {claim.quantity: claim.verdict for claim in ufm.verify(best).claims}

    assert set(claims(value=right.value, gram_A=np.eye(3) - 1 / 3).values()) == {"holds"}
    for wrong in (
        {"value": right.value * (1 + 1e-6)},
        {"value": right.value * (1 - 1e-6)},
        {"gram_A": np.eye(3)},
        {"gram_H": np.eye(3)},
        {"degenerate": True},
        {"norm_H": right.norm_H * 1.01},
        {"singular_values": right.singular_values * 1.01},
        {"dead": np.array([True, False, False])},
        {"merged": ((0, 1),)},
        {"metrics": {"nc3": 0.1}},
    ):
        assert list(claims(**wrong).values()) == ["fails"], wrong


def test_an_uncertified_optimum_decides_nothing_about_geometry(monkeypatch):
    best = dataclasses.replace(ufm.minimize(problem()), lower_bound=0.0)
    report = ufm.verify(best)
    verdicts = {c.verdict for c in report.claims if "objective," not in c.quantity}
    assert verdicts == {"undecided"}


def test_report_prints_and_converts():
    report = ufm.verify(problem())
    printed = str(report)
    assert "simplex ETF" in printed
    assert "holds" in printed
    back = json.loads(report.to_json())
    assert back["holds"] is True
    assert [claim["quantity"] for claim in back["claims"]] == [claim.quantity for claim in report.claims]
    assert all(set(claim) == {field.name for field in dataclasses.fields(ufm.Claim)} for claim in report.to_dicts())


def test_predict_speaks_before_anything_runs():
    p = problem()
    prediction = ufm.predict(p)
    assert prediction.value == pytest.approx(ufm.minimize(p).value, rel=1e-10)
    assert prediction.metrics["nc2"] == 0.0
    assert ufm.predict(problem(loss=lambda z, y: z[y])).value is None


def test_every_theorem_is_named_and_sourced():
    known = ufm.theorems()
    assert len({theorem.name for theorem in known}) == len(known)
    assert all(t.name and t.paper and t.assumes and t.predicts for t in known)


def test_the_command_prints_and_its_exit_code_is_the_verdict(capsys, monkeypatch):
    shape = ["--num-classes", "3", "--dim", "4", "--per-class", "5", "--lambda-A", "0.01", "--lambda-H", "0.01"]
    assert main(["verify", *shape]) == 0
    assert "minimum of the objective" in capsys.readouterr().out
    assert main(["verify", *shape, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["holds"]
    assert main(["verify", "--lambda-A", "0"]) == 2
    assert main(["theorems"]) == 0
    assert "Zhu et al. 2021" in capsys.readouterr().out
    wrong = Theorem("wrong", "nobody", "", "", lambda p: True, lambda p: Prediction(value=0.0))
    monkeypatch.setattr("ufm.verification.applicable", lambda p: [(wrong, Prediction(value=0.0))])
    assert main(["verify", *shape]) == 1


def undocumented(problem):
    return Prediction()


def blank(problem):
    """ """  # noqa: D419
    return Prediction()


@pytest.mark.parametrize("predict", [undocumented, blank])
def test_a_theorem_that_does_not_say_what_it_predicts_is_refused(predict):
    known = list(THEOREMS)
    with pytest.raises(ValueError, match=r"predict\.__doc__ = .*a text that says it is needed"):
        theorem("mine", paper="me", assumes="nothing", applies=lambda problem: True)(predict)
    assert known == THEOREMS


def test_a_run_that_diverged_is_not_verified():
    run = ufm.train(problem(), optax.sgd(0.5), steps=2, snapshots=2)
    run = dataclasses.replace(run, params=run.params._replace(A=np.full((3, 4), np.nan)))
    with pytest.raises(ValueError, match=r"params\.A = .*a NaN or an infinity"):
        ufm.verify(run)


def test_where_no_theorem_applies_the_report_says_so():
    report = ufm.verify(problem(loss=ufm.Focal(2.0), per_class=[3, 2, 1]))
    assert not report.claims
    for text in (str(report), repr(report), report._repr_html_()):
        assert "no theorem known here speaks of it" in " ".join(text.split())
    assert not report.holds


def test_a_theorem_of_ones_own_as_the_readme_has_it(capsys):
    blocks = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README.read_text(), re.DOTALL)
    ((block, printed),) = (each for each in blocks if "@theorem" in each[0])
    known = list(THEOREMS)
    try:
        exec(block, {})
    finally:
        THEOREMS[:] = known
    assert capsys.readouterr().out == printed


def test_merged_classes_are_found_without_an_array_of_all_pairs_of_rows():
    tracemalloc.start()
    rows = np.random.default_rng(0).normal(size=(300, 300))
    rows[[3, 7, 11]] = rows[5]
    found = _merged(rows, 1.0)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == ((3, 5, 7, 11),)
    assert most < 10 * rows.nbytes
