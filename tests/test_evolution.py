import numpy as np
from PIL import Image

SMALL = {"per_class": 10, "steps": 1000, "epochs": 500, "frames": 4}


def test_features_end_on_the_simplex_of_theory(study):
    evolution = study("evolution")
    scenes = evolution.data(evolution.Config(**SMALL))
    scenes["network again"] = evolution.of_network(evolution.Config(**SMALL, seed=1))
    for name, scene in scenes.items():
        K = len(scene.simplex)
        gram = scene.simplex @ scene.simplex.T  # K/(K−1) (I − J/K): unit vectors with cosines −1/(K−1)
        np.testing.assert_allclose(gram, K / (K - 1) * (np.eye(K) - 1.0 / K), atol=1e-12)
        off = np.linalg.norm(scene.H - scene.simplex[scene.labels][None], axis=2).mean(axis=1)
        assert off[-1] < 0.2, name
        assert off[-1] < off[0] / 3, name
        assert scene.metrics.nc1[-1] < scene.metrics.nc1[0] / 30, name
        assert np.linalg.norm(scene.A[-1] - scene.simplex, axis=1).max() < 0.3, name


def test_turning_finds_a_rotation(study):
    evolution = study("evolution")
    points = np.random.default_rng(0).normal(size=(4, 3))
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    np.testing.assert_allclose(evolution.turned(points, 2.0 * points @ rotation), points @ rotation, atol=1e-12)


def test_animation_moves_and_is_small(study, tmp_path, capsys):
    evolution = study("evolution")
    evolution.main(evolution.Config(**SMALL | {"steps": 20, "epochs": 3, "output": tmp_path / "evolution.png"}))
    assert "digits 0 to 3" in capsys.readouterr().out
    assert (tmp_path / "evolution.png").stat().st_size > 10_000
    assert (tmp_path / "evolution.gif").stat().st_size < 3e6
    with Image.open(tmp_path / "evolution.gif") as animation:
        assert animation.n_frames >= 4
        first = np.asarray(animation.convert("RGB"))
        animation.seek(3)
        assert np.mean(np.asarray(animation.convert("RGB")) != first) > 1e-3
    with np.load(tmp_path / "evolution.npz") as file:
        assert {"command", "versions", "model, K = 4 in space/H"} <= set(file)
