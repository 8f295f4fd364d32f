"""The parity certificate: an exported file, run, and held against the float64 reference.

Two things are judged: the logits that the file gives with its own weights, and every stage of the
same graph with weights that let no mistake through, since a file whose head is zero gives the
right logits whatever it computes. The judge is the conformance suite, found through the entry point group ``mixer_spec.judges``, so
that its tolerance is defined once. Its verdict is in float32's own noise; a weaker number format
may be off by as many times more as its roundoff is larger. Int8 has no roundoff of that kind: it
passes when the most probable class is the same.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

import mixer_spec
from mixer_spec.atomic import replacing
from mixer_spec.backend import BackendInfo, Profile
from mixer_spec.errors import FileError, MissingExtraError
from mixer_spec.model import ModelSpec
from mixer_spec.preprocess import Preprocessing, preprocess
from mixer_spec.reference import forward
from mixer_spec.shapes import Image
from mixer_spec.weights import Weights

from .onnx_build import build_onnx
from .onnx_file import CERTIFICATE, OnnxFile, read_onnx
from .onnx_form import Form, Opset, Precision
from .onnx_input import NAMES
from .onnx_photos import INPUT as PHOTOS
from .onnx_run import OnnxRun

CERTIFICATE_VERSION = 1

ALLOWANCE: Mapping[str, float] = {"float32": 1.0, "float16": 2.0**13, "bfloat16": 2.0**16}
"""The roundoff of each number format in units of float32's: 24 bits against 11 and 8."""

LEAST_EQUAL_TOP1 = 0.99
"""The fraction of equal most probable classes from which int8 passes."""

MOST_COUNTS = 1.0
"""What preprocessing in the graph may be off from Pillow's, in counts of 255."""

_PHOTO_SIZES = ((97, 131), (333, 500), (500, 333), (640, 480))


def certify(path: Path, weights: Weights, inputs: NDArray[Any]) -> dict[str, Any]:
    """Run an exported file and judge it; the certificate goes into its metadata and beside it.

    Args:
        path: of a file that ``export_onnx`` wrote.
        weights: those it was exported with, in float32 or wider.
        inputs: preprocessed images ``[batch, height, width, rgb]``, or sequences.

    Returns:
        The certificate: what was run where, how far it was off, and ``passed``.

    Raises:
        FileError: if the file is not whole.
        MissingExtraError: if no judge is installed.
        InputError: if no runtime here can run the file.
    """
    file = read_onnx(path)
    proto = onnx.load(path, load_external_data=False)
    certificate: dict[str, Any] = {
        "certificate_version": CERTIFICATE_VERSION,
        "numbers": file.numbers,
        "opset": file.opset,
        "fingerprint": file.spec.fingerprint,
        "weights_digest": file.weights_digest,
        "versions": {
            "mixer-spec": mixer_spec.__version__,
            "numpy": np.__version__,
            "onnx": onnx.__version__,
        },
    }
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        core = path
        if file.input == PHOTOS:
            front = _front(proto, Path(folder, "front.onnx"))
            assert file.preprocessing is not None  # the graph has it
            certificate["preprocessing"] = _judge_front(front, file.spec, file.preprocessing)
            parts.append(certificate["preprocessing"]["passed"])
            core = _core(proto, file, path.with_name(f".{path.name}.core.onnx"))
        try:
            run = OnnxRun(core)
            certificate["versions"]["engine"] = run.engine
            certificate["logits"] = _judge_logits(run, file, weights, inputs)
            parts.append(certificate["logits"]["passed"])
            if file.numbers in ALLOWANCE:
                certificate["stages"] = _judge_stages(file)
                parts.append(certificate["stages"]["passed"])
        finally:
            if core != path:
                core.unlink()
    certificate["passed"] = all(parts)
    _keep(path, certificate)
    return certificate


def certificate_path(path: Path) -> Path:
    """Where the certificate of ``path`` lies as JSON."""
    return path.with_name(f"{path.stem}.certificate.json")


def _judge_logits(
    run: OnnxRun, file: OnnxFile, weights: Weights, inputs: NDArray[Any]
) -> dict[str, Any]:
    found = run(inputs, ["logits"])["logits"]
    exact = forward(file.spec, weights, inputs)["logits"]
    equal = float((found.argmax(-1) == exact.argmax(-1)).mean())
    error = float(np.square(found - exact).sum())
    signal = float(np.square(exact).sum())
    judged: dict[str, Any] = {
        "inputs": len(inputs),
        "equal_top1": equal,
        "largest_difference": float(np.abs(found - exact).max()),
        "sqnr_db": round(float(10 * np.log10(signal / error)), 2) if error and signal else None,
    }
    if file.numbers not in ALLOWANCE:
        return {**judged, "least_equal_top1": LEAST_EQUAL_TOP1, "passed": equal >= LEAST_EQUAL_TOP1}
    report = _judge()(
        file.spec, [_Exported(found, weights)], weights=weights, inputs=inputs, name=str(file.path)
    )
    judged |= _verdict(report, file.numbers)
    judged["judgement"] = judged["judgement"][-1:]  # nothing but the logits was there to judge
    return judged


def _judge_stages(file: OnnxFile) -> dict[str, Any]:
    opset = cast(Opset, file.opset)
    form = Form(precision=cast(Precision, file.numbers), opset=opset)
    return _verdict(_judge()(file.spec, [_Rebuilt(form)], name=str(file.path)), file.numbers)


def _verdict(report: Any, numbers: str) -> dict[str, Any]:
    """The suite's judgement of each tap, and whether the worst is within the allowance."""
    (backend,) = report.to_data()["backends"]
    margin, allowance = backend["margin"], ALLOWANCE[numbers]
    sound = backend["crash"] is None and not backend["problems"]
    return {
        "margin": margin,
        "allowance": allowance,
        "worst_tap": backend["worst_tap"],
        "crash": backend["crash"],
        "problems": backend["problems"],
        "judgement": backend["taps"],
        "passed": sound and margin is not None and margin <= allowance,
    }


def _judge() -> Any:
    judges = list(entry_points(group="mixer_spec.judges"))
    if not judges:
        raise MissingExtraError(
            "certify", "needs a judge; expected the conformance suite, which mixer-spec installs"
        )
    return judges[0].load()


@dataclass(frozen=True, slots=True)
class _Exported:
    """Logits that a file gave, in the form of a backend."""

    logits: NDArray[Any]
    weights: Weights

    def info(self) -> BackendInfo:
        return BackendInfo(
            name="exported file", versions={}, device="cpu", profiles=("f32-strict",), taps=False
        )

    def load(
        self, spec: ModelSpec, weights: Weights, *, profile: Profile = "f32-strict"
    ) -> _Exported:
        return self

    def forward(self, inputs: NDArray[Any], taps: Sequence[str] = ()) -> Mapping[str, NDArray[Any]]:
        return {"logits": self.logits}

    def export_weights(self) -> Weights:
        return self.weights


@dataclass(frozen=True, slots=True)
class _Rebuilt:
    """A backend that runs the graph of a form, with every tap, in the runtime found here."""

    form: Form

    def info(self) -> BackendInfo:
        return BackendInfo(
            name=f"{self.form.numbers} graph", versions={}, device="cpu", profiles=("f32-strict",)
        )

    def load(self, spec: ModelSpec, weights: Weights, *, profile: Profile = "f32-strict") -> _Graph:
        model = build_onnx(spec, weights, taps=spec.taps, form=self.form)
        return _Graph(OnnxRun(ir.to_proto(model).SerializeToString()), weights)


@dataclass(frozen=True, slots=True)
class _Graph:
    run: OnnxRun
    weights: Weights

    def forward(self, inputs: NDArray[Any], taps: Sequence[str] = ()) -> Mapping[str, NDArray[Any]]:
        return self.run(inputs, list(dict.fromkeys([*taps, "logits"])))

    def export_weights(self) -> Weights:
        return self.weights


# --- a graph that takes photos, cut in two ----------------------------------------------------


def _front(proto: onnx.ModelProto, path: Path) -> Path:
    """The nodes that preprocess, as a model of their own."""
    return _part(proto, path, PHOTOS, [NAMES[Image]], front=True)


def _core(proto: onnx.ModelProto, file: OnnxFile, path: Path) -> Path:
    """The nodes behind them; beside the file, since its weights may lie there."""
    return _part(proto, path, NAMES[Image], list(file.outputs), front=False)


def _part(
    proto: onnx.ModelProto, path: Path, entering: str, outputs: list[str], *, front: bool
) -> Path:
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    graph = made.graph
    known = {value.name: value for value in [*graph.input, *graph.output, *graph.value_info]}
    nodes = [node for node in graph.node if node.name.startswith("/preprocess/") == front]
    tensors = [t for t in graph.initializer if t.name.startswith("/preprocess/") == front]
    for field, kept in (
        (graph.node, nodes),
        (graph.initializer, tensors),
        (graph.input, [known[entering]]),
        (graph.output, [known[name] for name in outputs]),
    ):
        kept = [type(item).FromString(item.SerializeToString()) for item in kept]
        del field[:]
        field.extend(kept)
    del graph.value_info[:]
    path.write_bytes(made.SerializeToString())
    return path


def _judge_front(path: Path, spec: ModelSpec, preprocessing: Preprocessing) -> dict[str, Any]:
    """Photos of several sizes through the graph and through Pillow."""
    run = OnnxRun(path)
    assert isinstance(spec.input, Image)
    size = (spec.input.height, spec.input.width)
    worst, std = 0.0, np.array(preprocessing.std)
    sizes = (size,) if preprocessing.geometry.kind == "as_is" else _PHOTO_SIZES
    for number, (height, width) in enumerate(sizes):
        photo = _photo(height, width, number)
        found = run(photo[None], [NAMES[Image]])[NAMES[Image]][0].transpose(1, 2, 0)
        exact = preprocess(photo, preprocessing, size)
        worst = max(worst, float((np.abs(found - exact) * std).max()) * 255)
    return {
        "photo_sizes": [list(pair) for pair in sizes],
        "largest_difference_counts": round(worst, 4),
        "most_counts": MOST_COUNTS,
        # Normalising in float32 is off by its own rounding.
        "passed": worst <= MOST_COUNTS + 1e-3,
    }


def _photo(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """A slope with noise: every value, smooth parts and sharp ones, uint8 ``[height, width, rgb]``."""
    noise = np.random.default_rng(seed).integers(0, 64, (height, width, 3))
    slope = np.linspace(0, 191, width)[None, :, None] * np.ones((height, 1, 3))
    slope[height // 2 :] = 191 - slope[height // 2 :]
    made: NDArray[np.uint8] = (slope + noise).astype(np.uint8)
    return made


# --- keeping it --------------------------------------------------------------------------------


def _keep(path: Path, certificate: Mapping[str, Any]) -> None:
    """Into the file's metadata, without the long judgement of each tap; whole, as JSON beside it."""
    short = {
        key: {k: v for k, v in part.items() if k != "judgement"} if isinstance(part, dict) else part
        for key, part in certificate.items()
    }
    proto = onnx.load(path, load_external_data=False)
    kept = [entry for entry in proto.metadata_props if entry.key != CERTIFICATE]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    entry = proto.metadata_props.add()
    entry.key, entry.value = CERTIFICATE, json.dumps(short)
    with replacing(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
    with replacing(certificate_path(path)) as temporary:
        temporary.write_text(json.dumps(certificate, indent=2) + "\n", encoding="utf-8")
    if read_onnx(path).certificate != short:
        raise FileError(str(path), "its certificate does not read back as it was written")
