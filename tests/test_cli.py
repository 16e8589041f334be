import dataclasses
import io
import os
import runpy
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from terminal import assert_refused, run

import ufm
from ufm.cli import ProblemFlags

SMALL = ("--num-classes", 3, "--dim", 4, "--per-class", 5)


@pytest.fixture
def nothing_computed(monkeypatch):
    def computed(*_, **__):
        raise AssertionError("computed")

    for name in ("train", "minimize", "sweep"):
        monkeypatch.setattr(ufm, name, computed)


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


def test_measure_prints_uniformity_and_how_many_classes_are_absent(tmp_path, capsys):
    arrays = features(tmp_path / "f.npz")
    assert run("measure", tmp_path / "f.npz") == 0
    printed = " ".join(capsys.readouterr().out.split())
    found = ufm.measure(**arrays).uniformity
    for words, name in (
        ("cosines of class means", "cosine"),
        ("log distances of class means", "log_distance"),
        ("cosines of classifier and means", "duality"),
    ):
        assert f"{words} {getattr(found, name):.4g} ± {getattr(found, f'{name}_spread'):.4g}" in printed
    assert f"directions of class means {ufm.measure(**arrays).rank}" in printed
    assert "absent" not in printed
    features(tmp_path / "f.npz", labels=np.arange(12) % 3 * 2, A=None)
    assert run("measure", tmp_path / "f.npz", "--absent", "drop") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "absent classes 2" in printed
    assert "cosines of classifier" not in printed


def test_measure_prints_the_worst_classes_first_and_says_how_many_are_left(tmp_path, capsys):
    random, labels = np.random.default_rng(0), np.repeat(np.arange(30), 12345 // 30)
    H = 4 * random.normal(size=(30, 5))[labels] + (1 + labels % 7)[:, None] * random.normal(size=(len(labels), 5))
    features(tmp_path / "f.npz", H=H, labels=2 * labels, A=None)
    assert run("measure", tmp_path / "f.npz", "--per-class", "--absent", "drop") == 0
    printed = capsys.readouterr().out
    classes = ufm.measure(H, 2 * labels, absent="drop", per_class=True).classes
    worst = np.argsort(np.where(classes.count > 0, -classes.nc1, np.inf))[:20]
    rows = [line.split() for line in printed.splitlines() if line.strip()][-21:-1]
    assert [int(row[0]) for row in rows] == worst.tolist()
    values = [value[worst[0]] for value in classes.known().values()]  # samples and the nearest class are whole numbers
    assert rows[0] == [f"{value:.4g}" for value in (worst[0], *values)]
    assert printed.splitlines()[-1] == "and 10 classes more; --json has all of them"
    features(tmp_path / "f.npz")
    assert run("measure", tmp_path / "f.npz", "--per-class") == 0
    printed = capsys.readouterr().out
    assert "accuracy" in printed
    assert "classes more" not in printed


def test_measure_draws_each_class(tmp_path, capsys):
    features(tmp_path / "f.npz")
    assert run("measure", tmp_path / "f.npz", "--per-class", "--figure", tmp_path / "folder" / "f.png", "--json") == 0
    assert (tmp_path / "folder" / "f.png").stat().st_size > 10_000
    assert capsys.readouterr().out.startswith("{")


def test_figures_of_classes_are_checked_before_anything_is_computed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ufm.cli.files, "samples", None)
    features(tmp_path / "f.npz")
    (tmp_path / "folder.png").mkdir()
    command = ("measure", tmp_path / "f.npz", "--figure")
    assert_refused(capsys, "--per-class is needed too", *command, tmp_path / "x.png")
    assert_refused(capsys, "x.txt': a name that ends in .png", *command, tmp_path / "x.txt", "--per-class")
    assert_refused(capsys, "folder.png': a folder", *command, tmp_path / "folder.png", "--per-class")


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


def test_a_damaged_archive_is_one_clear_line(tmp_path, capsys):
    features(tmp_path / "f.npz")
    whole = (tmp_path / "f.npz").read_bytes()
    np.savez_compressed(tmp_path / "c.npz", H=np.zeros((400, 4)), labels=np.tile(np.arange(4), 100))
    packed = (tmp_path / "c.npz").read_bytes()
    damaged = [whole[:at] for at in range(0, len(whole), 301)] + [packed[:at] for at in range(0, len(packed), 101)]
    for at in range(0, len(packed), 23):
        damaged.append(packed[:at] + bytes([packed[at] ^ 0x55]) + packed[at + 1 :])
    codes = []
    for content in damaged:
        (tmp_path / "d.npz").write_bytes(content)
        codes.append(run("measure", tmp_path / "d.npz"))
        error = capsys.readouterr().err
        assert codes[-1] in (0, 2)
        assert error.count("\n") == (codes[-1] == 2)
    assert codes.count(2) > len(whole) // 301
    flipped = bytearray(whole)
    flipped[whole.index(b"H.npy") + 200] ^= 1
    (tmp_path / "d.npz").write_bytes(bytes(flipped))
    assert_refused(capsys, "d.npz: H cannot be read (Bad CRC-32", "measure", tmp_path / "d.npz")


def test_a_file_of_something_else_is_named_without_advice_to_unpickle_it(tmp_path, capsys):
    (tmp_path / "f.npz").write_text("junk")
    assert run("measure", tmp_path / "f.npz") == 2
    needed = "not an .npz file, or a damaged one; np.savez(FILE, H=..., labels=...) writes what is read"
    assert capsys.readouterr().err == f"ufm: {tmp_path / 'f.npz'}: {needed} (File is not a zip file)\n"


@pytest.mark.parametrize(("key", "said"), [("A", "728. TiB"), ("H", "labels of shape (12,)")])
def test_arrays_that_are_too_large_are_one_clear_line(tmp_path, capsys, key, said):
    """What is read whole; features are streamed, and these are refused before."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**7, 10**7)})
    features(tmp_path / "f.npz", **{key: None})
    with zipfile.ZipFile(tmp_path / "f.npz", "a") as archive:
        archive.writestr(f"{key}.npy", header.getvalue())
    assert_refused(capsys, said, "measure", tmp_path / "f.npz")


@pytest.mark.parametrize("name", ["save", "figure"])
def test_what_cannot_be_written_is_said_before_anything_is_computed(name, tmp_path, capsys, nothing_computed):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "file" / "x.png", tmp_path / "folder.png"):
        assert_refused(capsys, f"{name} = {str(path)!r}: ", "train", *SMALL, f"--{name}", path)
    assert [path.name for path in tmp_path.iterdir()] == ["file", "folder.png"]


def test_figures_of_no_known_kind_are_refused_before_anything_is_computed(tmp_path, capsys, nothing_computed):
    for path in (tmp_path / "x.txt", tmp_path / "x"):
        assert_refused(capsys, f"figure = {str(path)!r}: a name that ends in", "train", *SMALL, "--figure", path)
    both = ("--figure", tmp_path / "x.png", "--save", tmp_path / "x.png")
    assert_refused(capsys, "two files are needed", "train", *SMALL, *both)


def test_grids_are_checked_before_anything_is_computed(tmp_path, capsys, nothing_computed):
    command = ("sweep", *SMALL, "--store", tmp_path / "s")
    assert_refused(capsys, "over: a dimension is needed", *command)
    twice = ("--over", "dim=4,5", "--over", "lambda_A=1", "--over", "dim=6,7")
    assert_refused(capsys, "over: 'dim' stands in it twice", *command, *twice)
    assert_refused(
        capsys, "not enough memory: Unable to allocate 728. TiB", *command, "--over", "lambda_A=log:1:2:99999999999999"
    )
    assert not (tmp_path / "s").exists()


def test_a_store_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "s"):
        assert_refused(capsys, f"store = {str(path)!r}: ", "sweep", *SMALL, "--over", "dim=4", "--store", path)


def test_defaults_are_those_of_a_problem():
    flags = ProblemFlags(num_classes=3, dim=4)
    by_hand = ufm.Problem(num_classes=3, dim=4, per_class=100)
    for field in dataclasses.fields(ufm.Problem):
        assert repr(getattr(flags.problem(), field.name)) == repr(getattr(by_hand, field.name))


def test_rows_of_fixed_norm_have_no_decay_unless_it_is_given():
    for words, decays in (
        ({"features": "sphere"}, (5e-4, 0.0)),
        ({"features": "sphere", "classifier": "sphere"}, (0.0, 0.0)),
        ({"classifier": "etf"}, (0.0, 5e-4)),
        ({"features": "ball"}, (5e-4, 5e-4)),
        ({"lambda_H": 0.1}, (5e-4, 0.1)),
    ):
        made = ProblemFlags(num_classes=3, dim=4, **words).problem()
        assert (made.lambda_A, made.lambda_H) == decays
    with pytest.raises(ValueError, match=r"lambda_H = 0\.1: the norm of features under Sphere is fixed"):
        ProblemFlags(features="sphere", lambda_H=0.1).problem()


def test_a_simplex_of_a_deep_problem_has_the_width_of_the_last_layer():
    made = ProblemFlags(num_classes=3, dim=4, classifier="etf", widths=(6, 5)).problem()
    assert made.classifier.matrix.shape == (3, 5)


def test_the_package_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ufm", "--version"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("ufm", run_name="__main__")
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"ufm {ufm.__version__}\n"


def test_verify_says_where_no_theorem_applies(capsys):
    decays = ("--lambda-A", 0.01, "--lambda-H", 0.01)
    assert run("verify", "--num-classes", 3, "--dim", 4, "--per-class", 3, 2, 1, "--loss", "focal", *decays) == 0
    assert "no theorem known here speaks of it" in " ".join(capsys.readouterr().out.split())


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


def test_sweep_writes_summarises_and_goes_on(tmp_path, capsys, monkeypatch):
    shape = ["--num-classes", 3, "--dim", 4, "--per-class", 5, "--lambda-H", 1e-2]
    command = ["sweep", *shape, "--over", "lambda_A=log:1e-4:1e-2:3", "--over", "seed=0:2", "--store", tmp_path / "s"]
    for _ in range(2):
        assert run(*command) == 0
        printed = capsys.readouterr().out
        assert "6 points, 6 converged, 6 certified" in printed
        assert "lower_bound" in printed
    assert run(*command, "--lambda-b", 0.1) == 2
    assert "problem.lambda_b is 0.0 there and 0.1 here" in capsys.readouterr().err
    monkeypatch.setattr(ufm.sweeps.grid, "versions", lambda: {"numpy": "9"})
    assert run(*command) == 2
    assert "versions='any'" in capsys.readouterr().err
    assert run(*command, "--versions", "any") == 0


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


SOFT = np.array([[0.7, 0.3, 0.0], [0.1, 0.2, 0.7], [0.0, 0.5, 0.5]])
DECAYS = ("--lambda-A", 0.01, "--lambda-H", 0.01)


def test_targets_of_a_file_are_verified_however_they_were_written(tmp_path, capsys):
    targets = ufm.Targets(SOFT, [3, 1, 2], weights=[1.0, 2.0, 1.0])
    targets.save(tmp_path / "saved")
    np.savez(tmp_path / "arrays.npz", rows=SOFT, counts=[3, 1, 2], weights=[1.0, 2.0, 1.0])
    best = ufm.minimize(ufm.Problem(targets=targets, dim=4, lambda_A=0.01, lambda_H=0.01))
    for name in ("saved", "arrays.npz"):
        assert run("verify", "--targets", tmp_path / name, "--dim", 4, *DECAYS) == 0
        assert f"value {best.value:.10g}" in capsys.readouterr().out
    np.savez(tmp_path / "arrays.npz", rows=SOFT, counts=2)  # one count for all, no weights
    fixed = ("--classifier", "etf", "--lambda-H", 0.01)
    assert run("verify", "--targets", tmp_path / "arrays.npz", "--dim", 4, *fixed) == 0


def npy(array):
    """One array as a file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: np.savez(path, rows=SOFT), "it has rows"),
        (lambda path: np.savez(path), "it has nothing"),
        (lambda path: path.write_text("rows"), "is needed"),
        (lambda path: path.write_bytes(b""), "is needed"),
        (lambda path: path.write_bytes(b"PK\x03\x04 cut"), "is needed"),
        (lambda path: path.write_bytes(npy(SOFT)), "it is one array without a name"),
        (lambda path: np.savez(path, rows=SOFT, counts=np.array([object()] * 3)), "is needed"),
        (lambda path: ufm.Recorder(3).save(path), "it holds a Recorder"),
    ],
)
def test_a_file_of_no_targets_is_refused_with_what_is_needed(write, said, tmp_path, capsys, nothing_computed):
    write(tmp_path / "file.npz")
    assert_refused(capsys, said, "verify", "--targets", tmp_path / "file.npz")


def test_classes_beside_targets_are_refused(tmp_path, capsys, nothing_computed):
    np.savez(tmp_path / "good.npz", rows=SOFT, counts=[3, 1, 2])
    said = "num_classes = 3 beside targets"
    assert_refused(capsys, said, "verify", "--targets", tmp_path / "good.npz", "--num-classes", 3)
