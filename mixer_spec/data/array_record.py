"""ArrayRecord files: one ``tf.train.Example`` a record, as TensorFlow Datasets writes them too.

A record has an encoded image (JPEG, PNG) and the number of a class, under the names that TFDS or
the ImageNet scripts use. The names of the classes are in ``classes.txt`` beside the files, or in
TFDS's ``label.labels.txt``.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mixer_spec.errors import FileError, InputError
from mixer_spec.extras import load_or_name_extra
from mixer_spec.preprocess.decode import decode

from .class_names import FILE, checked_label, read_class_names
from .source import Example, Source, check_only_split, fingerprint, sampled

_IMAGES, _LABELS = ("image", "image/encoded"), ("label", "image/class/label")
_TFDS_CLASSES = "label.labels.txt"


@dataclass(eq=False)
class ArrayRecordSource:
    """A :class:`Source` of records in one or more files, read when they are asked for.

    Args:
        files: paths, in the order of the examples.
        classes: the name of each class.
    """

    files: Sequence[str]
    classes: Sequence[str]
    _opened: Any = field(default=None, repr=False)

    @property
    def _records(self) -> Any:
        """The open files; opened again in each process, where a reader cannot be sent to."""
        process = os.getpid()
        if self._opened is None or self._opened[0] != process:
            self._opened = process, _open(self.files)
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        """All but the open files."""
        return {"files": self.files, "classes": self.classes, "_opened": None}

    def __len__(self) -> int:
        """The number of examples."""
        return len(self._records)

    def __getitem__(self, number: int, /) -> Example:
        """One example.

        Raises:
            InputError: if the record is no example, its image cannot be read, or its label is no
                class.
        """
        encoded, label = self._content(number)
        return Example(_decoded(encoded, self._name(number)), label, self._name(number))

    def label(self, number: int) -> int:
        """The number of one example's class; its image is not decoded.

        Raises:
            InputError: as for the whole example.
        """
        return self._content(number)[1]

    def _name(self, number: int) -> str:
        return f"{Path(self.files[0]).name}[{number}]"

    def _content(self, number: int) -> tuple[bytes, int]:
        """The encoded image and the label of one record."""
        try:
            features = _example().FromString(self._records[number]).features.feature
            encoded = next(features[key].bytes_list.value[0] for key in _IMAGES if key in features)
            label = next(features[key].int64_list.value[0] for key in _LABELS if key in features)
        except Exception as error:  # protobuf, a missing feature, an empty list
            raise InputError(
                self._name(number),
                f"is not a tf.train.Example with one of {list(_IMAGES)} and one of "
                f"{list(_LABELS)}; got {type(error).__name__}: {error}",
            ) from error
        return encoded, checked_label(int(label), self.classes, self._name(number))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Over the number of records, and the bytes of 64 of them."""
        return fingerprint(
            self.classes, [str(len(self))], [self._records[n] for n in sampled(len(self))]
        )


def _decoded(encoded: bytes, name: str) -> Any:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return np.asarray(decode(image, "stored"))
    except Exception as error:  # whatever Pillow's decoders run into
        raise InputError(
            name, f"its image cannot be decoded; got {type(error).__name__}: {error}"
        ) from error


def _open(files: Sequence[str]) -> Any:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    return ArrayRecordDataSource(list(files))


def read_array_record(path: Path, split: str) -> ArrayRecordSource:
    """The records of one file, or of a folder's files that have the split in their name.

    Raises:
        FileError: if there are none, or there is no list of classes.
        MissingExtraError: if the package array-record is not installed.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_file():
        check_only_split(split, str(path))
    files = [path] if path.is_file() else sorted(path.glob(f"*{split}*.array_record*"))
    if not files:
        raise FileError(str(path), f"has no file of the split; expected *{split}*.array_record")
    listed = [folder / name for name in (FILE, _TFDS_CLASSES) if (folder / name).is_file()]
    if not listed:
        raise FileError(
            str(folder), f"does not name its classes; expected {FILE} with one name in each line"
        )
    source = ArrayRecordSource([str(file) for file in files], read_class_names(listed[0]))
    try:
        load_or_name_extra(str(path), lambda: len(source))
    except (RuntimeError, ValueError) as error:
        raise FileError(str(path), f"cannot be read; is it whole? got {error}") from None
    return source


def write_array_record(source: Source, path: Path) -> None:
    """All examples of ``source`` as PNG in one ArrayRecord file, and the classes beside it.

    Raises:
        FileError, InputError: if an example cannot be read.
        MissingExtraError: if the package array-record is not installed.
    """
    load_or_name_extra(str(path), lambda: _write(source, path))


def _write(source: Source, path: Path) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter
    from PIL import Image

    writer = ArrayRecordWriter(str(path), "group_size:1")
    try:
        for number in range(len(source)):
            example, encoded, record = source[number], io.BytesIO(), _example()()
            Image.fromarray(example.image).save(encoded, "png")
            record.features.feature["image"].bytes_list.value.append(encoded.getvalue())
            record.features.feature["label"].int64_list.value.append(example.label)
            writer.write(record.SerializeToString())
    finally:
        writer.close()
    (path.parent / FILE).write_text("".join(f"{name}\n" for name in source.classes), "utf-8")


@functools.cache
def _example() -> Any:
    """The message ``tf.train.Example``, of which only what is used here is declared.

    Source:
        tensorflow, core/example/example.proto and feature.proto.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="mixer_spec_example.proto", package="mixer_spec")
    kinds = descriptor_pb2.FieldDescriptorProto
    optional, repeated = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED

    def message(name: str, **fields: tuple[int, int, int, str]) -> Any:
        made = file.message_type.add(name=name)
        for title, (number, label, kind, of) in fields.items():
            one = made.field.add(name=title, number=number, label=label, type=kind)
            if of:
                one.type_name = of
        return made

    inner = kinds.TYPE_MESSAGE
    message("BytesList", value=(1, repeated, kinds.TYPE_BYTES, ""))
    message("Int64List", value=(1, repeated, kinds.TYPE_INT64, ""))
    message(
        "Feature",
        bytes_list=(1, optional, inner, ".mixer_spec.BytesList"),
        int64_list=(3, optional, inner, ".mixer_spec.Int64List"),
    )
    features = message(
        "Features", feature=(1, repeated, inner, ".mixer_spec.Features.FeatureEntry")
    )
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=optional, type=kinds.TYPE_STRING)
    entry.field.add(
        name="value", number=2, label=optional, type=inner, type_name=".mixer_spec.Feature"
    )
    message("Example", features=(1, optional, inner, ".mixer_spec.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("mixer_spec.Example"))
