import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ufm

RNG = np.random.default_rng(0)
NUMBERS = (0.1, 0.9, 0.9, (0.0, 0.0, 0.0, 0.0), 1.0, 10, 0)  # a recipe's, for a start


def network_of(networks, **architecture):
    state = networks.start(networks.Architecture(**architecture), networks.Numbers(*NUMBERS), None)
    return state.network, jnp.asarray(RNG.normal(size=(12, 64)), jnp.float32)


def test_batches_estimate_the_objective_of_the_model(study):
    """Linear networks see no batch statistics, so the mean over a partition into batches is the model's objective."""
    networks = study("networks")
    network, X = network_of(networks, widths=(5,), num_classes=3, linear=True)
    labels = np.repeat(np.arange(3, dtype=np.int32), 4)
    problem = ufm.Problem(3, 5, per_class=4, lambda_A=0.3, lambda_H=0.02, lambda_b=0.1)
    network = network._replace(b=jnp.asarray(RNG.normal(size=3), jnp.float32))
    decays = (0.0, 0.3, 0.1, 0.02)
    order = RNG.permutation(12)
    batches = [networks.objective(network, decays, X[rows], labels[rows], 12)[0] for rows in order.reshape(4, 3)]
    H = np.asarray(networks.hidden(network, X)[0], np.float64)
    whole = problem.objective(ufm.Params(H, np.asarray(network.A, np.float64), np.asarray(network.b, np.float64)))
    np.testing.assert_allclose(np.mean(batches), whole, rtol=1e-6)  # float32


def test_a_cost_is_the_models_risk_under_its_loss_and_weights(study):
    networks = study("networks")
    network, X = network_of(networks, widths=(5,), num_classes=3, linear=True)
    labels, weights = np.repeat(np.arange(3, dtype=np.int32), [7, 3, 2]), np.array([0.5, 1.0, 2.0], np.float32)
    loss = ufm.VectorScaling.vs([7, 3, 2], gamma=0.3)
    problem = ufm.Problem(3, 5, per_class=(7, 3, 2), lambda_A=0.3, lambda_H=0.02, loss=loss, class_weights=weights)
    cost = networks.Cost(loss, weights)
    found, _ = networks.objective(network, (0.0, 0.3, 0.0, 0.02), X, labels, 12, cost)
    H, A = (np.asarray(part, np.float64) for part in (networks.hidden(network, X)[0], network.A))
    np.testing.assert_allclose(found, problem.objective(ufm.Params(H, A, np.zeros(3))), rtol=1e-6)  # float32


def test_perceptrons_take_samples_of_any_size(study):
    networks = study("networks")
    network, _ = network_of(networks, widths=(5, 4), num_classes=3, inputs=2)
    assert [layer.W.shape for layer in network.layers] == [(5, 2), (4, 5)]
    assert networks.hidden(network, jnp.ones((7, 2), jnp.float32))[0].shape == (7, 4)


def test_convolution_is_a_convolution(study):
    """The product with patches, against JAX's own convolution with the same padding and stride."""
    networks = study("networks")
    images = jnp.asarray(RNG.normal(size=(5, 8, 8, 2)), jnp.float32)
    W = jnp.asarray(RNG.normal(size=(3, 3, 2, 4)), jnp.float32)
    names = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(images, W, (2, 2), ((1, 1), (1, 1)), dimension_numbers=names)
    np.testing.assert_allclose(networks.outputs(W, images), expected, atol=1e-5)


@pytest.mark.parametrize("channels", [(), (4, 6)])
def test_hidden_layers_are_normalised_and_shapes_are_as_said(study, channels):
    networks = study("networks")
    network, X = network_of(networks, widths=(16, 7), channels=channels)
    H, seen = networks.hidden(network, X)
    assert H.shape == (12, 7)
    assert networks.logits(network, H).shape == (12, 10)
    assert len(seen) == 2 + len(channels)
    again, _ = networks.hidden(network, X, seen)
    np.testing.assert_allclose(again, H, atol=1e-5)  # a batch's own statistics, given as running ones


def test_a_fixed_classifier_stays_and_the_running_statistics_follow(study):
    networks, handwriting = study("networks"), study("handwriting")
    digits = handwriting.split_by_class((20, 20, 20), 0)
    digits = digits._replace(X_test=digits.X, labels_test=digits.labels)
    recipe = networks.Recipe(10, networks.Decays(A=1e-2, H=1e-3), batch=30)
    A = 2.0 * ufm.geometry.simplex_etf(3, 8)
    run = networks.fit(digits, networks.Architecture((16, 8), num_classes=3, linear=True), recipe, classifier=A)
    assert np.array_equal(run.looks[-1].A, A.astype(np.float32))
    assert not run.looks[-1].b.any()
    assert run.looks[-1].test_accuracy == networks.history(run).accuracy[-1] > 0.9
    assert run.looks[-1].loss < 0.5 * run.looks[0].loss
    with pytest.raises(ValueError, match=r"batch = 61: from 1 to 60"):
        networks.fit(digits, networks.Architecture(), dataclasses.replace(recipe, batch=61))
