import dataclasses
import importlib
import json
import pathlib
import pickle
import sys
import tracemalloc

import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import problem

import ufm
from ufm.cli import main
from ufm.theory.landscape import escape_curvature, zero_point
from ufm.theory.registry import THEOREMS, Check, Prediction, Theorem, theorem
from ufm.verification import _claim, _merged

ORDERED = ufm.theorems()
FILES = sorted(pathlib.Path(ufm.theory.__file__).parent.glob("*.py"))


def failing(report):
    return [(c.theorem, c.quantity, c.error, c.verdict) for c in report.claims if c.verdict != "holds"]


def named(name, **words):
    """A theorem that says nothing but what `words` say."""
    silent = {
        "paper": "nobody",
        "assumes": "",
        "predicts": "",
        "applies": lambda p: True,
        "predict": lambda p: Prediction(),
    }
    return Theorem(name=name, **silent | words)


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
        monkeypatch.setattr("ufm.verification.applicable", lambda p: [(named("wrong"), prediction)])
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
    monkeypatch.setattr("ufm.verification.applicable", lambda p: [(named("wrong"), Prediction(value=0.0))])
    assert main(["verify", *shape]) == 1


def undocumented(problem):
    return Prediction()


def blank(problem):
    """ """  # noqa: D419
    return Prediction()


@pytest.mark.parametrize("predict", [undocumented, blank])
def test_a_theorem_that_does_not_say_what_it_predicts_is_refused(predict):
    known = dict(THEOREMS)
    with pytest.raises(ValueError, match=r"predict\.__doc__ = .*a text that says it is needed"):
        theorem("mine", paper="me", assumes="nothing", applies=lambda problem: True)(predict)
    assert known == THEOREMS


def test_a_run_that_diverged_is_not_verified():
    run = ufm.train(problem(), optax.sgd(0.5), steps=2, snapshots=2)
    run = dataclasses.replace(run, params=run.params._replace(A=np.full((3, 4), np.nan)))
    with pytest.raises(ValueError, match=r"params\.A = .*a NaN or an infinity"):
        ufm.verify(run)
    with pytest.raises(ValueError, match="a run that diverged at step"):
        ufm.verify(ufm.train(problem(), optax.sgd(1e30), steps=20, snapshots=5))


def test_where_no_theorem_applies_the_report_says_so():
    report = ufm.verify(problem(loss=ufm.Focal(2.0), per_class=[3, 2, 1]))
    assert not report.claims
    for text in (str(report), repr(report), report._repr_html_()):
        assert "no theorem known here speaks of it" in " ".join(text.split())
    assert not report.holds


MINE = '''
import numpy as np
import ufm
from ufm.theory import Check, Prediction, theorem

def square(problem, found):
    yield found.of_minimiser("mean of the rows", predicted=0.0, measured=abs(found.classifier.mean(axis=0)).max())
    yield Check("seven", predicted=7.0, measured=7.5)

@theorem("mine", paper="me", assumes="three classes", applies=lambda problem: problem.num_classes == 3, checks=square)
def mine(problem):
    """A {word} thing."""
    return Prediction(norms_H=np.full(3, {length}))
'''


def test_a_theorem_of_a_users_module_is_listed_last_and_verified_as_ours_are(tmp_path, monkeypatch, registered):
    length = float(ufm.predict(problem()).norms_H[0])
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_theorems.py").write_text(MINE.format(word="certain", length=length))
    module = importlib.import_module("my_theorems")
    assert [known.name for known in ufm.theorems()] == [*(known.name for known in ORDERED), "mine"]
    claims = {claim.quantity: claim for claim in ufm.verify(problem()).claims if claim.theorem == "mine"}
    assert {quantity: claim.verdict for quantity, claim in claims.items()} == {
        "norms of class means": "holds",
        "mean of the rows": "holds",
        "seven": "fails",
    }
    assert claims["seven"].error == 0.5
    # a notebook's cell runs again; another module may not take the name
    exec(MINE.format(word="better", length=length), vars(module))
    assert [known.predicts for known in ufm.theorems() if known.name == "mine"] == ["A better thing."]
    with pytest.raises(ValueError, match=r"name = 'mine': a theorem of my_theorems has it; another name is needed"):
        exec(MINE.format(word="third", length=length), {"__name__": "elsewhere"})
    sys.modules.pop("my_theorems")


def test_checks_that_give_anything_else_are_refused(monkeypatch):
    best = ufm.minimize(problem())
    wrong = named("careless", checks=lambda problem, found: [("value", 1.0)])
    monkeypatch.setattr("ufm.verification.applicable", lambda p: [(wrong, Prediction())])
    with pytest.raises(ValueError, match=r"checks of 'careless' gave \('value', 1.0\): a ufm.theory.Check is needed"):
        ufm.verify(best)


@pytest.mark.parametrize("returned", [None, Check("value", predicted=1.0, measured=1.0)])
def test_checks_that_are_not_yielded_are_refused(monkeypatch, returned):
    wrong = named("careless", checks=lambda problem, found: returned)
    monkeypatch.setattr("ufm.verification.applicable", lambda p: [(wrong, Prediction())])
    with pytest.raises(ValueError, match=r"checks of 'careless' = .*: an iterable of ufm.theory.Check is needed"):
        ufm.verify(ufm.minimize(problem()))


def test_a_theorem_that_predicts_nothing_is_refused_by_its_name(registered):
    @theorem("forgetful", paper="me", assumes="nothing", applies=lambda problem: True)
    def forgetful(problem):
        """It forgets to return what it predicts."""

    with pytest.raises(ValueError, match=r"prediction of 'forgetful' = None: a ufm.theory.Prediction is needed"):
        ufm.predict(problem())


@pytest.mark.parametrize(
    ("predicted", "measured", "distance"),
    [(True, True, 0.0), (True, np.False_, 1.0), (np.array([True, False]), [True, True], 1.0), ([1.0, 2.0], 1, 1.0)],
)
def test_the_distance_of_a_check(predicted, measured, distance):
    assert Check("it", predicted=predicted, measured=measured).distance == distance


@pytest.mark.parametrize(("predicted", "measured"), [("falling", [2.0, 1.0]), (np.zeros(3), np.zeros(2)), ((), ())])
def test_what_has_no_difference_needs_its_error(predicted, measured):
    check = Check("it", predicted=predicted, measured=measured)
    with pytest.raises(
        ValueError, match=r"'it': predicted .* and measured .* have no difference; their error is needed"
    ):
        _ = check.distance
    assert dataclasses.replace(check, error=0.25).distance == 0.25


def test_theorems_are_listed_by_file_and_from_the_top_of_each():
    places = [(known.predict.__module__, known.predict.__code__.co_firstlineno) for known in ORDERED]
    assert places == sorted(places)
    assert {file for file, _ in places} <= {f"ufm.theory.{file.stem}" for file in FILES}


@pytest.mark.parametrize("error", [0.0, 1.0, 1.1, 3.0, 3.1, np.nan])
@pytest.mark.parametrize("certain", [True, False])
@pytest.mark.parametrize("doubt", [0.0, 2.0, np.inf])
def test_a_check_holds_where_it_is_certain_and_fails_beyond_all_doubt(error, certain, doubt):
    check = Check("it", predicted=0.0, measured=error, tolerance=1.0, certain=certain, doubt=doubt)
    holds, fails = certain and error <= 1.0, error > 1.0 + doubt
    assert _claim(named("any"), check).verdict == ("holds" if holds else "fails" if fails else "undecided")


def test_a_verdict_is_its_word():
    claim = ufm.verify(problem()).claims[0]
    assert claim.verdict is ufm.Verdict.HOLDS
    assert claim.verdict == "holds"
    assert claim.verdict in ("holds", "fails", "undecided")
    assert f"{claim.verdict} {claim.verdict!r} {[claim.verdict]}" == "holds 'holds' ['holds']"
    assert json.dumps(claim.verdict) == '"holds"'
    assert pickle.loads(pickle.dumps(claim.verdict)) is claim.verdict
    assert {"holds": 1}[claim.verdict] == 1


# --- strict saddles


def saddle_claim(subject):
    (claim,) = (claim for claim in ufm.verify(subject).claims if claim.theorem == "strict saddles")
    return claim


def stay(p, params):
    """A run of one step from these parameters, which is none at a critical point."""
    return ufm.train(p, optax.sgd(0.1), steps=1, snapshots=2, params=params, precision="float64")


def test_at_a_certified_minimum_no_direction_falls(monkeypatch):
    best = ufm.minimize(problem())
    assert saddle_claim(best).verdict == "holds"
    # the unit is the decay, 1e-2; within a gap of 1e-10 the minimiser is free to move by 1e-5, and a little more
    best = dataclasses.replace(best, lower_bound=best.value * (1 - 1e-10))
    for smallest, verdict in ((-1e-9, "holds"), (-1e-7, "undecided"), (-1e-5, "fails")):
        found = ufm.curvature(best.problem, best.params)._replace(smallest=smallest)
        monkeypatch.setattr("ufm.verification.dense_curvature", lambda p, q, found=found: found)
        assert saddle_claim(best).verdict == verdict
    monkeypatch.setattr("ufm.verification.dense_curvature", lambda p, q: None)  # too large to be formed
    assert "strict saddles" not in {claim.theorem for claim in ufm.verify(best).claims}


def test_a_run_that_rests_on_a_saddle_has_the_way_down_that_is_predicted(monkeypatch):
    p = problem()
    claim = saddle_claim(stay(p, zero_point(p)))
    assert claim.verdict == "holds"
    assert claim.predicted == escape_curvature(p, zero_point(p)) < 0
    monkeypatch.setattr("ufm.theory.landscape.escape_curvature", lambda p, q: 1.01 * claim.predicted)
    assert saddle_claim(stay(p, zero_point(p))).verdict == "fails"


def test_away_from_critical_points_the_landscape_is_undecided():
    p = problem()
    assert saddle_claim(stay(p, p.init(seed=0))).verdict == "undecided"


def test_merged_classes_are_found_without_an_array_of_all_pairs_of_rows():
    tracemalloc.start()
    rows = np.random.default_rng(0).normal(size=(300, 300))
    rows[[3, 7, 11]] = rows[5]
    found = _merged(rows, 1.0)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == ((3, 5, 7, 11),)
    assert most < 10 * rows.nbytes
