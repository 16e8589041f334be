"""Features in files of every format: what `ufm.measure` says of the arrays, without holding them."""

import json
import sys
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
from terminal import assert_refused, run

import ufm
from ufm.metrics import files

HALVES = {"bfloat16": jnp.bfloat16, "float16": np.float16}
_random = np.random.default_rng(0)
LABELS = _random.permutation(np.arange(60) % 4)
H = _random.normal(size=(60, 6)) + 2 * _random.normal(size=(4, 6))[LABELS]
A, B = _random.normal(size=(4, 6)), _random.normal(size=4)


def of_npz(path, **arrays):
    np.savez(path / "f.npz", **arrays)
    return [path / "f.npz"]


def of_compressed_npz(path, **arrays):
    np.savez_compressed(path / "f.npz", **arrays)
    return [path / "f.npz"]


def of_npz_in_columns(path, **arrays):
    return of_npz(path, **{name: np.asfortranarray(array) for name, array in arrays.items()})


def of_npy(path, **arrays):
    """A file for the features, and a file for each of the others."""
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    return [path / f"{name}.npy" for name in arrays]


def of_npy_in_columns(path, **arrays):
    return of_npy(path, **{name: np.asfortranarray(array) for name, array in arrays.items()})


def of_safetensors(path, **arrays):
    pytest.importorskip("safetensors.numpy").save_file(arrays, path / "f.safetensors", {"format": "np"})
    return [path / "f.safetensors"]


def of_hdf5(path, chunks=None, **arrays):
    with pytest.importorskip("h5py").File(path / "f.h5", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, chunks=chunks and (chunks, *array.shape[1:]))
    return [path / "f.h5"]


def of_chunked_hdf5(path, **arrays):
    return of_hdf5(path, chunks=4, **arrays)


def of_parquet(path, columns=lambda name, array: {name: list(array)}, **arrays):
    """A file of what has a row for each sample, and one for each of the others."""
    parquet = pytest.importorskip("pyarrow.parquet")
    made = []
    for count in {len(array): None for array in arrays.values()}:
        table = {}
        for name, array in arrays.items():
            table |= columns(name, array) if len(array) == count else {}
        made.append(path / f"{count}.parquet")
        parquet.write_table(sys.modules["pyarrow"].table(table), made[-1], row_group_size=7)
    return made


def of_parquet_of_fixed_lists(path, **arrays):
    def columns(name, array):
        arrow = sys.modules["pyarrow"]
        return {name: array if array.ndim == 1 else arrow.FixedSizeListArray.from_arrays(array.ravel(), array.shape[1])}

    return of_parquet(path, columns, **arrays)


def of_parquet_of_numbered_columns(path, **arrays):
    def columns(name, array):
        return {name: array} if array.ndim == 1 else {f"{name}_{j}": array[:, j] for j in range(array.shape[1])}

    return of_parquet(path, columns, **arrays)


def of_torch(path, **arrays):
    torch = pytest.importorskip("torch")
    torch.save({name: torch.tensor(array) for name, array in arrays.items()}, path / "f.pt")
    return [path / "f.pt"]


def of_torch_of_before(path, **arrays):
    """As versions before 1.6 wrote it, which cannot be mapped."""
    torch = pytest.importorskip("torch")
    content = {"epoch": 3, "found": {name: torch.tensor(array) for name, array in arrays.items()}}
    torch.save(content["found"], path / "f.pth", _use_new_zipfile_serialization=False)
    return [path / "f.pth"]


WRITERS = [
    of_npz,
    of_compressed_npz,
    of_npz_in_columns,
    of_npy,
    of_npy_in_columns,
    of_safetensors,
    of_hdf5,
    of_chunked_hdf5,
    of_parquet,
    of_parquet_of_fixed_lists,
    of_parquet_of_numbered_columns,
    of_torch,
    of_torch_of_before,
]
every_format = pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of few rows, of which the last has fewer."""
    monkeypatch.setattr(files, "NUMBERS_AT_ONCE", 7 * H.shape[1])


def measured(capsys, *arguments):
    """What the command prints as JSON."""
    assert run("measure", *arguments, "--json") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return json.loads(printed.out)


def known(metrics):
    return {name: float(value) for name, value in metrics._asdict().items() if value is not None}


def assert_same(found, metrics):
    """All that was measured of no class alone, and nothing else."""
    rank, absent, uniformity = (found.pop(name) for name in ("rank", "absent", "uniformity"))
    assert found == pytest.approx(known(metrics), rel=1e-10, abs=1e-13)
    assert uniformity == pytest.approx(known(metrics.uniformity), rel=1e-10, abs=1e-13)
    assert (rank, absent) == (metrics.rank, metrics.absent)


@every_format
@pytest.mark.parametrize("names", [("H", "labels"), ("features", "y"), ("X", "targets")])
def test_features_in_a_file_measure_what_their_arrays_do(write, names, tmp_path, capsys, small_blocks):
    written = write(tmp_path, **{names[0]: H, names[1]: LABELS})
    assert_same(measured(capsys, *written), ufm.measure(H, LABELS))


@every_format
@pytest.mark.parametrize("names", [("A", "b"), ("weight", "bias"), ("fc.weight", "fc.bias"), ("A",)])
def test_a_classifier_in_a_file_of_its_own(write, names, tmp_path, capsys, small_blocks):
    known = dict(zip(names, (A, B), strict=False))
    (tmp_path / "classifier").mkdir()
    (file, *_), samples = write(tmp_path / "classifier", **known), of_npz(tmp_path, H=H, labels=LABELS, A=-A, b=B)
    bias = B if len(names) == 2 and write not in (of_npy, of_npy_in_columns) else None
    assert_same(measured(capsys, *samples, "--classifier", file), ufm.measure(H, LABELS, A, bias))


@pytest.mark.parametrize("write", [of_npz, of_safetensors, of_hdf5, of_torch])
def test_a_classifier_may_stand_beside_the_features(write, tmp_path, capsys, small_blocks):
    written = write(tmp_path, H=H, labels=LABELS, weight=A, bias=B)
    assert_same(measured(capsys, *written), ufm.measure(H, LABELS, A, B))


def test_labels_may_stand_in_a_file_of_another_format(tmp_path, capsys):
    of_npz(tmp_path, H=H, labels=LABELS[::-1])
    of_npy(tmp_path, labels=LABELS)
    assert_same(measured(capsys, tmp_path / "f.npz", tmp_path / "labels.npy"), ufm.measure(H, LABELS))
    for path in (of_npz, of_safetensors):
        (tmp_path / path.__name__).mkdir()
        (file,) = path(tmp_path / path.__name__, arr_0=LABELS)
        assert_same(measured(capsys, tmp_path / "f.npz", file), ufm.measure(H, LABELS))


def test_the_state_of_a_torch_linear_is_a_classifier(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    linear = torch.nn.Linear(6, 4, dtype=torch.float64)
    torch.save(linear.state_dict(), tmp_path / "linear.pt")
    torch.save(torch.tensor(H), tmp_path / "H.pth")
    of_npy(tmp_path, labels=LABELS)
    found = measured(capsys, tmp_path / "H.pth", tmp_path / "labels.npy", "--classifier", tmp_path / "linear.pt")
    assert_same(found, ufm.measure(H, LABELS, linear.weight, linear.bias))


@pytest.mark.parametrize("precision", HALVES)
def test_half_precisions_are_widened(precision, tmp_path, capsys):
    halves = H.astype(HALVES[precision])
    expected = ufm.measure(halves.astype(np.float64), LABELS)
    written = of_safetensors(tmp_path, H=halves, labels=LABELS)
    assert_same(measured(capsys, *written), expected)
    torch = pytest.importorskip("torch")
    torch.save({"H": torch.tensor(H).to(getattr(torch, precision)), "y": torch.tensor(LABELS)}, tmp_path / "f.pt")
    assert_same(measured(capsys, tmp_path / "f.pt"), expected)


@pytest.mark.parametrize("precision", ["float16", "float32"])
@every_format
def test_any_precision_and_any_type_of_labels(write, precision, tmp_path, capsys):
    written = write(tmp_path, H=H.astype(precision), labels=LABELS.astype(np.uint8))
    assert_same(measured(capsys, *written), ufm.measure(H.astype(precision).astype(np.float64), LABELS))


@pytest.mark.parametrize("write", [of_npz, of_compressed_npz, of_npy, of_safetensors, of_hdf5, of_chunked_hdf5])
@pytest.mark.parametrize("known", [{}, {"A": np.ones((4, 64)), "b": np.arange(4.0)}], ids=["alone", "classifier"])
def test_features_are_never_held(write, known, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "NUMBERS_AT_ONCE", 2**16)
    large = np.random.default_rng(0).normal(size=(25_000, 64))
    labels = np.arange(25_000, dtype=np.int32) % 4
    known = {} if write is of_npy else known
    paths = write(tmp_path, H=large, labels=labels, **known)
    with files.samples(*paths) as samples:
        files.measure(samples)  # once, for what is compiled
    tracemalloc.start()
    try:
        with files.samples(*paths) as samples:
            found = files.measure(samples)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < large.nbytes / 3
    assert found.nc2 == pytest.approx(ufm.measure(large, labels).nc2, rel=1e-10)


def test_a_long_measurement_is_shown(tmp_path, monkeypatch, small_blocks):
    news, total = [], []

    class Bar:
        def __init__(self, count, unit, show):
            total.append(count)

        def __enter__(self):
            return lambda done, text: news.append((done, text))

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(files, "progress", Bar)
    with files.samples(*of_npz(tmp_path, H=H, labels=LABELS)) as samples:
        files.measure(samples)
    assert total == [120]
    assert [done for done, _ in news] == [*range(7, 60, 7), 60, *range(67, 120, 7), 120]
    assert {text for _, text in news} == {"class means", "spread about them"}


def test_json_has_no_numbers_that_json_has_not(tmp_path, capsys):
    """Where all class means are equal the spread between them is zero, and NC1 infinite."""
    of_npz(tmp_path, H=np.tile(np.eye(2), (4, 1)), labels=np.repeat(np.arange(4), 2))
    found = measured(capsys, tmp_path / "f.npz")
    assert found["nc1"] is None
    assert found["nc2"] == pytest.approx(1)
    assert "accuracy" not in found


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"H": H, "X": H, "labels": LABELS}, "H and X mean the same, and it has both: keep one of them"),
        ({"H": H, "y": LABELS, "targets": LABELS}, "y and targets mean the same"),
        ({"H": H, "y": LABELS, "A": A, "weight": A}, "A and weight mean the same"),
        ({"H": H, "y": LABELS, "b": B}, "a bias needs its classifier A"),
        ({"h": H, "labels": LABELS}, "no key H, features or X; it has h, labels"),
        ({"H": H, "label": LABELS}, "no key labels, y or targets; it has H, label"),
        ({}, "no key H, features or X; it has no array"),
        (
            {f"layer{i}": A for i in range(20)},
            "it has layer0, layer1, layer2, layer3, layer4, layer5, layer6, layer7, ",
        ),
        ({f"layer{i}": A for i in range(20)}, "layer11, 8 others"),
        ({"H": H, "y": LABELS[:-1]}, "labels of shape (59,): (60,)"),
        ({"H": H, "y": LABELS, "A": A[:, :-1]}, "A of shape (4, 5)"),
        ({"H": H, "y": LABELS, "A": A[:-1]}, "labels up to 3"),
        ({"H": H.astype(object), "y": LABELS}, "H cannot be read (an array of objects, which only pickle reads"),
        ({"H": H.astype(jnp.bfloat16), "y": LABELS}, "as NumPy writes bfloat16: save float32"),
        ({"H": np.full_like(H, np.nan), "y": LABELS}, "a NaN or an infinity"),
    ],
)
def test_what_a_file_lacks_is_one_clear_line(arrays, said, tmp_path, capsys):
    assert_refused(capsys, said, "measure", *of_npz(tmp_path, **arrays))


def test_arrays_that_are_not_asked_for_do_no_harm(tmp_path, capsys):
    written = of_npz(tmp_path, H=H, labels=LABELS, names=np.array(["a", None]), other=np.zeros((3, 3)))
    assert_same(measured(capsys, *written), ufm.measure(H, LABELS))


def test_a_network_of_several_layers_is_no_classifier(tmp_path, capsys):
    of_npz(tmp_path, **{"1.weight": H, "2.weight": A, "2.bias": B})
    (tmp_path / "f.npz").rename(tmp_path / "network.npz")
    samples = of_npz(tmp_path, H=H, labels=LABELS)
    said = "called A or weight, and its bias b or bias; it has 1.weight (60, 6), 2.weight (4, 6)"
    assert_refused(capsys, said, "measure", *samples, "--classifier", tmp_path / "network.npz")
    of_npy(tmp_path, A=B)
    assert_refused(capsys, "A of shape (4,)", "measure", *samples, "--classifier", tmp_path / "A.npy")


def test_a_single_array_needs_its_labels(tmp_path, capsys):
    file, *_ = of_npy(tmp_path, H=H)
    assert_refused(capsys, f"a file of labels beside it is needed, as in {file} LABELS", "measure", file)


@pytest.mark.parametrize("ending", ["", ".pkl", ".joblib", ".csv"])
def test_an_unknown_file_says_what_is_read_and_how_it_is_saved(ending, tmp_path, capsys):
    (tmp_path / f"f{ending}").write_bytes(b"\x80\x04N.")
    endings = ".npz, .npy, .safetensors, .h5, .hdf5, .parquet, .pt, .pth"
    said = (
        f"f{ending}: a name that ends in {endings} is needed, for these are read, and never a pickle; "
        "np.savez(FILE, H=..., labels=...) writes one"
    )
    assert_refused(capsys, said, "measure", tmp_path / f"f{ending}")
    assert_refused(capsys, said, "measure", *of_npz(tmp_path, H=H), tmp_path / f"f{ending}")


@pytest.mark.parametrize(
    ("library", "ending", "installed"),
    [
        ("h5py", ".h5", "'ufm[files]'"),
        ("h5py", ".HDF5", "'ufm[files]'"),
        ("pyarrow", ".parquet", "'ufm[files]'"),
        ("torch", ".pt", "torch"),
    ],
)
def test_a_missing_library_is_named(library, ending, installed, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / f"f{ending}").write_bytes(b"")
    said = f"f{ending}: {library} reads it, and is missing: pip install {installed}\n"
    assert_refused(capsys, said, "measure", tmp_path / f"f{ending}")


@every_format
def test_a_damaged_file_is_one_clear_line(write, tmp_path, capsys):
    written = write(tmp_path, H=H, labels=LABELS)
    whole = written[0].read_bytes()
    for at in range(0, len(whole), 311):
        written[0].write_bytes(whole[:at])
        assert_refused(capsys, written[0].name, "measure", *written)


def test_what_only_pickle_reads_is_never_read_nor_advised(tmp_path, capsys):
    np.save(tmp_path / "f.npy", np.array([H, None], object))
    assert_refused(capsys, "an array of objects, which only pickle reads", "measure", tmp_path / "f.npy")
    torch = pytest.importorskip("torch")
    torch.save({"H": H, "labels": LABELS}, tmp_path / "f.pt")
    said = "writes what is read (it holds more than tensors, numbers and dictionaries)\n"
    assert_refused(capsys, said, "measure", tmp_path / "f.pt")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[1.0, 2.0], [3.0]], "its rows are of different lengths, from 1 to 2"),
        ([[1.0, 2.0], None], "values are missing in it"),
        ([[1.0, 2.0], [None, 3.0]], "values are missing in it"),
    ],
)
def test_tables_are_whole(rows, said, tmp_path, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = sys.modules["pyarrow"].table({"H": rows, "labels": [0, 1], "note": ["a", "b"]})
    parquet.write_table(table, tmp_path / "f.parquet")
    assert_refused(capsys, f"H cannot be read ({said})", "measure", tmp_path / "f.parquet")


GAPS = LABELS + 2 * (LABELS > 1)  # classes 2 and 3 have no sample
IGNORED = np.where(np.arange(60) % 7 == 0, -100, LABELS)
WIDER = np.concatenate((A, A[::-1] + 1.0))  # a classifier of eight classes


@every_format
def test_absent_classes_may_be_dropped(write, tmp_path, capsys, small_blocks):
    written = write(tmp_path, H=H, labels=GAPS)
    assert_refused(capsys, "labels: no sample of class 2", "measure", *written)
    assert_same(measured(capsys, *written, "--absent", "drop"), ufm.measure(H, GAPS, absent="drop"))


def test_absent_classes_stay_among_the_rivals(tmp_path, capsys, small_blocks):
    found = measured(capsys, *of_npz(tmp_path, H=H, labels=GAPS, A=WIDER), "--absent", "drop")
    assert found["absent"] == 4
    assert_same(found, ufm.measure(H, GAPS, WIDER, absent="drop"))


@pytest.mark.parametrize("ignored", [IGNORED, np.where(np.arange(60) < 20, -100, LABELS)], ids=["some", "whole blocks"])
def test_samples_of_a_label_may_be_ignored(ignored, tmp_path, capsys, small_blocks):
    written = of_npz(tmp_path, H=H, labels=ignored, A=A, b=B)
    assert_refused(capsys, "ignore=-100 leaves such samples out", "measure", *written)
    assert_same(measured(capsys, *written, "--ignore", -100), ufm.measure(H, ignored, A, B, ignore=-100))
    everything = of_npz(tmp_path, H=H, labels=np.full(60, 5))
    assert_refused(capsys, "labels: every sample has the one that ignore = 5", "measure", *everything, "--ignore", 5)


@pytest.mark.parametrize("known_too", [{"A": WIDER}, {}], ids=["classifier", "alone"])
def test_each_class_is_in_the_json(known_too, tmp_path, capsys, small_blocks):
    found = measured(capsys, *of_npz(tmp_path, H=H, labels=GAPS, **known_too), "--absent", "drop", "--per-class")
    classes = ufm.measure(H, GAPS, *known_too.values(), absent="drop", per_class=True).classes.known()
    printed = found.pop("classes")
    assert set(printed) == set(classes)
    assert printed["count"][:3] == [np.sum(GAPS == 0), np.sum(GAPS == 1), 0]
    for name, values in classes.items():
        absent = [value is None for value in printed[name]]
        assert absent == np.isnan(values).tolist()
        found = np.array(printed[name], float)  # None as NaN
        np.testing.assert_allclose(found, values, rtol=1e-10, atol=1e-13)


@every_format
@pytest.mark.parametrize("key", ["means", "arr_0"])
def test_other_features_are_measured_against_means_in_a_file(write, key, tmp_path, capsys, small_blocks):
    (tmp_path / "means").mkdir()
    means, *_ = write(tmp_path / "means", **{key: A[:, ::-1] + 0.5})
    samples = of_npz(tmp_path, H=H, labels=IGNORED % 3, A=A, b=B)  # of the last class there is none
    found = measured(capsys, *samples, "--means", means, "--ignore", 2)
    expected = ufm.measure(H, IGNORED % 3, A, B, means=A[:, ::-1] + 0.5, ignore=2)
    assert found == pytest.approx(known(expected), rel=1e-10)
    assert run("measure", *samples, "--means", means) == 0
    printed = capsys.readouterr().out
    assert "nearest_accuracy" in printed
    assert str(means) in printed


def test_means_that_do_not_fit_are_one_clear_line(tmp_path, capsys):
    samples = of_npz(tmp_path, H=H, labels=LABELS)
    for means, said in (
        ({"means": A[:, :-1]}, "means = "),
        ({"means": A[:2]}, "labels up to 3: less than num_classes = 2 is needed"),
        ({"H": A}, "no key means; it has H"),
        ({"A": A, "centres": A}, "no key means; it has A, centres"),
    ):
        np.savez(tmp_path / "means.npz", **means)
        assert_refused(capsys, said, "measure", *samples, "--means", tmp_path / "means.npz")
    for flags in (["--per-class"], ["--absent", "drop"]):
        said = "means with absent or per_class"
        assert_refused(capsys, said, "measure", *samples, "--means", tmp_path / "means.npz", *flags)


def test_features_against_means_are_never_held(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "NUMBERS_AT_ONCE", 2**16)
    large = np.random.default_rng(0).normal(size=(25_000, 64))
    labels, means = np.arange(25_000, dtype=np.int32) % 4, np.eye(4, 64)
    paths = of_npz(tmp_path, H=large, labels=labels)
    np.save(tmp_path / "means.npy", means)
    tracemalloc.start()
    try:
        with files.samples(*paths, means=tmp_path / "means.npy") as samples:
            found = files.evaluate(samples)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < large.nbytes / 3
    assert known(found) == pytest.approx(known(ufm.measure(large, labels, means=means)), rel=1e-10)


LAYERS = [H[:, :3], np.tanh(H), H.astype(np.float32)]


def layers_measured(capsys, *arguments):
    found = measured(capsys, *arguments)
    names = found.pop("layers")
    return names, {name: np.array(values, float) for name, values in found.items()}


def assert_layers_same(found, *given, **words):
    expected = dict(ufm.measure(*given, **words).known())
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-10, atol=1e-13, err_msg=name)


def test_layers_are_arrays_of_a_file_by_name(tmp_path, capsys, small_blocks):
    arrays = {f"X{j}": X for j, X in enumerate(LAYERS)}
    (file,) = of_npz(tmp_path, **arrays, labels=LABELS, A=A, b=B)
    names, found = layers_measured(capsys, file, "--layers", *arrays)
    assert names == ["X0", "X1", "X2"]
    assert_layers_same(found, LAYERS, LABELS, A, B)
    assert np.isnan(found["nc3"]).tolist() == [True, True, False]
    names, found = layers_measured(
        capsys, file, "--layers", "X2", "X0", "--classifier", of_npy(tmp_path, A=A[:, :3])[0]
    )
    assert names == ["X2", "X0"]
    assert_layers_same(found, [LAYERS[2], LAYERS[0]], LABELS, A[:, :3])


def test_layers_are_files_of_their_own_of_any_format(tmp_path, capsys, small_blocks):
    first, labels = of_npy(tmp_path, X0=LAYERS[0], labels=LABELS)
    (second,), (third,) = of_safetensors(tmp_path, features=LAYERS[1]), of_compressed_npz(tmp_path, H=LAYERS[2], A=A)
    _, found = layers_measured(capsys, labels, "--layers", first, second, third)
    assert_layers_same(found, LAYERS, LABELS)
    assert "nc3" not in found
    names, found = layers_measured(capsys, third, labels, "--layers", first, "H")
    assert names == [str(first), "H"]
    assert_layers_same(found, LAYERS[::2], LABELS, A)


def test_layers_leave_samples_and_classes_out(tmp_path, capsys, small_blocks):
    labels = np.where(LABELS == 2, -100, LABELS)
    (file,) = of_npz(tmp_path, X0=LAYERS[0], X1=LAYERS[1], labels=labels, A=A)
    options = ("--ignore", -100, "--absent", "drop")
    _, found = layers_measured(capsys, file, "--layers", "X0", "X1", *options)
    assert_layers_same(found, LAYERS[:2], labels, A, ignore=-100, absent="drop")


def test_a_table_has_a_row_for_each_layer_and_a_figure_draws_them(tmp_path, capsys):
    (file,) = of_npz(tmp_path, X0=LAYERS[0], X1=LAYERS[1], labels=LABELS, A=A)
    figure = tmp_path / "layers.png"
    assert run("measure", file, "--layers", "X0", "X1", "--figure", figure) == 0
    rows, found = [line.split() for line in capsys.readouterr().out.splitlines()], ufm.measure(LAYERS[:2], LABELS, A)
    shown = {name: getattr(found, name) for name in ufm.cli.SHOWN_BY_LAYER}
    assert ["layer", *shown] in rows
    for j in (0, 1):
        assert [f"X{j}", *(f"{values[j]:.4g}" for values in shown.values())] in rows
    assert figure.stat().st_size > 10_000


def test_what_is_wrong_with_layers_is_said_of_the_one_that_it_is(tmp_path, capsys):
    arrays = {"X0": LAYERS[0], "short": H[1:], "flat": H[:, 0], "bad": np.where(H > 2, np.nan, H)}
    (file,) = of_npz(tmp_path, **arrays, labels=LABELS, A=A)
    command = ("measure", file, "--layers", "X0")
    assert_refused(
        capsys, f"layers = 'X7': an array of {file} is needed, which has X0, short, flat, bad", *command, "X7"
    )
    assert_refused(capsys, "layers = 'short': labels of shape (60,): (59,)", *command, "short")
    assert_refused(capsys, "layers = 'flat': features H of shape (60,)", *command, "flat")
    assert_refused(capsys, "layers = 'bad': features H: a NaN", *command, "bad")
    assert_refused(capsys, "A of shape (4, 6): a finite (K, 3)", *command)
    assert_refused(capsys, "layers with means or per_class", *command, "--per-class")
    assert_refused(capsys, "layers with means or per_class", *command, "--means", file)
    with pytest.raises(ValueError, match=r"H\[1\]: labels of shape \(60,\): \(59,\)"):
        ufm.measure([H, H[1:]], LABELS)
