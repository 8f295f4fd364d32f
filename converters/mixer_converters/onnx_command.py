"""The command ``mixer-spec export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mixer_spec.commands.output import Json
from mixer_spec.errors import FileError, InputError
from mixer_spec.shapes import Image

from .canonical import CanonicalFile, load
from .cli import Force, check_output, print_summary, status

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .model_file import Opened
    from .onnx_form import Form

_FAILED = 1
_MOST_IMAGES = 512  # of a calibration folder; more change no range
_PHOTOS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")

_GRAPH, _NUMBERS, _FILE = "What enters and leaves", "Numbers", "File"


def export(
    file: Annotated[Path, typer.Argument(help="A file or folder of weights, of any layout.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The .onnx to write. Default: FILE's name."),
    ] = None,
    preprocess: Annotated[
        bool,
        typer.Option(
            "--preprocess",
            help="Take uint8 photos of any size; resize, crop and normalise in the graph.",
            rich_help_panel=_GRAPH,
        ),
    ] = False,
    probabilities: Annotated[
        bool,
        typer.Option("--probabilities", help="Return their softmax too.", rich_help_panel=_GRAPH),
    ] = False,
    class_names: Annotated[
        bool,
        typer.Option(
            "--class-names",
            help="Return the most probable class's name too.",
            rich_help_panel=_GRAPH,
        ),
    ] = False,
    taps: Annotated[
        str | None,
        typer.Option(
            help="Intermediates to return beside the logits: names by commas, or all.",
            rich_help_panel=_GRAPH,
        ),
    ] = None,
    layout: Annotated[
        Literal["NCHW", "NHWC"] | None,
        typer.Option(
            case_sensitive=False,
            help="Axes of images, pixel_values. Default: nchw.",
            rich_help_panel=_GRAPH,
        ),
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"],
        typer.Option(
            help="Of weights and products; norms, inputs and outputs stay float32.",
            rich_help_panel=_NUMBERS,
        ),
    ] = "float32",
    int8: Annotated[
        Literal["static", "dynamic"] | None,
        typer.Option(
            help="Products inside the blocks in 8 bits: ranges from --calibration, or at each run.",
            rich_help_panel=_NUMBERS,
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="A folder of photos like those that will come; for int8.",
            rich_help_panel=_NUMBERS,
        ),
    ] = None,
    opset: Annotated[
        Literal["17", "18", "20"],
        typer.Option(help="Version of the operators.", rich_help_panel=_NUMBERS),
    ] = "20",
    weights: Annotated[
        Literal["inline", "external", "shared"] | None,
        typer.Option(
            help="In the graph, in a file beside it, or in FILE itself, a canonical one, which must "
            "stay beside the graph and never be written again. Default: inline up to 1.5 GB.",
            rich_help_panel=_FILE,
        ),
    ] = None,
    certify: Annotated[
        bool,
        typer.Option(
            "--certify",
            help="Run the file and judge it against float64; write the certificate into it and "
            "as .certificate.json. Exit code 1 if it does not pass.",
            rich_help_panel=_FILE,
        ),
    ] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Export a model to ONNX: one graph with weights, spec and preprocessing."""
    from mixer_spec.extras import load_or_name_extra

    from .model_file import read_model_file

    target = file.with_suffix(".onnx") if output is None else output
    check_output(target, force=force)
    with status(f"reading {file}"):
        source = read_model_file(file)

    def write() -> tuple[dict[str, Any], bool]:
        from .onnx_certificate import certificate_path
        from .onnx_certificate import certify as judge
        from .onnx_export import export_onnx
        from .onnx_form import IR_VERSIONS, Form

        form = Form(
            precision=dtype,
            opset={"17": 17, "18": 18, "20": 20}[opset],  # type: ignore[arg-type]
            int8="dynamic" if int8 else None,  # a static form is made below, of its ranges
            photos=preprocess,
            probabilities=probabilities,
            class_names=class_names,
        )
        photos = None if calibration is None else _photos(calibration, source)
        form, cost = _in_eight_bits(source, form, int8, photos)
        written = export_onnx(
            source.spec,
            source.weights,
            target,
            taps=_taps(taps, source.spec.taps),
            input_layout=layout,
            variant=source.variant,
            preprocessing=source.preprocessing,
            labels=source.labels,
            provenance=source.provenance,
            form=form,
            placing=weights,
            shared=_canonical(file, source) if weights == "shared" else None,
            overwrite=force,
        )
        certificate = None
        if certify:
            certificate = judge(target, source.weights, _judged_inputs(source, photos))
        files = (target, written.data_path if weights != "shared" else None)
        summary = {
            "path": str(target),
            "data_path": None if written.data_path is None else str(written.data_path),
            "bytes": sum(path.stat().st_size for path in files if path),
            "numbers": written.numbers,
            "opset": written.opset,
            "ir_version": IR_VERSIONS[form.opset],
            "input": written.input,
            "input_layout": written.input_layout,
            "outputs": list(written.outputs),
            "variant": written.variant,
            "fingerprint": written.spec.fingerprint,
            "weights_digest": written.weights_digest,
            "int8": cost,
            "certificate_path": str(certificate_path(target)) if certify else None,
            "certificate": certificate,
        }
        return summary, certificate is None or bool(certificate["passed"])

    with status(f"writing {target}"):
        summary, passed = load_or_name_extra("export", write)
    if isinstance(source.spec.input, Image):
        following = f"mixer-spec predict PHOTO --model {target}"
    else:
        following = f"in Python, mixer_onnxruntime.load_onnx({str(target)!r}).forward(inputs)"
    print_summary(summary if json else _in_words(summary), following, json=json)
    if not passed:
        raise typer.Exit(_FAILED)


def _canonical(file: Path, source: Opened) -> CanonicalFile:
    """The file whose bytes a graph can point to."""
    if isinstance(source, CanonicalFile):
        return source
    if (source.layout, source.container) != ("canonical", "safetensors"):
        raise InputError(
            "--weights shared",
            "a graph can only point to weights that lie as it needs them; expected a canonical "
            f".safetensors, got {file}: {source.layout} ({source.container}); do `mixer-spec "
            "convert` first",
        )
    return load(file)


def _in_eight_bits(
    source: Opened, form: Form, int8: str | None, photos: NDArray[np.float32] | None
) -> tuple[Form, dict[str, Any] | None]:
    """The form with measured ranges, and what its eight bits cost on the calibration photos."""
    if int8 is None:
        if photos is not None:
            raise InputError("--calibration", "is for int8; do `--int8 static` with it")
        return form, None
    from dataclasses import replace

    from .onnx_calibrate import calibrate, measure_cost

    if int8 == "static":
        if photos is None:
            raise InputError(
                "--int8 static",
                "needs photos to measure ranges on; do `--calibration FOLDER`, or `--int8 dynamic`",
            )
        ranges = calibrate(source.spec, source.weights, photos)
        form = replace(form, int8="static", ranges=ranges)
    if photos is None:
        return form, None
    judged = replace(form, photos=False, probabilities=False, class_names=False)
    return form, measure_cost(source.spec, source.weights, judged, photos).to_data()


def _photos(folder: Path, source: Opened) -> NDArray[np.float32]:
    """The photos in a folder, preprocessed: ``[batch, height, width, rgb]``."""
    import numpy as np

    from mixer_spec.preprocess import preprocess as prepared

    if not folder.is_dir():
        raise FileError(str(folder), "is no folder; expected one with photos")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PHOTOS)
    if not files:
        raise FileError(str(folder), f"has no photos; expected files ending with {list(_PHOTOS)}")
    if not isinstance(source.spec.input, Image) or source.preprocessing is None:
        raise InputError(
            "--calibration",
            f"needs a model of photos and its preprocessing, which {source.path} "
            "does not say; from Python, mixer_converters.onnx_calibrate.calibrate takes arrays",
        )
    size = (source.spec.input.height, source.spec.input.width)
    # Evenly out of all, since folders are often in the order of classes.
    chosen = files[:: -(-len(files) // _MOST_IMAGES)]
    return np.stack([prepared(path, source.preprocessing, size) for path in chosen])


def _judged_inputs(source: Opened, photos: NDArray[np.float32] | None) -> NDArray[Any]:
    """A few photos where there are some; otherwise numbers from a seed, for any kind of input."""
    import numpy as np

    from mixer_spec.shapes import TokenIds

    if photos is not None:
        return photos[:64]
    generator, given = np.random.default_rng(0), source.spec.input
    if isinstance(given, TokenIds):
        return generator.integers(0, given.vocabulary, (2, *given.shape))
    return generator.uniform(-1, 1, (2, *given.shape)).astype(np.float32)


def _taps(text: str | None, every: tuple[str, ...]) -> tuple[str, ...]:
    if text is None:
        return ()
    return every if text == "all" else tuple(name.strip() for name in text.split(","))


def _in_words(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary for people: the long parts in a line each."""
    shown = dict(summary)
    cost, certificate = shown.pop("int8"), shown.pop("certificate")
    if cost:
        decibels = {tap: db for tap, db in cost["sqnr_db"].items() if db is not None}
        worst = min(decibels, key=lambda tap: decibels[tap], default="logits")
        shown["int8"] = (
            f"{cost['equal_top1']:.1%} of {cost['inputs']} photos have the same class; "
            f"signal to noise {decibels.get('logits', 0):.1f} dB at the logits, "
            f"{decibels.get(worst, 0):.1f} dB at the worst stage, {worst}"
        )
    if certificate:
        logits = certificate["logits"]
        verdict = "passed" if certificate["passed"] else "NOT PASSED"
        margin = (
            f"{logits['margin']:.3g} of {logits['allowance']:g} tolerances"
            if "margin" in logits and logits["margin"] is not None
            else f"{logits['equal_top1']:.1%} equal classes"
        )
        if "stages" in certificate:
            margin += f"; every stage within {certificate['stages']['margin']:.3g}"
        shown["certificate"] = f"{verdict}: logits at {margin}; {certificate['versions']['engine']}"
    return shown
