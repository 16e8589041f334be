import numpy as np
import pytest
from PIL import Image

SMALL = {"per_class": 10, "steps": 1000, "epochs": 500, "frames": 4}


@pytest.fixture(scope="module")
def table(study):
    evolution = study("evolution")
    return evolution.data(evolution.Config(**SMALL))


def test_features_end_on_the_simplex_of_theory(study, table, seeds):
    evolution = study("evolution")
    scenes = evolution.scenes_of(table)
    for seed in range(1, seeds):
        scenes[f"network, seed {seed}"] = evolution.of_network(evolution.Config(**SMALL, seed=seed))
    for name, scene in scenes.items():
        H, A, simplex = (scene[key].values for key in ("H", "A", "simplex"))
        K = len(simplex)
        gram = simplex @ simplex.T  # K/(K−1) (I − J/K): unit vectors with cosines −1/(K−1)
        np.testing.assert_allclose(gram, K / (K - 1) * (np.eye(K) - 1.0 / K), atol=1e-12)
        off = np.linalg.norm(H - simplex[scene.labels.values][None], axis=2).mean(axis=1)
        assert off[-1] < 0.2, name
        assert off[-1] < off[0] / 3, name
        assert scene.nc1[-1] < scene.nc1[0] / 30, name
        assert np.linalg.norm(A[-1] - simplex, axis=1).max() < 0.3, name


def test_turning_finds_a_rotation(study):
    evolution = study("evolution")
    points = np.random.default_rng(0).normal(size=(4, 3))
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    np.testing.assert_allclose(evolution.turned(points, 2.0 * points @ rotation), points @ rotation, atol=1e-12)


def test_scenes_of_other_shapes_are_held_together(table, study):
    """What fills a scene up is left out where it is drawn."""
    scenes = study("evolution").scenes_of(table).values()
    shapes = [(scene.sizes["sample"], scene.sizes["class"], scene.sizes["axis"]) for scene in scenes]
    assert shapes == [(30, 3, 2), (40, 4, 3), (40, 4, 3)]
    assert not any(scene.isnull().any().to_array().any() for scene in scenes)


def test_animation_moves_and_is_small(study, table, written, tmp_path):
    out, arrays = written(study("evolution"), table)
    assert "digits 0 to 3" in out
    assert (tmp_path / "figure.gif").stat().st_size < 3e6
    with Image.open(tmp_path / "figure.gif") as animation:
        assert animation.n_frames >= 4
        first = np.asarray(animation.convert("RGB"))
        animation.seek(3)
        assert np.mean(np.asarray(animation.convert("RGB")) != first) > 1e-3
    assert arrays["scene"].tolist() == table.scene.values.tolist()
