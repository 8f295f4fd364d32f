"""Running an exported ONNX file, after its weights were checked against its digest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from mixer_converters.onnx_file import OnnxFile, read_onnx
from mixer_converters.onnx_photos import INPUT as PHOTOS
from mixer_spec.backend import check_inputs, check_photos
from mixer_spec.errors import InputError
from mixer_spec.model import ModelSpec
from mixer_spec.preprocess import Preprocessing

from .session import Session


@dataclass(frozen=True, slots=True)
class OnnxFileModel:
    """An exported file, ready to run.

    Args:
        file: what the file says about itself.
        session: runs it.
    """

    file: OnnxFile
    session: Session

    @property
    def spec(self) -> ModelSpec:
        """The architecture."""
        return self.file.spec

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How a photo becomes the pixels that the weights expect."""
        return self.file.preprocessing

    @property
    def labels(self) -> Sequence[str] | None:
        """The name of each class, in the order of the logits."""
        return self.file.labels

    @property
    def takes_photos(self) -> bool:
        """Whether the graph preprocesses: ``forward`` takes uint8 photos of any size then."""
        return self.file.input == PHOTOS

    def forward(self, inputs: NDArray[Any], taps: Sequence[str] = ()) -> Mapping[str, NDArray[Any]]:
        """Run a batch.

        Args:
            inputs: preprocessed images ``[batch, height, width, rgb]``, vectors
                ``[batch, token, channel]`` or ids ``[batch, token]``; for a file that takes
                photos, uint8 ``[batch, height, width, rgb]`` of any one size.
            taps: names of outputs that the file was exported with.

        Returns:
            ``"logits"`` ``[batch, class]``, and every tap asked for.

        Raises:
            InputError: if the inputs or taps do not fit the file.
        """
        if self.takes_photos:
            check_photos(inputs)
        else:
            check_inputs(self.spec, inputs, taps)
        absent = [tap for tap in taps if tap not in self.file.outputs]
        if absent:
            raise InputError(
                str(self.file.path),
                f"was exported without the taps {absent}; expected some of "
                f"{list(self.file.outputs)}; export it again with these taps",
            )
        return self.session.run(inputs, list(dict.fromkeys([*taps, "logits"])))


def load_onnx(path: str | os.PathLike[str]) -> OnnxFileModel:
    """Open an ONNX file that mixer_spec exported.

    Raises:
        FileError: if it was not exported by mixer_spec, or its weights are not those it was
            exported with.
        SpecError: if its spec or metadata break a rule.
    """
    file = read_onnx(path)
    return OnnxFileModel(file, Session(str(file.path), file.input_layout))
