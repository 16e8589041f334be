import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

import ufm


def test_log_loss_is_that_of_the_problem_however_many_classes_are_absent(study):
    dimension = study("dimension")
    K, padded, d, tau = 3, 5, 4, 2.5
    x = np.random.default_rng(0).normal(size=(2 * padded * d, 1))
    absent = np.where(np.arange(padded) < K, 0.0, dimension.ABSENT)[:, None]
    with jax.enable_x64(True):
        found = np.asarray(dimension.log_loss(x, (np.array([tau]), absent)))
    H, A = np.sqrt(tau) * dimension.unit_rows(x, padded)[:, :K, :, 0]
    sphere = ufm.Sphere(np.sqrt(tau))
    problem = ufm.Problem(K, d, per_class=1, lambda_A=0.0, lambda_H=0.0, bias=False, features=sphere, classifier=sphere)
    assert_allclose(found, np.log(problem.objective(ufm.Params(H, A, np.zeros(K)))), rtol=1e-13)


def test_theory_agrees_with_itself(study):
    theory = study("dimension").theory
    for dim in range(2, 9):
        for K in range(2, 4 * dim + 1):
            known, more = theory(dim, K), theory(dim, K + 1)
            assert not known["lower"] > known["upper"]
            # without one of its rows a code is none the closer, so ρ* and the largest angle fall with K
            assert not more["upper"] > known["upper"] + 1e-15
            assert not more["largest_angle"] > known["largest_angle"] + 1e-15
            # and they rise with d, in which codes of fewer dimensions are contained
            assert not known["lower"] > theory(dim + 1, K)["upper"] + 1e-15
    # 77°52' and 74°52' are Schütte and van der Waerden's, 70°32' the angle of a regular tetrahedron's faces
    assert_allclose(np.degrees(theory(3, 7)["largest_angle"]), 77 + 52 / 60, atol=1 / 60)
    assert_allclose(np.degrees(theory(3, 8)["largest_angle"]), 74 + 52 / 60, atol=1 / 60)
    assert_allclose(np.degrees(theory(3, 9)["largest_angle"]), 70 + 32 / 60, atol=1 / 60)


def log_softplus(s):
    """log log(1 + eˢ), where eˢ may underflow."""
    return s if s < -40 else np.log(np.log1p(np.exp(s)))


@pytest.fixture
def found(study, tmp_path, capsys):
    """What the study wrote of two and three dimensions."""
    dimension = study("dimension")
    config = dimension.Config(dims=(2, 3), seeds=2, output=tmp_path / "dimension.png")
    dimension.main(config)
    assert "3, 12" in capsys.readouterr().out
    assert (tmp_path / "dimension.png").stat().st_size > 10_000
    with np.load(tmp_path / "dimension.npz") as file:
        entries = {name: file[name] for name in ("distance", "margin", "angle", "lower", "upper")}
        codes = {
            (d, K): {name: values[i, j] for name, values in entries.items()}
            for i, d in enumerate(file["dim"].tolist())
            for j, K in enumerate(file["num_classes"].tolist())
            if 4 * d >= K
        }
    return codes, config.temperatures[-1]


def test_annealing_finds_the_codes_that_theory_knows(found):
    codes, tau = found
    for (d, K), code in codes.items():
        if d + 1 >= K:
            # the simplex: ⟨w_j − w_k, h_k⟩ = −K/(K−1) for every j ≠ k, at every temperature
            assert_allclose(code["distance"], K / (K - 1), atol=1e-6)
            assert_allclose(code["margin"], -log_softplus(np.log(K - 1) - tau * K / (K - 1)) / tau, atol=1e-9)
        if d == 2:
            # the K-gon, h_k = w_k: ⟨w_j − w_k, h_k⟩ = cos(2πj/K) − 1
            others = tau * (np.cos(2 * np.pi * np.arange(1, K) / K) - 1)
            assert_allclose(code["distance"], 1 - np.cos(2 * np.pi / K), atol=1e-6)
            assert_allclose(code["margin"], -log_softplus(np.logaddexp.reduce(others)) / tau, atol=1e-9)
            assert_allclose(code["angle"], 2 * np.pi / K, atol=1e-4)
    # the octahedron
    assert_allclose(codes[3, 6]["distance"], 1.0, atol=1e-6)
    assert_allclose(codes[3, 6]["angle"], np.pi / 2, atol=1e-4)
    for (_, K), code in codes.items():
        assert code["distance"] <= code["upper"] + 1e-12
        # rows at least θ apart: ⟨w_k, w_k − x⟩ ≥ 1 − cos θ for x in the others' hull
        assert code["distance"] >= 1 - np.cos(code["angle"]) - 1e-12
        # the worst class alone costs 1/K log(1 + e^{−τρ}) whatever its feature is
        assert -tau * code["margin"] >= log_softplus(-tau * code["distance"]) - np.log(K) - 1e-6
        # and at the best code no class costs more than (K−1) e^{−τρ*}, with ρ* above its lower bound
        assert code["margin"] >= code["lower"] - np.log(K - 1) / tau - 1e-9
