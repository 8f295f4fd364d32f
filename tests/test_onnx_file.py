"""ONNX files: what they say, where their weights lie, and that no other weights are ever run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from mixer_conformance import conformance_inputs, conformance_weights
from mixer_converters import canonical, onnx_export
from mixer_converters.onnx_export import export_onnx
from mixer_converters.onnx_file import read_onnx
from mixer_onnxruntime import OnnxRuntimeBackend, load_onnx
from mixer_spec import FileError, InputError, ModelSpec, SpecError, families
from mixer_spec.preprocess import PIPELINES
from mixer_spec.shapes import TokenIds, Vectors
from mixer_spec.weights import digest

SPEC = families.mixer(
    image_size=(8, 12), patch=4, channels=8, depth=1, token_hidden=5, channel_hidden=7, classes=3
)
WEIGHTS = conformance_weights(SPEC)
OTHER_WEIGHTS = conformance_weights(SPEC, seed=1)
IMAGES = conformance_inputs(SPEC, 2)

DESCRIPTION: dict[str, Any] = {
    "variant": "mixer_s32",
    "preprocessing": PIPELINES["big_vision"],
    "labels": ("cat", "dog", "lion"),
    "provenance": {"by": "a test"},
}


def run_blindly(path: Path) -> NDArray[Any]:
    """What a user's own ONNX Runtime computes, without our checks."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pixels = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))
    (logits,) = session.run(["logits"], {"pixel_values": pixels})
    found: NDArray[Any] = logits
    return found


def expected(weights: Any = WEIGHTS, spec: ModelSpec = SPEC) -> NDArray[Any]:
    return OnnxRuntimeBackend().load(spec, weights).forward(IMAGES)["logits"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tiny.onnx"


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of any size go into a file beside the graph, as those over 1.5 GB do."""
    monkeypatch.setattr(onnx_export, "_INLINE_BYTES", 0)


@pytest.fixture(params=["inside", "outside"])
def either(request: pytest.FixtureRequest) -> str:
    if request.param == "outside":
        request.getfixturevalue("outside")
    return str(request.param)


# --- what was exported comes back -----------------------------------------------------------


@pytest.mark.usefixtures("either")
def test_the_file_says_everything_about_itself(path: Path) -> None:
    written = export_onnx(SPEC, WEIGHTS, path, taps=["stem"], input_layout="NHWC", **DESCRIPTION)
    found = read_onnx(path)
    for file in (written, found):
        assert file.spec == SPEC
        assert {name: getattr(file, name) for name in DESCRIPTION} == DESCRIPTION
        assert file.weights_digest == digest(WEIGHTS)
        assert file.input_layout == "NHWC"
        assert file.outputs == ("stem", "logits")
        assert file.path == path
    assert written.data_path == found.data_path


@pytest.mark.usefixtures("either")
def test_any_runtime_can_run_the_file_where_it_lies(path: Path) -> None:
    export_onnx(SPEC, WEIGHTS, path)
    onnx.checker.check_model(path, full_check=True)
    assert np.array_equal(run_blindly(path), expected())


@pytest.mark.usefixtures("either")
def test_the_pair_may_move_to_another_folder(path: Path, tmp_path_factory: Any) -> None:
    export_onnx(SPEC, WEIGHTS, path)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for file in path.parent.iterdir():
        shutil.move(file, elsewhere)
    assert np.array_equal(run_blindly(elsewhere / path.name), expected())
    read_onnx(elsewhere / path.name)


def test_a_runtime_shows_the_metadata_to_its_users(path: Path) -> None:
    export_onnx(SPEC, WEIGHTS, path, **DESCRIPTION)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta()
    assert metadata.producer_name == "mixer_spec"
    entries = metadata.custom_metadata_map
    assert entries["mixer_spec.spec"] == SPEC.to_json()
    assert entries["mixer_spec.fingerprint"] == SPEC.fingerprint
    assert entries["mixer_spec.weights_digest"] == digest(WEIGHTS)
    assert entries["mixer_spec.input_layout"] == "NCHW"
    assert entries["mixer_spec.variant"] == "mixer_s32"
    assert entries["mixer_spec.labels"] == '["cat", "dog", "lion"]'
    assert '"mean"' in entries["mixer_spec.preprocessing"]


def test_small_weights_stay_in_one_file(path: Path) -> None:
    assert export_onnx(SPEC, WEIGHTS, path).data_path is None
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.usefixtures("outside")
def test_weights_outside_are_a_canonical_file(path: Path) -> None:
    written = export_onnx(SPEC, WEIGHTS, path, **DESCRIPTION)
    assert written.data_path is not None
    assert set(path.parent.iterdir()) == {path, written.data_path}
    file = canonical.load(written.data_path)
    file.check_digest()
    assert file.spec == SPEC
    assert file.labels == DESCRIPTION["labels"]


def test_float64_weights_are_described_by_what_the_graph_holds(path: Path) -> None:
    wide = {name: array.astype(np.float64) * (1 + 2**-40) for name, array in WEIGHTS.items()}
    written = export_onnx(SPEC, wide, path)
    assert written.weights_digest == digest({n: a.astype(np.float32) for n, a in wide.items()})


# --- running it through the backend ---------------------------------------------------------


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("input_layout", ["NCHW", "NHWC"])
def test_a_loaded_file_answers_like_the_backend(path: Path, input_layout: Any) -> None:
    export_onnx(SPEC, WEIGHTS, path, taps=["pooled"], input_layout=input_layout, **DESCRIPTION)
    model = load_onnx(path)
    found = model.forward(IMAGES, ["pooled"])
    assert set(found) == {"pooled", "logits"}
    np.testing.assert_array_max_ulp(found["logits"], expected(), maxulp=64)
    assert (model.spec, model.preprocessing, model.labels) == (
        SPEC,
        DESCRIPTION["preprocessing"],
        DESCRIPTION["labels"],
    )


def test_a_tap_that_was_not_exported_is_refused_with_advice(path: Path) -> None:
    export_onnx(SPEC, WEIGHTS, path, taps=["stem"])
    with pytest.raises(InputError, match=r"without the taps \['norm'\].*\['stem', 'logits'\]"):
        load_onnx(path).forward(IMAGES, ["norm"])


def test_images_that_do_not_fit_are_refused(path: Path) -> None:
    export_onnx(SPEC, WEIGHTS, path)
    with pytest.raises(InputError, match="wrong size"):
        load_onnx(path).forward(IMAGES[:, :4])


# --- sequences ------------------------------------------------------------------------------

SEQUENCES = {
    type(given): families.sequence_mixer(
        input=given, channels=8, depth=1, token_hidden=5, channel_hidden=7, classes=3
    )
    for given in (TokenIds(tokens=6, vocabulary=11), Vectors(tokens=6, channels=5))
}
IDS = np.array([[0, 10, 3, 3, 9, 1]])


def exported(path: Path, given: type[TokenIds | Vectors], **options: Any) -> ModelSpec:
    spec = SEQUENCES[given]
    export_onnx(spec, conformance_weights(spec), path, **options)
    return spec


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("given", SEQUENCES)
def test_a_file_for_sequences_has_no_layout_of_images(path: Path, given: Any) -> None:
    taps = SEQUENCES[given].taps
    spec = exported(path, given, taps=taps, labels=("a", "b", "c"))
    model = load_onnx(path)
    assert (model.spec, model.labels, model.preprocessing) == (spec, ("a", "b", "c"), None)
    assert model.file.input_layout is None
    assert "mixer_spec.input_layout" not in {e.key for e in onnx.load(path).metadata_props}
    inputs = conformance_inputs(spec, 3)
    answer = OnnxRuntimeBackend().load(spec, conformance_weights(spec)).forward(inputs, taps)
    found = model.forward(inputs, taps)
    assert all(np.array_equal(found[tap], answer[tap]) for tap in taps)


@pytest.mark.parametrize("given", SEQUENCES)
def test_a_sequence_has_neither_layout_nor_preprocessing(path: Path, given: Any) -> None:
    with pytest.raises(InputError, match=r"input_layout is for images.*got 'NHWC'"):
        exported(path, given, input_layout="NHWC")
    with pytest.raises(SpecError, match="preprocessing is for photos; expected none beside"):
        exported(path, given, preprocessing=PIPELINES["big_vision"])
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.where(IDS == 10, 11, IDS), "expected 0 to 10, got 0 to 11"),
        (np.where(IDS == 10, -1, IDS), "expected 0 to 10, got -1 to 9"),
        (IDS.astype(np.float32), r"expected whole numbers \(int64\), got float32"),
        (IDS[:, :4], r"wrong size; expected \[batch, 6\]"),
        (IDS[0], "wrong rank"),
    ],
)
def test_ids_that_do_not_fit_are_refused(path: Path, ids: NDArray[Any], message: str) -> None:
    exported(path, TokenIds)
    with pytest.raises(InputError, match=message):
        load_onnx(path).forward(ids)


def test_a_runtime_without_our_check_takes_minus_one_for_the_last_word(path: Path) -> None:
    """Why the check is there: this is the negative control of the test above."""
    exported(path, TokenIds)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    minus_one = {"input_ids": np.where(IDS == 10, -1, IDS)}
    (blind,) = session.run(["logits"], minus_one)
    assert np.array_equal(blind, load_onnx(path).forward(IDS)["logits"])


# --- other weights are never run ------------------------------------------------------------


def data_of(path: Path) -> Path:
    found = read_onnx(path).data_path
    assert found is not None
    return found


def swap(data: Path) -> None:
    canonical.save(data, SPEC, OTHER_WEIGHTS)


def same_weights_elsewhere(data: Path) -> None:
    canonical.save(data, SPEC, WEIGHTS, provenance={"a longer": "header moves every offset" * 9})


def cut(data: Path) -> None:
    data.write_bytes(data.read_bytes()[:-4])


def flip_a_bit(data: Path) -> None:
    content = bytearray(data.read_bytes())
    content[-3] ^= 16
    data.write_bytes(content)


def other_spec(data: Path) -> None:
    erf = families.mixer(
        image_size=(8, 12), patch=4, channels=8, depth=1, token_hidden=5, channel_hidden=9, classes=3
    )  # fmt: skip
    canonical.save(data, erf, conformance_weights(erf))


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (swap, r"does not hold the weights that tiny\.onnx was exported with"),
        (same_weights_elsewhere, "its data file was written again since: 18 weights"),
        (cut, "is not a whole safetensors file"),
        (flip_a_bit, "its weights are not those it was written with"),
        (other_spec, r"does not hold the weights"),
        (Path.unlink, "there is no such file"),
    ],
)
def test_changed_weights_outside_are_refused(
    path: Path, damage: Callable[[Path], None], message: str
) -> None:
    export_onnx(SPEC, WEIGHTS, path, **DESCRIPTION)
    damage(data_of(path))
    with pytest.raises(FileError, match=message):
        load_onnx(path)


@pytest.mark.usefixtures("outside")
def test_a_runtime_without_our_check_computes_garbage(path: Path) -> None:
    """Why the check is there: this is the negative control of the test above."""
    export_onnx(SPEC, WEIGHTS, path, **DESCRIPTION)
    canonical.save(data_of(path), SPEC, OTHER_WEIGHTS, **DESCRIPTION)
    assert not np.allclose(run_blindly(path), expected())


def change_a_weight(proto: onnx.ModelProto) -> None:
    (tensor,) = [t for t in proto.graph.initializer if t.name == "head.bias"]
    tensor.raw_data = np.array([1, 2, 3], np.float32).tobytes()


def rename_a_weight(proto: onnx.ModelProto) -> None:
    (tensor,) = [t for t in proto.graph.initializer if t.name == "head.bias"]
    tensor.name = "onnx::Add_17"


def narrow_a_weight(proto: onnx.ModelProto) -> None:
    (tensor,) = [t for t in proto.graph.initializer if t.name == "head.bias"]
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([1, 2, 3], np.float16), "head.bias"))


def forget_the_metadata(proto: onnx.ModelProto) -> None:
    del proto.metadata_props[:]


def invent_a_layout(proto: onnx.ModelProto) -> None:
    for entry in proto.metadata_props:
        if entry.key == "mixer_spec.input_layout":
            entry.value = "CHWN"


def change_the_spec(proto: onnx.ModelProto) -> None:
    for entry in proto.metadata_props:
        if entry.key == "mixer_spec.spec":
            entry.value = entry.value.replace('"tanh"', '"none"')


def break_the_labels(proto: onnx.ModelProto) -> None:
    for entry in proto.metadata_props:
        if entry.key == "mixer_spec.labels":
            entry.value = '["cat"]'


def leave_the_folder(proto: onnx.ModelProto) -> None:
    (tensor,) = [t for t in proto.graph.initializer if t.name == "head.bias"]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../weights.safetensors"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_a_weight, r"does not hold the weights that tiny\.onnx was exported with"),
        (rename_a_weight, r"1 weights of its spec are missing, \['head\.bias'\]"),
        (narrow_a_weight, r"head\.bias must be \[3\] in FLOAT \(12 bytes\), got \[3\] in FLOAT16"),
        (forget_the_metadata, "has no metadata of mixer_spec"),
        (invent_a_layout, "must be one of .*'NHWC'.*got 'CHWN'"),
        (change_the_spec, "its spec is not the one it was written with"),
        (break_the_labels, "expected 3 labels, got 1"),
        (leave_the_folder, "must lie in one file beside it"),
    ],
)
def test_a_changed_graph_is_refused(
    path: Path, damage: Callable[[onnx.ModelProto], None], message: str
) -> None:
    export_onnx(SPEC, WEIGHTS, path, **DESCRIPTION)
    proto = onnx.load(path)
    damage(proto)
    path.write_bytes(proto.SerializeToString())
    with pytest.raises((FileError, SpecError), match=message) as caught:
        load_onnx(path)
    assert str(path) in str(caught.value)


def test_files_that_are_no_onnx_are_refused(path: Path) -> None:
    with pytest.raises(FileError, match="there is no such file"):
        load_onnx(path)
    with pytest.raises(FileError, match="could not be read"):
        load_onnx(path.parent)
    path.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(FileError, match="is not a whole ONNX file"):
        load_onnx(path)
    path.write_bytes(b"")
    with pytest.raises(FileError, match="has no metadata of mixer_spec"):
        load_onnx(path)


@pytest.mark.parametrize("kept", [0.01, 0.3, 0.6, 0.95, 0.999])
def test_a_file_that_is_cut_off_is_refused(path: Path, kept: float) -> None:
    export_onnx(SPEC, WEIGHTS, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(FileError):
        load_onnx(path)


# --- a failure leaves what was there --------------------------------------------------------


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("moment", [1, 2])
def test_a_failed_export_leaves_the_old_pair(
    path: Path, monkeypatch: pytest.MonkeyPatch, moment: int, either: str
) -> None:
    export_onnx(SPEC, WEIGHTS, path)
    before = files(path.parent)
    replace, calls = os.replace, 0

    def fail_later(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == moment or either == "inside":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_later)
    with pytest.raises(FileError, match="No space left"):
        export_onnx(SPEC, OTHER_WEIGHTS, path)
    monkeypatch.undo()
    assert files(path.parent) == before
    read_onnx(path)


@pytest.mark.usefixtures("outside")
def test_exporting_again_leaves_one_data_file(path: Path) -> None:
    first = export_onnx(SPEC, WEIGHTS, path)
    second = export_onnx(SPEC, OTHER_WEIGHTS, path)
    assert first.data_path != second.data_path
    assert set(path.parent.iterdir()) == {path, second.data_path}
    third = export_onnx(SPEC, OTHER_WEIGHTS, path)
    assert third.data_path == second.data_path
    assert set(path.parent.iterdir()) == {path, second.data_path}
    assert np.array_equal(run_blindly(path), expected(OTHER_WEIGHTS))


@pytest.mark.usefixtures("outside")
def test_other_metadata_never_moves_the_weights_under_an_old_graph(path: Path) -> None:
    first = export_onnx(SPEC, WEIGHTS, path)
    second = export_onnx(SPEC, WEIGHTS, path, labels=["a much longer", "list of", "labels"])
    assert first.data_path != second.data_path


@pytest.mark.usefixtures("outside")
def test_data_of_others_beside_the_graph_is_left_alone(path: Path) -> None:
    strange = path.with_name("tiny.onnx.data")
    model = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    tensor = model.graph.initializer.add()
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", strange.name
    path.write_bytes(model.SerializeToString())
    strange.write_bytes(b"precious")
    export_onnx(SPEC, WEIGHTS, path)
    assert strange.read_bytes() == b"precious"


def test_another_writer_s_graph_keeps_its_place_and_its_weights(path: Path) -> None:
    export_onnx(SPEC, WEIGHTS, path)
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    other = {name: 2 * array for name, array in WEIGHTS.items()}
    with pytest.raises(FileError, match="is there already"):
        export_onnx(SPEC, other, path, overwrite=False)
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before
    load_onnx(path)


def test_wrong_arguments_are_refused_before_anything_is_written(path: Path) -> None:
    with pytest.raises(SpecError, match="expected 3 labels, got 1"):
        export_onnx(SPEC, WEIGHTS, path, labels=["cat"])
    with pytest.raises(InputError, match="unknown taps"):
        export_onnx(SPEC, WEIGHTS, path, taps=["nothing"])
    assert not list(path.parent.iterdir())
