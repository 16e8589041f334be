import os
import subprocess
import sys

import numpy as np
import pytest

import ufm
from ufm.cli import main


def run(*arguments):
    return main([str(argument) for argument in arguments])


def features(path, **changes):
    random = np.random.default_rng(0)
    arrays = {"H": random.normal(size=(12, 4)), "labels": np.tile(np.arange(3), 4), "A": random.normal(size=(3, 4))}
    arrays = {key: value for key, value in {**arrays, **changes}.items() if value is not None}
    np.savez(path, **arrays)
    return arrays


def test_version_and_help(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"ufm {ufm.__version__}\n"
    for arguments in (["--help"], ["train", "--help"], ["measure", "--help"]):
        with pytest.raises(SystemExit) as stop:
            run(*arguments)
        assert stop.value.code == 0
    assert "Weight decay of the classifier" in capsys.readouterr().out


def test_train_prints_saves_and_draws(tmp_path, capsys):
    shape = ["--num-classes", 3, "--dim", 4, "--per-class", 5, 4, 3, "--loss", "squared-error"]
    code = run("train", *shape, "--steps", 40, "--rate", 0.1, "--save", tmp_path / "r", "--figure", tmp_path / "f.png")
    assert code == 0
    assert "nc1" in capsys.readouterr().out
    assert ufm.load(tmp_path / "r").problem.per_class == (5, 4, 3)
    assert (tmp_path / "f.png").stat().st_size > 10_000


def test_train_that_diverges_is_a_failure(capsys):
    shape = ["--num-classes", 3, "--dim", 4, "--per-class", 5, "--loss", "squared-error"]
    assert run("train", *shape, "--steps", 3000, "--rate", 300) == 1
    assert "diverged" in capsys.readouterr().out


def test_measure_prints_what_measure_returns(tmp_path, capsys):
    arrays = features(tmp_path / "f.npz")
    assert run("measure", tmp_path / "f.npz") == 0
    printed = capsys.readouterr().out
    for name, value in ufm.measure(**arrays)._asdict().items():
        assert name in printed
        assert f"{value:.4g}" in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "no key labels"),
        ({"H": None}, "no key H"),
        ({"H": np.ones(12)}, "H of shape (12,)"),
        ({"A": np.ones((3, 5))}, "A of shape (3, 5)"),
        ({"labels": np.full(12, 7)}, "labels"),
    ],
)
def test_bad_feature_files_are_one_clear_line(tmp_path, capsys, changes, message):
    features(tmp_path / "f.npz", **changes)
    assert run("measure", tmp_path / "f.npz") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_files_that_are_no_feature_files(tmp_path, capsys):
    (tmp_path / "text").write_text("not an archive")
    (tmp_path / "zip").write_bytes(b"PK\x03\x04 broken")
    np.save(tmp_path / "one.npy", np.ones(3))
    for name in ("absent.npz", "text", "zip", "one.npy"):
        assert run("measure", tmp_path / name) == 2
        assert capsys.readouterr().err.startswith("ufm: ")


def test_bad_flags_are_exit_code_two_without_a_traceback():
    for arguments in (["train", "--num-classes", "1"], ["train", "--steps", "many"]):
        done = subprocess.run([sys.executable, "-m", "ufm.cli", *arguments], capture_output=True, text=True)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr + done.stdout


def test_a_reader_that_goes_away_is_no_error():
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as pipe:
        done = subprocess.run([sys.executable, "-m", "ufm.cli", "theorems"], stdout=pipe, stderr=subprocess.PIPE)
    assert done.returncode == ufm.cli.UNREAD
    assert done.stderr == b""


def test_sweep_writes_summarises_and_goes_on(tmp_path, capsys):
    shape = ["--num-classes", 3, "--dim", 4, "--per-class", 5, "--lambda-H", 1e-2]
    command = ["sweep", *shape, "--over", "lambda_A=log:1e-4:1e-2:3", "--over", "seed=0:2", "--store", tmp_path / "s"]
    for _ in range(2):
        assert run(*command) == 0
        printed = capsys.readouterr().out
        assert "6 points, 6 converged, 6 certified" in printed
        assert "lower_bound" in printed
    assert run(*command, "--lambda-b", 0.1) == 2
    assert "problem.lambda_b is 0.0 there and 0.1 here" in capsys.readouterr().err


def test_sweep_trains(tmp_path, capsys):
    shape = ["--num-classes", 3, "--dim", 4, "--per-class", 5, "--lambda-H", 1e-2]
    command = ["sweep", *shape, "--run", "sgd", "--steps", 5, "--snapshots", 2, "--over", "learning_rate=0.1,0.5"]
    assert run(*command, "--store", tmp_path / "s") == 0
    assert "2 points, 2 finished" in capsys.readouterr().out


def test_grids_are_written_in_four_ways():
    for text, values in (
        ("lambda_A=log:1e-2:1:3", [0.01, 0.1, 1.0]),
        ("loss.alpha=lin:0:1:3", [0.0, 0.5, 1.0]),
        ("seed=2:4", [2, 3]),
        ("dim=4,8", [4, 8]),
        ("bias=True,False", [True, False]),
    ):
        name, found = ufm.cli._over(text)
        assert name == text.split("=")[0]
        assert found == pytest.approx(values)
    for text in ("lambda_A", "lambda_A=log:1:2", "dim=four", "seed=0:x"):
        with pytest.raises(ValueError, match="NAME=VALUE,VALUE"):
            ufm.cli._over(text)
