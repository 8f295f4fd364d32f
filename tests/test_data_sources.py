"""Sources of examples: every kind reads the same images, and says what is wrong with bad ones."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mixer_spec.data import ArraySource, RowSource, open_source, read_class_names
from mixer_spec.data.array_record import write_array_record
from mixer_spec.data.idx import read_idx
from mixer_spec.data.rows import read_hugging_face, read_tfds
from mixer_spec.data.source import sampled
from mixer_spec.errors import FileError, InputError, MissingExtraError

CLASSES = ("bird", "cat", "dog")
LABELS = np.array([0, 1, 1, 2, 2])
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), np.uint8)


def _npz(root: Path) -> str:
    np.savez(root / "train.npz", images=IMAGES, labels=LABELS, classes=np.array(CLASSES))
    return str(root)


def _folder(root: Path) -> str:
    for name in CLASSES:
        (root / "train" / name).mkdir(parents=True)
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        Image.fromarray(image).save(root / "train" / CLASSES[label] / f"{number}.PNG")
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    return str(root)


def _array_record(root: Path) -> str:
    write_array_record(ArraySource(IMAGES, LABELS, CLASSES, "a"), root / "my-train.array_record")
    return str(root)


def _hugging_face(root: Path) -> str:
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    columns = {"image": [Image.fromarray(i) for i in IMAGES], "label": LABELS.tolist()}
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict({"train": rows}).save_to_disk(root / "saved")
    return str(root / "saved")


MAKERS = [_npz, _folder, _array_record, _hugging_face]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_every_kind_is_detected_and_gives_the_same_examples(make: Any, tmp_path: Path) -> None:
    source = open_source(make(tmp_path), "train")
    assert tuple(source.classes) == CLASSES
    assert len(source) == 5
    for number in range(5):
        example = source[number]
        assert example.image.dtype == np.uint8
        assert np.array_equal(example.image, IMAGES[number])
        assert example.label == source.label(number) == LABELS[number]
        assert example.name


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_a_source_goes_to_another_process_and_keeps_its_fingerprint(
    make: Any, tmp_path: Path
) -> None:
    where = make(tmp_path)
    source = open_source(where, "train")
    assert len(source.fingerprint) == 64
    sent = pickle.loads(pickle.dumps(source))
    assert sent.fingerprint == source.fingerprint == open_source(where, "train").fingerprint
    assert np.array_equal(sent[3].image, IMAGES[3])


def test_a_fingerprint_changes_with_a_pixel_a_label_and_a_class() -> None:
    other, labels = IMAGES.copy(), LABELS.copy()
    other[4, 0, 0, 0] ^= 1
    labels[0] = 2
    found = {
        ArraySource(images, given, classes, "x").fingerprint
        for images, given, classes in (
            (IMAGES, LABELS, CLASSES),
            (other, LABELS, CLASSES),
            (IMAGES, labels, CLASSES),
            (IMAGES, LABELS, ("bird", "cat", "fox")),
            (IMAGES.reshape(5, 7, 6, 3), LABELS, CLASSES),
        )
    }
    assert len(found) == 5
    assert ArraySource(IMAGES, LABELS, CLASSES, "y").fingerprint in found


def test_a_folders_fingerprint_changes_with_a_file(tmp_path: Path) -> None:
    before = open_source(_folder(tmp_path), "train").fingerprint
    Image.fromarray(IMAGES[0]).save(tmp_path / "train" / "cat" / "new.png")
    assert open_source(str(tmp_path), "train").fingerprint != before


def test_a_folder_without_splits_is_read_as_it_is(tmp_path: Path) -> None:
    _folder(tmp_path)
    source = open_source(f"folder:{tmp_path}/train", "train")
    assert len(source) == 5
    assert source[0].name == "bird/0.PNG"


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_the_training_examples_are_never_given_for_another_split(make: Any, tmp_path: Path) -> None:
    where = make(tmp_path)
    with pytest.raises((FileError, InputError), match="test"):
        open_source(where, "test")


def test_what_holds_one_set_is_the_split_train(tmp_path: Path) -> None:
    import datasets

    places = [str(tmp_path / "npz" / "train.npz"), str(tmp_path / "folder" / "train")]
    places += [str(tmp_path / "record" / "my-train.array_record"), str(tmp_path / "hf")]
    for name, make in zip(("npz", "folder", "record", "saved"), MAKERS, strict=True):
        (tmp_path / name).mkdir()
        make(tmp_path / name)
    datasets.load_from_disk(str(tmp_path / "saved" / "saved"))["train"].save_to_disk(places[3])
    for place in places:
        assert len(open_source(place, "train")) == 5
        with pytest.raises(
            FileError, match="holds one set of examples, which is the split 'train'"
        ):
            open_source(place, "test")


def test_a_data_set_that_was_moved_keeps_its_fingerprint(tmp_path: Path) -> None:
    for name, make in zip(("npz", "folder", "record", "hf"), MAKERS, strict=True):
        found = []
        for place in ("here", "there"):
            root = tmp_path / name / place
            root.mkdir(parents=True)
            found.append(open_source(make(root), "train").fingerprint)
        assert found[0] == found[1], name


def test_classes_txt_orders_the_classes_of_a_folder(tmp_path: Path) -> None:
    _folder(tmp_path)
    (tmp_path / "classes.txt").write_text("dog\nunseen\ncat\n\nbird\n")
    source = open_source(str(tmp_path), "train")
    assert source.classes == ("dog", "unseen", "cat", "bird")
    assert [source[n].label for n in range(5)] == [0, 0, 2, 2, 3]
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    with pytest.raises(FileError, match=r"does not name the folders \['bird'\]; add them"):
        open_source(str(tmp_path), "train")


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    _folder(tmp_path)
    whole = (tmp_path / "train/cat/1.PNG").read_bytes()
    (tmp_path / "train/cat/1.PNG").write_bytes(whole[: len(whole) // 2])
    source = open_source(str(tmp_path), "train")
    with pytest.raises(FileError, match=r"1\.PNG: cannot be decoded; is it whole"):
        source[1]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_odd_modes_become_rgb(mode: str, tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    image = Image.fromarray(IMAGES[0])
    if mode == "I;16":
        image = Image.fromarray(IMAGES[0, ..., 0].astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    image.save(tmp_path / "only" / ("a.tiff" if mode == "CMYK" else "a.png"))
    assert open_source(str(tmp_path), "train")[0].image.shape == (6, 7, 3)


def test_an_odd_mode_without_a_known_range_is_refused(tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    Image.fromarray(IMAGES[0, ..., 0].astype(np.float32)).save(tmp_path / "only" / "a.tiff")
    with pytest.raises(InputError, match="unknown range of values"):
        open_source(str(tmp_path), "train")[0]


# --- digits and Fashion-MNIST ---------------------------------------------------------------


def test_digits_are_split_in_two_that_share_no_image() -> None:
    train, test = (open_source("digits", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1437, 360)
    one, other = ({s[n].image.tobytes() for n in range(len(s))} for s in (train, test))
    assert not one & other
    counts = np.bincount([test[n].label for n in range(360)])
    assert counts.min() >= 34
    assert train[0].image.max() == 255
    with pytest.raises(FileError, match="expected train or test, got 'validation'"):
        open_source("digits", "validation")


def _idx(array: Any) -> bytes:
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def _mnist(root: Path, *, labels: Any = None) -> Path:
    grey = IMAGES[..., 0]
    for prefix in ("train", "t10k"):
        (root / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(_idx(grey)))
        values = (LABELS if labels is None else labels).astype(np.uint8)
        (root / f"{prefix}-labels-idx1-ubyte").write_bytes(_idx(values))
    return root


def test_idx_files_are_read_gzipped_or_not(tmp_path: Path) -> None:
    source = open_source(str(_mnist(tmp_path)), "test")
    assert len(source.classes) == 10
    assert source.classes[9] == "Ankle boot"
    assert np.array_equal(source[2].image, np.repeat(IMAGES[2, ..., :1], 3, axis=2))
    assert [source[n].label for n in range(5)] == LABELS.tolist()


def test_a_damaged_idx_file_is_refused(tmp_path: Path) -> None:
    whole = _idx(IMAGES[..., 0])
    for name, content, message in (
        ("cut", whole[:-1], r"has the wrong length; expected 226 bytes for \[5, 6, 7\], got 225"),
        ("long", whole + b"0", "has the wrong length"),
        ("floats", b"\0\0\x0d" + whole[3:], "is not an idx file of bytes"),
        ("short", b"\0", "is not an idx file of bytes"),
        ("header", whole[:6], "has the wrong length"),
        ("cut.gz", gzip.compress(whole)[:-9], "cannot be read; is it whole"),
        ("bad.gz", b"no gzip", "cannot be read; is it whole"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileError, match=message):
            read_idx(tmp_path / name)


def test_missing_files_splits_and_labels_of_mnist_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"has no file train-images-idx3-ubyte or .*\.gz"):
        open_source(f"fashion-mnist:{tmp_path}", "train")
    _mnist(tmp_path, labels=np.array([0, 1, 2, 3, 10]))
    with pytest.raises(InputError, match="expected 0 to 9, got 0 to 10"):
        open_source(str(tmp_path), "train")
    with pytest.raises(FileError, match="expected train or test, got 'valid'"):
        open_source(str(tmp_path), "valid")


# --- bad input ------------------------------------------------------------------------------


def test_an_npz_with_everything_wrong_says_so_at_once(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4, 1)), labels=np.zeros(3))
    with pytest.raises(InputError) as caught:
        open_source(str(tmp_path / "a.npz"), "train")
    assert len(caught.value.problems) == 4
    assert "expected uint8 from 0 to 255, got float64" in str(caught.value)


def test_an_npz_of_objects_or_without_labels_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=IMAGES)
    with pytest.raises(FileError, match=r"lacks \['labels'\]; expected images and labels, got"):
        open_source(str(tmp_path / "a.npz"), "train")
    np.savez(tmp_path / "b.npz", images=np.array([{}]), labels=LABELS)
    with pytest.raises(FileError, match=r"is not an \.npz file of plain arrays"):
        open_source(str(tmp_path / "b.npz"), "train")
    (tmp_path / "c.npz").write_bytes(b"text")
    with pytest.raises(FileError, match=r"is not an \.npz file of plain arrays"):
        open_source(str(tmp_path / "c.npz"), "train")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nowhere", "there is no such file or folder; expected a path, digits, or one of"),
        ("npz:nowhere", "nowhere"),
        ("folder:nowhere", "cannot be read; got No such file"),
        ("array-record:nowhere", "has no file of the split"),
    ],
)
def test_a_place_where_nothing_is_is_an_error(where: str, message: str) -> None:
    with pytest.raises(FileError, match=message):
        open_source(where, "train")


def test_a_folder_without_images_and_a_file_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="holds no images; expected a folder for each class"):
        open_source(str(tmp_path), "train")
    (tmp_path / "table.csv").write_text("1,2")
    with pytest.raises(FileError, match="is no file of examples"):
        open_source(str(tmp_path / "table.csv"), "train")


def test_class_names_must_be_there_once_each(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(" \n")
    with pytest.raises(FileError, match="names no class"):
        read_class_names(tmp_path / "a")
    (tmp_path / "b").write_text("cat\ndog\ncat\n")
    with pytest.raises(FileError, match=r"names a class twice; expected each once, got \['cat'\]"):
        read_class_names(tmp_path / "b")
    with pytest.raises(FileError, match="cannot be read"):
        read_class_names(tmp_path / "c")


def test_array_records_without_classes_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    where = _array_record(tmp_path)
    whole = (tmp_path / "my-train.array_record").read_bytes()
    (tmp_path / "my-train.array_record").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(FileError, match="cannot be read; is it whole"):
        open_source(where, "train")
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(FileError, match=r"does not name its classes; expected classes\.txt"):
        open_source(where, "train")


def test_a_record_that_is_no_example_is_named(tmp_path: Path) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(tmp_path / "x-train.array_record"), "group_size:1")
    for record in (b"nonsense", b""):
        writer.write(record)
    writer.close()
    (tmp_path / "classes.txt").write_text("a\n")
    source = open_source(str(tmp_path), "train")
    for number in range(2):
        with pytest.raises(InputError, match=rf"\[{number}\]: is not a tf\.train\.Example"):
            source[number]


def test_labels_of_records_must_be_classes(tmp_path: Path) -> None:
    where = _array_record(tmp_path)
    (tmp_path / "classes.txt").write_text("bird\n")
    with pytest.raises(InputError, match="its label is no class; expected 0 to 0, got 1"):
        open_source(where, "train").label(1)


# --- libraries of rows ----------------------------------------------------------------------


class _Rows:
    """What ``tfds.data_source`` gives: rows of arrays by number, and their features."""

    dataset_info = SimpleNamespace(
        features={"image": None, "label": SimpleNamespace(names=list(CLASSES))}
    )

    def __len__(self) -> int:
        return 5

    def __getitem__(self, number: int) -> dict[str, Any]:
        if number == 4:
            raise OSError("truncated record")
        return {
            "image": IMAGES[number][..., :1] if number == 3 else IMAGES[number],
            "label": np.int64(LABELS[number]),
        }


def test_tfds_rows_are_read_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Tfds:
        @staticmethod
        def data_source(name: str, split: str) -> _Rows:
            asked.append((name, split))
            return _Rows()

    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", Tfds)
    source = read_tfds("mnist", "train")
    assert asked == [("mnist", "train")]
    assert source.classes == CLASSES
    assert np.array_equal(source[1].image, IMAGES[1])
    assert np.array_equal(source[3].image, np.repeat(IMAGES[3][..., :1], 3, axis=2))
    with pytest.raises(
        InputError, match=r"tfds:mnist\[4\]: cannot be read; got OSError: truncated"
    ):
        source[4]
    assert len(source.fingerprint) == 64


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)
    with pytest.raises(MissingExtraError, match="do `pip install tensorflow-datasets`"):
        open_source("tfds:mnist", "train")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install \"mixer-spec\[hf\]\""):
        open_source("hf:mnist", "train")


def test_a_data_set_without_the_right_columns_or_split_is_refused(tmp_path: Path) -> None:
    import datasets

    path = str(tmp_path / "saved")
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": ["a"], "label": [1]}).save_to_disk(path)
    with pytest.raises(InputError, match="has no column like 'image'; expected one of"):
        read_hugging_face(path, "train")
    with pytest.raises(InputError, match="cannot be opened for 'test'; got KeyError"):
        read_hugging_face(_hugging_face(tmp_path / "b"), "test")


def test_a_rows_label_must_be_a_class() -> None:
    source = RowSource(_Rows(), "image", "label", ("bird",), "mine")
    with pytest.raises(InputError, match=r"mine\[1\]: its label is no class"):
        source[1]


def test_samples_are_spread_and_few() -> None:
    assert sampled(1) == [0]
    assert len(sampled(60_000)) == 64
    assert sampled(60_000)[:2] == [0, 952]
