"""What a weights file says about itself, as the strings that safetensors and ONNX files can hold."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mixer_spec.errors import FileError, SpecError
from mixer_spec.model import SPEC_VERSION, ModelSpec
from mixer_spec.preprocess import Preprocessing
from mixer_spec.shapes import Image

FORMAT_VERSION = 1
"""The version of the set of keys; a file of a higher version is refused."""

PREFIX = "mixer_spec."
"""In front of every key: others may keep metadata in the same file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metadata:
    """Everything that a file carries beside its weights.

    Args:
        spec: the architecture.
        weights_digest: what ``mixer_spec.weights.digest`` gives for the weights.
        variant: the published name of the architecture, where it has one.
        preprocessing: how a photo becomes the pixels that the weights expect; none for a
            sequence.
        labels: the name of each class, in the order of the logits.
        provenance: where the weights come from, in free words by free keys.

    Raises:
        SpecError: with every rule broken, as a wrong number of labels.
    """

    spec: ModelSpec
    weights_digest: str
    variant: str | None = None
    preprocessing: Preprocessing | None = None
    labels: Sequence[str] | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = list(self._broken_rules())
        if problems:
            raise SpecError("metadata", problems)
        if self.labels is not None:
            object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "provenance", dict(self.provenance))

    def _broken_rules(self) -> Iterator[str]:
        if self.variant is not None and not isinstance(self.variant, str):
            yield f"variant must be a string, got {self.variant!r}"
        if self.preprocessing is not None and not isinstance(self.preprocessing, Preprocessing):
            yield f"preprocessing must be a Preprocessing, got {self.preprocessing!r}"
        if self.preprocessing is not None and not isinstance(self.spec.input, Image):
            yield f"preprocessing is for photos; expected none beside {self.spec.input}"
        if not isinstance(self.provenance, Mapping) or not _all_strings(
            [*self.provenance, *self.provenance.values()]
        ):
            yield f"provenance must be a mapping of strings to strings, got {self.provenance!r}"
        if self.labels is None:
            return
        if isinstance(self.labels, str) or not isinstance(self.labels, Sequence):
            yield f"labels must be a list of strings, got {self.labels!r}"
        elif not _all_strings(self.labels):
            odd = next(label for label in self.labels if not isinstance(label, str))
            yield f"labels must be a list of strings, got {odd!r} among them"
        elif len(self.labels) != self.spec.classes:
            yield (
                f"every class needs one label; expected {self.spec.classes} labels, "
                f"got {len(self.labels)}"
            )

    def to_strings(self) -> dict[str, str]:
        """The metadata as strings by key."""
        strings = {
            "format_version": str(FORMAT_VERSION),
            "spec": self.spec.to_json(),
            "spec_version": str(SPEC_VERSION),
            "fingerprint": self.spec.fingerprint,
            "weights_digest": self.weights_digest,
            "provenance": json.dumps(dict(self.provenance)),
        }
        if self.variant is not None:
            strings["variant"] = self.variant
        if self.preprocessing is not None:
            strings["preprocessing"] = json.dumps(self.preprocessing.to_data())
        if self.labels is not None:
            strings["labels"] = json.dumps(list(self.labels))
        return {PREFIX + key: value for key, value in strings.items()}

    def fields(self) -> dict[str, Any]:
        """The fields by name, for a class that adds more to them."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(Metadata)}

    @staticmethod
    def from_strings(strings: Mapping[str, str], where: str) -> Metadata:
        """The inverse of :meth:`to_strings`.

        Args:
            strings: a file's metadata; keys of others are passed over.
            where: the file, for the message.

        Raises:
            FileError: if it was not written by mixer_spec, or by a newer one, or was damaged.
            SpecError: if the spec, the preprocessing or the labels break a rule.
        """
        if not _all_strings([*strings, *strings.values()]):
            raise FileError(where, "its metadata is not text; get the file again")
        _check_version(strings, where)
        found = {key.removeprefix(PREFIX): value for key, value in strings.items()}
        spec = ModelSpec.from_json(found["spec"], where)
        if spec.fingerprint != found["fingerprint"]:
            raise FileError(
                where,
                "its spec is not the one it was written with; expected fingerprint "
                f"{found['fingerprint']}, got {spec.fingerprint}; write it again",
            )
        preprocessing = _json(found, "preprocessing", where)
        if preprocessing is not None:
            preprocessing = Preprocessing.from_data(preprocessing, f"{where}: preprocessing")
        try:
            return Metadata(
                spec=spec,
                weights_digest=found["weights_digest"],
                variant=found.get("variant"),
                preprocessing=preprocessing,
                labels=_json(found, "labels", where),
                provenance=_json(found, "provenance", where) or {},
            )
        except SpecError as error:
            raise SpecError(where, error.problems) from None


def _check_version(strings: Mapping[str, str], where: str) -> None:
    version = strings.get(PREFIX + "format_version")
    if version is None:
        raise FileError(
            where,
            f"has no metadata of mixer_spec; expected the key '{PREFIX}format_version', "
            f"got {sorted(strings)[:5]}; if you know the architecture of these weights, "
            "write them with mixer_converters.save(path, spec, weights)",
        )
    if version != str(FORMAT_VERSION):
        raise FileError(
            where,
            "is of a format that this mixer_spec does not read; expected version "
            f"{FORMAT_VERSION}, got {version!r}; upgrade mixer-spec",
        )
    required = ("spec", "fingerprint", "weights_digest")
    missing = [key for key in required if PREFIX + key not in strings]
    if missing:
        raise FileError(where, [f"metadata '{PREFIX}{key}' is missing" for key in missing])


def _all_strings(values: Sequence[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _json(found: Mapping[str, str], key: str, where: str) -> Any:
    """The value under ``key``; ``None`` when there is none."""
    text = found.get(key)
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(where, f"metadata '{PREFIX}{key}' must be JSON, got: {error}") from None
