"""Models as folders, in the manner of Hugging Face: config.json, model.safetensors, README.md.

The weights file is canonical and enough on its own; ``config.json`` says the same again for tools
that read only JSON, and is checked against it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixer_spec.atomic import check_folder, replacing_folder
from mixer_spec.errors import FileError
from mixer_spec.extras import load_or_name_extra
from mixer_spec.model import ModelSpec
from mixer_spec.preprocess import Preprocessing
from mixer_spec.weights import Weights, digest, validate

from .canonical import CanonicalFile, load, save
from .card import model_card
from .metadata import Metadata

CONFIG, WEIGHTS, CARD = FILES = ("config.json", "model.safetensors", "README.md")
"""The files of a folder."""

MODEL_TYPE = "mixer_spec"
"""What ``config.json`` says of itself under ``model_type``."""


def save_pretrained(
    directory: str | os.PathLike[str],
    spec: ModelSpec,
    weights: Weights,
    *,
    variant: str | None = None,
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] | None = None,
    provenance: Mapping[str, str] | None = None,
    license: str | None = None,
    verification: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> str:
    """Write a model as a folder, which appears as a whole or not at all.

    Args:
        directory: where; its name is the model's.
        spec: the architecture.
        weights: canonical name to array.
        variant, preprocessing, labels, provenance: as for :func:`mixer_converters.save`.
        license: of the weights, for the card, as the hub abbreviates it (``apache-2.0``).
        verification: a report's data, for the card; see :func:`mixer_converters.card.model_card`.
        overwrite: replace a folder that is there, if it holds such files and nothing else.

    Returns:
        The digest of the weights.

    Raises:
        SpecError: if the metadata breaks a rule, as a wrong number of labels.
        WeightsError: if the weights do not fit the spec.
        InputError: if the verification is of another spec.
        FileError: if the folder is there already, or cannot be written.

    Example:
        >>> import tempfile
        >>> from mixer_spec import families
        >>> from mixer_spec.weights import initial
        >>> spec = families.mixer(image_size=8, patch=4, channels=6, depth=1, token_hidden=5,
        ...                       channel_hidden=7, classes=2)
        >>> folder = Path(tempfile.mkdtemp(), "tiny")
        >>> _ = save_pretrained(folder, spec, initial(spec), labels=["cat", "dog"])
        >>> from_pretrained(folder).labels
        ('cat', 'dog')
    """
    check_folder(directory, FILES, overwrite=overwrite)
    validate(spec, weights)
    metadata = Metadata(
        spec=spec,
        weights_digest=digest(weights),
        variant=variant,
        preprocessing=preprocessing,
        labels=labels,
        provenance=provenance or {},
    )
    name = Path(directory).resolve().name
    card = model_card(metadata, name, license=license, verification=verification)
    with replacing_folder(directory, overwrite=overwrite) as temporary:
        (temporary / CONFIG).write_text(json.dumps(_config(metadata), indent=2) + "\n", "utf-8")
        (temporary / CARD).write_text(card, "utf-8")
        save(
            temporary / WEIGHTS,
            spec,
            weights,
            variant=variant,
            preprocessing=preprocessing,
            labels=labels,
            provenance=provenance,
        )
    return metadata.weights_digest


def from_pretrained(
    source: str | os.PathLike[str], *, revision: str | None = None
) -> CanonicalFile:
    """Open a model that :func:`save_pretrained` wrote; the weights are mapped, not read.

    Args:
        source: a folder; or, where there is none of that name, ``owner/name`` on the Hugging Face
            hub, which is downloaded into its usual cache and needs the extra ``hub``.
        revision: a branch, tag or commit on the hub.

    Raises:
        FileError: if there is no such folder, it was not written by mixer_spec, or its files do
            not belong together; or if the hub does not give it.
        SpecError: if its spec or metadata break a rule.
        WeightsError: if its tensors do not fit its spec.
        MissingExtraError: if the hub is needed and its package is not installed.
    """
    path = Path(source)
    if not path.is_dir():
        path = _fetched(str(source), revision)
    elif revision is not None:
        raise FileError(str(source), f"a folder has no revisions; expected none, got {revision!r}")
    return _open(path)


def is_pretrained(path: Path) -> bool:
    """Whether a path is a folder that :func:`save_pretrained` wrote, by its ``config.json``."""
    try:
        _read_config(path / CONFIG)
    except FileError:
        return False
    return True


def _config(metadata: Metadata) -> dict[str, Any]:
    told = metadata.preprocessing
    return {
        "model_type": MODEL_TYPE,
        "library_name": "mixer-spec",
        "architecture": metadata.variant,
        "num_classes": metadata.spec.classes,
        "input_shape": list(metadata.spec.input.shape),
        "parameters": metadata.spec.parameter_count,
        "fingerprint": metadata.spec.fingerprint,
        "weights_digest": metadata.weights_digest,
        "preprocessing": None if told is None else told.to_data(),
        "id2label": None
        if metadata.labels is None
        else {str(number): label for number, label in enumerate(metadata.labels)},
        "provenance": dict(metadata.provenance),
        "spec": metadata.spec.to_data(),
    }


def _open(folder: Path) -> CanonicalFile:
    config = _read_config(folder / CONFIG)
    file = load(folder / WEIGHTS)
    expected = _config(file)
    odd = [key for key, value in expected.items() if config.get(key) != value]
    if odd:
        raise FileError(
            str(folder),
            [
                f"{CONFIG} and {WEIGHTS} do not belong together; expected {key} "
                f"{_short(expected[key])}, got {_short(config.get(key))}; get the folder again"
                for key in odd
            ],
        )
    return file


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise FileError(
            str(path), f"could not be read; expected a folder of save_pretrained, got: {error}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise FileError(str(path), f"must be JSON, got: {error}") from None
    found = config.get("model_type") if isinstance(config, dict) else None
    if found != MODEL_TYPE:
        raise FileError(
            str(path),
            f"was not written by mixer_spec; expected model_type {MODEL_TYPE!r}, got {found!r}; "
            "do `mixer-spec convert` for folders of other libraries",
        )
    assert isinstance(config, dict)
    return config


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _fetched(source: str, revision: str | None) -> Path:
    """The folder of a model on the hub, downloaded."""
    if Path(source).exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source):
        raise FileError(
            source, "there is no such folder; expected one, or owner/name on the Hugging Face hub"
        )

    def download() -> str:
        import huggingface_hub

        return huggingface_hub.snapshot_download(
            source, revision=revision, allow_patterns=list(FILES)
        )

    try:
        return Path(load_or_name_extra(f"from_pretrained({source!r})", download))
    except (OSError, ValueError) as error:  # its own errors are of these classes
        raise FileError(
            source,
            "is no folder here, and the Hugging Face hub does not give it; "
            f"got: {str(error).strip().splitlines()[0]}",
        ) from error
