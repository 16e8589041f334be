import dataclasses

import jax
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from zoo import problem

import ufm
from ufm._core.descent import Descent, oscillates
from ufm.theory import factor
from ufm.theory.terminal_rates import SLOPES

DESCENTS = {
    "gradient descent": (optax.sgd(0.5), Descent(0.5, 0.0, False)),
    "heavy ball": (optax.sgd(0.3, momentum=0.9), Descent(0.3, 0.9, False)),
    "Nesterov": (optax.sgd(0.3, momentum=0.9, nesterov=True), Descent(0.3, 0.9, True)),
    "one number twice": (optax.sgd(0.5, momentum=0.5), Descent(0.5, 0.5, False)),
    "no momentum, said": (optax.sgd(1, momentum=0.0), Descent(1.0, 0.0, False)),
    "a number of NumPy's": (optax.sgd(np.float64(0.3)), Descent(0.3, 0.0, False)),
    "the same chain": (optax.chain(optax.trace(0.7), optax.scale(-0.1)), Descent(0.1, 0.7, False)),
}
OTHERS = {
    "Adam": optax.adam(1e-2),
    "Adagrad": optax.adagrad(0.3),
    "signs": optax.sign_sgd(1e-3),
    "a falling rate": optax.sgd(optax.cosine_decay_schedule(0.1, 100)),
    "decay in the optimiser": optax.chain(optax.add_decayed_weights(1e-3), optax.sgd(0.1)),
    "clipped": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
    "projected": optax.chain(optax.sgd(1.0), optax.keep_params_nonnegative()),
    "every other step": optax.conditionally_mask(optax.sgd(1.0), lambda step: step % 2 == 0),
    "ascent": optax.sgd(-0.1),
    "one rate for each factor": optax.multi_transform(
        {"H": optax.sgd(0.1), "other": optax.sgd(0.2)}, lambda params: params._replace(H="H", A="other", b="other")
    ),
    "one's own": optax.stateless(lambda gradient, params: gradient._replace(H=-0.1 * gradient.H)),
}


@pytest.mark.parametrize("name", DESCENTS)
def test_a_run_knows_what_descent_it_was(name):
    optimizer, expected = DESCENTS[name]
    run = ufm.train(problem(), optimizer, steps=3, snapshots=2, precision="float64")
    assert_allclose(run.descent, expected, rtol=1e-9)


@pytest.mark.parametrize("name", OTHERS)
def test_a_run_of_another_optimiser_knows_that_it_was_none(name):
    with jax.numpy_dtype_promotion("standard"):  # of optax, whose counters meet real numbers
        assert ufm.train(problem(), OTHERS[name], steps=3, snapshots=2).descent is None


def test_a_descent_is_kept_in_a_file_and_known_of_each_seed(tmp_path):
    run = ufm.train(problem(), optax.sgd(0.3, momentum=0.9), steps=3, snapshots=2, seed=[0, 1], precision="float64")
    run.save(tmp_path / "run.npz")
    for each in (run, run[1], ufm.load(tmp_path / "run.npz")):
        assert_allclose(each.descent, (0.3, 0.9, False), rtol=1e-9)


@given(
    ratio=st.floats(1e-3, 1.9),
    momentum=st.sampled_from([0.0, 0.3, 0.9]),
    nesterov=st.booleans(),
    power=st.sampled_from([1.0, 2.0]),
)
def test_the_factor_is_that_of_the_iteration(ratio, momentum, nesterov, power):
    """Heavy ball: (x, v) ↦ (x − η(βv + rx), βv + rx); Nesterov: v' = βv + rx, x' = x − η(rx + βv'). Linear maps.

    Their spectral radii are what a long run is multiplied by, a step; a square's rate is 2r, and its factor a square.
    """
    eta, r = 0.5, ratio / 0.5
    v = np.array([r, momentum])  # the new memory, of (x, v)
    moved = r * np.array([1.0, 0.0]) + momentum * v if nesterov else v
    radius = np.max(np.abs(np.linalg.eigvals([np.array([1.0, 0.0]) - eta * moved, v])))
    found = factor(power * r, eta, momentum, nesterov=nesterov, power=power)
    assert_allclose(found, radius**power, rtol=1e-6)  # a double root is known to √ε
    if momentum == 0.0:
        assert_allclose(found, abs(1 - ratio) ** power, atol=1e-14)


def test_the_factor_of_small_steps_is_that_of_the_flow():
    # log factor / (η/(1−β)) → −rate
    for momentum in (0.0, 0.9):
        step = 1e-6 / (1 - momentum)
        assert_allclose(np.log(factor([0.3, 0.6], 1e-6, momentum)) / step, [-0.3, -0.6], rtol=1e-4)


def test_what_a_factor_refuses_is_named():
    for words, named in (
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"power": 0.0}, "power"),
    ):
        with pytest.raises(ValueError, match=named):
            factor(**{"rate": 0.1, "learning_rate": 0.1, **words})


def test_deviations_turn_beyond_critical_damping():
    # complex roots of z² − (1+β−ηr)z + β: ηr > (1 − √β)²
    critical = (1 - np.sqrt(0.81)) ** 2 / 0.5
    assert not oscillates(0.99 * critical, Descent(0.5, 0.81))
    assert oscillates(1.01 * critical, Descent(0.5, 0.81))


def test_rates_are_those_of_the_slowest_modes():
    # K = 3, d = 4, n = 5: θ = s/3, within classes λ_H(1+θ) in the span and λ_H beyond it
    p = problem(lambda_A=2e-2)
    said = ufm.predict(p).rates
    kappa = np.sqrt(5 * 2e-4)
    margin = np.log(1 / kappa - 2)
    tilted = 2 * (1e-2 + 3e-2)  # by what relaxes at λ_A + λ_H
    by_mean = 2 * (1e-2 + 1e-2) + said["nc2"] * 2
    assert_allclose(said["nc1"], min(2e-2 * (1 + margin / 3), tilted, by_mean), rtol=1e-12)
    assert_allclose(said["trace_ratio"], 2e-2, rtol=1e-12)
    eigenvalues = ufm.predict(p).spectrum.values
    assert_allclose(said["loss"], 2 * np.min(eigenvalues[eigenvalues > 1e-12]), rtol=1e-12)
    assert set(ufm.predict(dataclasses.replace(p, per_class=1)).rates) == {"nc2", "nc3", "loss"}
    assert "nc2" not in ufm.predict(problem(num_classes=2)).rates  # two centred means are always opposite


ZOO = {
    "cross-entropy, d = K − 1": ({"dim": 2, "per_class": 3, "lambda_A": 2e-2}, 1.0, 0.0, 5000, "holds"),
    "cross-entropy, d > K − 1": ({"lambda_A": 2e-2, "per_class": 3}, 0.5, 0.5, 5000, "holds"),
    "squared error": (
        {"loss": ufm.SquaredError(), "bias": False, "lambda_A": 2e-2, "lambda_H": 2e-2},
        0.5,
        0.5,
        4000,
        "holds",
    ),
}


def claims_of(run):
    found = [claim for claim in ufm.verify(run).claims if claim.theorem == "terminal rates"]
    return {claim.quantity.split()[3]: claim for claim in found}


@pytest.mark.parametrize("name", ZOO)
def test_measured_slopes_are_those_predicted(name):
    words, rate, momentum, steps, of_loss = ZOO[name]
    p = problem(**words)
    optimizer = optax.sgd(rate, momentum=momentum, nesterov=True) if momentum else optax.sgd(rate)
    run = ufm.train(p, optimizer, steps=steps, seed=1, snapshots=150, precision="float64")
    claims = claims_of(run)
    assert set(claims) == set(SLOPES)
    verdicts = {quantity: str(claim.verdict) for quantity, claim in claims.items()}
    assert verdicts == dict.fromkeys(SLOPES, "holds") | {"loss": of_loss}


def test_a_slope_before_the_means_have_settled_refutes_nothing():
    # NC1 falls through all of its phase at the eigenvalue of logits that are still on their way
    p = problem(num_classes=4, dim=3, per_class=2, loss=ufm.LabelSmoothing(0.1), lambda_A=1e-3, lambda_H=1e-3)
    run = ufm.train(p, optax.sgd(0.6), steps=4000, seed=0, snapshots=150, precision="float64")
    assert run.history.nc2[-1] > 1e-5
    claim = claims_of(run)["nc1"]
    assert (claim.error > claim.tolerance, str(claim.verdict)) == (True, "undecided")


def test_what_a_flat_minimum_leaves_open_refutes_nothing():
    # a gap below the tolerance, but 1e-3 from the minimiser, since the least curvature is some 1e-5
    p = problem(num_classes=2, dim=1, per_class=3, loss=ufm.LabelSmoothing(0.1), lambda_A=1e-3, lambda_H=1e-3)
    report = ufm.verify(ufm.train(p, optax.sgd(1.0), steps=8000, seed=2, snapshots=10, precision="float64"))
    gram = next(claim for claim in report.claims if claim.quantity == "Gram of class means")
    assert gram.error > 1e2 * gram.tolerance
    assert not report.fails


def test_a_short_run_decides_nothing_and_another_rate_is_refuted(monkeypatch):
    p = problem(**ZOO["cross-entropy, d = K − 1"][0])
    short = claims_of(ufm.train(p, optax.sgd(1.0), steps=50, snapshots=20, precision="float64"))
    assert {str(claim.verdict) for claim in short.values()} == {"undecided"}
    run = ufm.train(p, optax.sgd(1.0), steps=5000, seed=1, snapshots=150, precision="float64")
    wrong = claims_of(dataclasses.replace(run, descent=Descent(1.1, 0.0, False)))
    assert str(wrong["nc2"].verdict) == "fails"  # 10 % off, where 5 % is allowed
    assert claims_of(dataclasses.replace(run, descent=None)) == {}
