"""``mixer-spec init`` and ``mixer-spec export``: what they write, print, and refuse."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixer_converters.canonical import load, save
from mixer_converters.onnx_file import read_onnx
from mixer_spec import ModelSpec, families, variant
from mixer_spec.preprocess import PIPELINES
from mixer_spec.shapes import TokenIds, Vectors
from mixer_spec.weights import digest, initial

TINY = families.mixer(
    image_size=8, patch=4, channels=6, depth=1, token_hidden=5, channel_hidden=7, classes=3
)
SEQUENCES: dict[str, TokenIds | Vectors] = {
    "input_ids": TokenIds(tokens=6, vocabulary=11),
    "input_vectors": Vectors(tokens=6, channels=5),
}


Run = Callable[..., Any]


@pytest.fixture
def run(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run ``mixer-spec`` with arguments in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return run


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A canonical file in the folder of ``run``."""
    save(
        tmp_path / "tiny.safetensors",
        TINY,
        initial(TINY),
        preprocessing=PIPELINES["timm_imagenet"],
        labels=["cat", "dog", "lion"],
        provenance={"by": "a test"},
    )
    return "tiny.safetensors"


@pytest.fixture(params=SEQUENCES)
def sequence(request: pytest.FixtureRequest, run: Run, tmp_path: Path) -> str:
    """The name of a graph's input, with ``words.json`` and ``words.safetensors`` for it."""
    spec = families.sequence_mixer(
        input=SEQUENCES[request.param],
        channels=8,
        depth=1,
        token_hidden=5,
        channel_hidden=7,
        classes=3,
    )
    (tmp_path / "words.json").write_text(spec.to_json(), encoding="utf-8")
    (tmp_path / "names.txt").write_text("good\nbad\nugly\n", encoding="utf-8")
    arguments = ("-o", "words.safetensors", "--labels", "names.txt")
    assert run("init", "words.json", *arguments).code == 0
    return str(request.param)


# --- init -----------------------------------------------------------------------------------


def test_init_writes_the_paper_s_initial_values(run: Run) -> None:
    outcome = run("init", "gMLP-Ti/16", "-o", "ti.safetensors", "--seed", "5")
    assert (outcome.code, outcome.err) == (0, "")
    file = load("ti.safetensors")
    published = variant("gmlp_ti16")
    assert file.spec == published.spec()
    assert file.variant == "gmlp_ti16"
    assert file.preprocessing == PIPELINES[published.preprocessing]
    expected = initial(published.spec(), seed=5, overrides=published.initial)
    assert digest(file.weights) == digest(expected)
    assert "seed 5" in file.provenance["weights"]
    assert file.weights_digest in outcome.out
    assert "5,867,328" in outcome.out
    assert "mixer-spec export ti.safetensors" in outcome.out


def test_init_at_another_size_with_labels(run: Run, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\ufeffKatze\nHund\nLöwe\n", encoding="utf-8")
    outcome = run(
        "init", "gmlp_ti16", "-o", "m.safetensors", "--image-size", "64x96", "--labels", "names.txt"
    )
    assert outcome.code == 0
    file = load("m.safetensors")
    assert file.labels == ("Katze", "Hund", "Löwe")
    assert (file.spec.classes, file.spec.input.shape) == (3, (64, 96, 3))


def test_init_reads_labels_as_json_and_a_spec_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text('["a", "b", "c"]', encoding="utf-8")
    (tmp_path / "tiny.json").write_text(TINY.to_json(), encoding="utf-8")
    assert run("init", "tiny.json", "-o", "t.safetensors", "--labels", "names.json").code == 0
    file = load("t.safetensors")
    assert (file.spec, file.labels, file.variant) == (TINY, ("a", "b", "c"), None)


def test_init_takes_the_spec_of_a_sequence(sequence: str) -> None:
    spec = ModelSpec.from_json(Path("words.json").read_text(encoding="utf-8"))
    file = load("words.safetensors")
    assert (file.spec, file.variant, file.preprocessing) == (spec, None, None)
    assert file.labels == ("good", "bad", "ugly")
    assert file.weights_digest == digest(initial(spec))


def test_init_as_json_is_one_document(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tiny.json").write_text(TINY.to_json(), encoding="utf-8")
    answer = run("init", "tiny.json", "-o", "t.safetensors", "--json").data
    file = load("t.safetensors")
    assert answer == {
        "path": "t.safetensors",
        "bytes": Path("t.safetensors").stat().st_size,
        "variant": None,
        "parameters": TINY.parameter_count,
        "classes": 3,
        "seed": 0,
        "fingerprint": TINY.fingerprint,
        "weights_digest": file.weights_digest,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mixer_b61", "-o", "new.safetensors"], "there is no such variant"),
        (["mixer_s32", "-o", "tiny.safetensors"], "is there already"),
        (["mixer_s32", "-o", "no/such/folder.safetensors"], "there is no folder"),
        (["mixer_s32", "-o", "."], "is a folder"),
        (["mixer_s32", "-o", "new.safetensors", "--image-size", "100"], "100 % 32"),
        (["mixer_s32", "-o", "new.safetensors", "--labels", "absent.txt"], "could not be read"),
        (["mixer_s32", "-o", "new.safetensors", "--labels", "gap.txt"], r"got [2]"),
        (["mixer_s32", "-o", "new.safetensors", "--labels", "empty.txt"], "every class needs"),
        (["mixer_s32", "-o", "new.safetensors", "--labels", "latin.txt"], "expected UTF-8"),
        (["mixer_s32", "-o", "new.safetensors", "--labels", "number.json"], "must be a JSON list"),
        (
            ["gmlp_ti16", "-o", "new.safetensors", "--labels", "two.txt", "--classes", "3"],
            "expected 3 labels, got 2",
        ),
    ],
)
def test_init_refuses_bad_input_and_writes_nothing(
    run: Run, tiny: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "gap.txt").write_text("a\n\nb\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "latin.txt").write_bytes("Löwe".encode("latin-1"))
    (tmp_path / "number.json").write_text("3")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    outcome = run("init", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_init_replaces_a_file_by_force(run: Run, tiny: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.json").write_text(TINY.to_json(), encoding="utf-8")
    assert run("init", "tiny.json", "-o", tiny, "--force").code == 0
    assert load(tiny).labels is None


# --- export ---------------------------------------------------------------------------------


def test_export_writes_a_graph_that_says_what_the_file_said(run: Run, tiny: str) -> None:
    outcome = run("export", tiny)
    assert (outcome.code, outcome.err) == (0, "")
    source, found = load(tiny), read_onnx("tiny.onnx")
    assert found.spec == source.spec
    assert found.weights_digest == source.weights_digest
    assert (found.labels, found.preprocessing) == (source.labels, source.preprocessing)
    assert found.provenance == source.provenance
    assert (found.outputs, found.input_layout) == (("logits",), "NCHW")
    for text in (source.weights_digest, "opset            20", "--model tiny.onnx"):
        assert text in outcome.out


def test_export_with_taps_and_channels_last(run: Run, tiny: str) -> None:
    assert run("export", tiny, "-o", "a.onnx", "--taps", "stem, norm", "--layout", "nhwc").code == 0
    found = read_onnx("a.onnx")
    assert (found.outputs, found.input_layout) == (("stem", "norm", "logits"), "NHWC")
    assert run("export", tiny, "-o", "b.onnx", "--taps", "all").code == 0
    assert read_onnx("b.onnx").outputs == TINY.taps


def test_export_as_json_is_one_document(run: Run, tiny: str) -> None:
    answer = run("export", tiny, "--json").data
    assert answer == {
        "path": "tiny.onnx",
        "data_path": None,
        "bytes": Path("tiny.onnx").stat().st_size,
        "numbers": "float32",
        "opset": 20,
        "ir_version": 9,
        "input": "pixel_values",
        "input_layout": "NCHW",
        "outputs": ["logits"],
        "variant": None,
        "fingerprint": TINY.fingerprint,
        "weights_digest": load(tiny).weights_digest,
        "int8": None,
        "certificate_path": None,
        "certificate": None,
    }


def test_export_of_a_sequence_says_what_enters_and_nothing_of_photos(
    run: Run, sequence: str
) -> None:
    outcome = run("export", "words.safetensors")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"input            {sequence}\n" in outcome.out
    assert "layout" not in outcome.out
    assert "predict" not in outcome.out
    assert "mixer_onnxruntime.load_onnx('words.onnx').forward(inputs)" in outcome.out
    answer = run("export", "words.safetensors", "--force", "--json").data
    assert (answer["input"], answer["input_layout"]) == (sequence, None)
    assert read_onnx("words.onnx").spec == load("words.safetensors").spec


def test_export_refuses_a_layout_for_a_sequence(run: Run, sequence: str) -> None:
    outcome = run("export", "words.safetensors", "--layout", "nchw")
    assert (outcome.code, outcome.out) == (2, "")
    assert "input_layout is for images" in outcome.err
    assert not Path("words.onnx").exists()


def test_export_refuses_weights_that_changed_since(run: Run, tiny: str, tmp_path: Path) -> None:
    content = bytearray((tmp_path / tiny).read_bytes())
    content[-2] ^= 1
    (tmp_path / tiny).write_bytes(content)
    outcome = run("export", tiny)
    assert outcome.code == 2
    assert "its weights are not those it was written with" in outcome.err
    assert not (tmp_path / "tiny.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.safetensors"], "there is no such file"),
        (["note.txt"], "is of no known kind"),
        (["tiny.safetensors", "--taps", "steem"], "unknown taps ['steem']"),
        (["tiny.safetensors", "--layout", "chwn"], "nchw"),
        (["tiny.safetensors", "-o", "note.txt"], "is there already"),
        (["tiny.safetensors", "-o", "no/such.onnx"], "there is no folder"),
    ],
)
def test_export_refuses_bad_input_and_writes_nothing(
    run: Run, tiny: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "note.txt").write_text("a note")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    outcome = run("export", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_export_without_its_packages_names_the_extra(
    run: Run, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("mixer_converters.onnx")]:
        monkeypatch.delitem(sys.modules, name)

    class NoOnnx:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "onnx_ir":
                raise ModuleNotFoundError("No module named 'onnx_ir'", name="onnx_ir")

    for name in [name for name in sys.modules if name.split(".")[0] == "onnx_ir"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NoOnnx(), *sys.meta_path])
    outcome = run("export", tiny)
    assert outcome.code == 2
    assert 'pip install "mixer-spec[onnx]"' in outcome.err
    assert not (tmp_path / "tiny.onnx").exists()
