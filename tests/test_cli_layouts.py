"""``convert``, ``inspect``, ``map``, ``diff``, ``digest`` and ``verify`` of two files, as users run them."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from mixer_converters import convert, load, save
from mixer_spec import families
from mixer_spec.preprocess import PIPELINES

SPEC = families.mixer(
    image_size=8, patch=4, channels=6, depth=2, token_hidden=5, channel_hidden=7, classes=3
)
GENERATOR = np.random.default_rng(0)
WEIGHTS = {
    name: GENERATOR.standard_normal(parameter.shape).astype(np.float32)
    for name, parameter in SPEC.parameters().items()
}
FILES = {
    "google.npz": "google",
    "timm.safetensors": "timm",
    "timm.pth": "timm",
    "kecam.h5": "kecam",
}
STATED = "stated.safetensors"


Run = Callable[..., Any]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files that know their function, and two as their frameworks write them."""
    folder = tmp_path_factory.mktemp("files")
    save(folder / STATED, SPEC, WEIGHTS, provenance={"by": "a test"})
    for name, layout in FILES.items():
        convert(folder / STATED, folder / name, to=layout)
    bare(folder / "timm.safetensors", folder / "bare.pth")
    bare(folder / "google.npz", folder / "bare.npz")
    return folder


@pytest.fixture
def run(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: Path) -> Run:
    """Run ``mixer-spec`` with arguments in a copy of the folder."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return run


def bare(source: str | Path, target: str | Path, **changed: np.ndarray) -> None:
    """The tensors of a file as another writer has them: nothing says which function they are of."""
    if Path(target).suffix == ".npz":
        np.savez(target, allow_pickle=False, **{**np.load(source), **changed})
        return
    arrays = {**safetensors.numpy.load_file(source), **changed}
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, target)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- convert ----------------------------------------------------------------------------------


def test_convert_says_from_what_to_what_and_what_that_means(run: Run) -> None:
    code, out, err = run("convert", "bare.npz", "new.pth", "--to", "timm")
    assert (code, err) == (0, "")
    assert "bare.npz: google (npz) -> new.pth: timm (pth)" in out
    assert f"sizes of its own, {SPEC.parameter_count:,} parameters" in out
    assert "trained with tanh GELU, epsilon 1e-06: Google's Flax code writes these names" in out
    assert "runs erf GELU, epsilon 1e-06; these weights are for tanh GELU" in out
    assert "moves the logits by" in out
    assert "act_layer=functools.partial(torch.nn.GELU, approximate='tanh')" in out
    assert load("new.pth").weights_digest == load(STATED).weights_digest


def test_convert_prints_where_every_tensor_went_only_when_asked(run: Run) -> None:
    _, out, _ = run("convert", STATED, "a.npz", "--mapping")
    row = next(line for line in out.splitlines() if line.startswith("MixerBlock_1/token_mixing/D"))
    assert row.split(maxsplit=2)[1:] == [
        "blocks.1.token_mixing.dense_0.kernel",
        "token_out token -> token token_out".ljust(len(row.split(maxsplit=2)[2])),
    ]
    assert "MixerBlock_1" not in run("convert", STATED, "b.npz").out


def test_convert_as_json_is_one_document(run: Run) -> None:
    told = run("convert", "timm.pth", "new.npz", "--mapping", "--json").data
    assert told["source"] == {"path": "timm.pth", "layout": "timm", "kind": "pth"}
    assert told["target"] == {"path": "new.npz", "layout": "google", "kind": "npz"}
    assert (told["classes"], told["input"], told["variant"]) == (3, [8, 8, 3], None)
    assert told["fingerprint"] == SPEC.fingerprint
    assert {row["foreign"] for row in told["mapping"]} == set(np.load("new.npz").files)
    assert "mapping" not in run("convert", "timm.pth", "other.npz", "--json").data


def test_convert_replaces_a_file_only_by_force_even_itself(run: Run) -> None:
    before = load(STATED).weights_digest
    assert run("convert", STATED, STATED).code == 2
    assert run("convert", STATED, STATED, "--to", "timm", "--force").code == 0
    found = load(STATED)
    assert (found.layout, found.weights_digest) == ("timm", before)


def test_convert_rounds_only_when_asked(run: Run) -> None:
    assert "rounded to bfloat16" in run("convert", STATED, "a.npz", "--dtype", "bfloat16").out
    assert {array.dtype.name for array in load("a.npz").weights.values()} == {"bfloat16"}


@pytest.mark.parametrize("gelu", ["tanh", "none"])
def test_convert_records_the_function_that_somebody_said(run: Run, gelu: str) -> None:
    assert run("convert", "bare.pth", "new.safetensors", "--gelu", gelu).code == 0
    outcome = run("inspect", "new.safetensors", "--json")
    assert outcome.data["problem"] is None
    assert (load("new.safetensors").spec == SPEC) == (gelu == "tanh")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([STATED, "google.npz"], "google.npz: is there already; choose another name, or replace"),
        ([STATED, STATED], "is there already"),
        ([STATED, "new.npz", "--to", "tim"], "there is no such one; expected one of canonical,"),
        ([STATED, "new.pth", "--to", "deit"], "cannot hold this architecture (mixer); expected"),
        ([STATED, "new.pth"], "does not say which layout it should have; expected one of"),
        ([STATED, "new.h5", "--to", "timm"], "timm is not kept in such a file; expected one of"),
        ([STATED, "no/such/new.npz"], "there is no folder"),
        ([STATED, "new.npz", "--interpolate"], "goes with --resolution"),
        ([STATED, "new.npz", "--resolution", "13"], "error: --resolution: 2 rules broken"),
        ([STATED, "new.npz", "--resolution", "12"], "error: --resolution: 2 rules broken"),
        ([STATED, "new.onnx", "--dtype", "float16"], "`mixer-spec export --dtype float16`"),
        ([STATED, "new.npz", "--resolution", "large"], "--resolution: must be pixels; expected"),
        ([STATED, "folder", "--to", "timm"], "expected a published one, got sizes of its own"),
        (["absent.npz", "new.npz"], "absent.npz: there is no such file"),
        (["note.txt", "new.npz"], "is of no known kind"),
        (["bare.pth", "new.npz"], "which GELU it was trained with"),
        (["bare.pth", "new.npz"], "with --gelu tanh or --gelu none"),
        (
            ["classes.pth", "new.npz", "--gelu", "none"],
            "head.kernel does not fit the rest; expected [6, 3], got [6, 4]",
        ),
        (["misspelt.npz", "new.npz"], "its names are nearly those of google (mixer)"),
        (["misspelt.npz", "new.npz"], "- head.kernel (missing)"),
        (["misspelt.npz", "new.npz"], "+ head.krenel (not in the layout)"),
        (["twice.npz", "new.npz"], "holds weights more than once, under ['params/', 'target/']"),
        (["whole.npz", "new.npz"], "head_layer_norm/bias: expected a floating dtype, got int64"),
        (["cut.npz", "new.npz"], "is not a whole zip file"),
    ],
)
def test_convert_refuses_bad_input_and_writes_nothing(
    run: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "note.txt").write_text("a note")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "bare.npz").read_bytes()[:-100])
    bare("timm.safetensors", "classes.pth", **{"head.weight": np.zeros((4, 6), np.float32)})
    arrays = dict(np.load("bare.npz"))
    np.savez("whole.npz", **arrays | {"pre_head_layer_norm/bias": np.zeros(6, np.int64)})
    twice = {f"{wrapper}/{n}": a for wrapper in ("params", "target") for n, a in arrays.items()}
    np.savez("twice.npz", **twice)
    arrays["head/krenel"] = arrays.pop("head/kernel")
    np.savez("misspelt.npz", **arrays)
    before = content(tmp_path)
    code, out, err = run("convert", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert content(tmp_path) == before


def test_progress_is_on_stderr_only_and_only_where_that_is_a_terminal(run: Run) -> None:
    command = [sys.executable, "-m", "mixer_spec", "convert", STATED, "--json"]
    piped = subprocess.run([*command, "a.npz"], capture_output=True, text=True, check=True)
    assert piped.stderr == ""
    terminal, end = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    shown = subprocess.run(
        [*command, "b.npz"], stdout=subprocess.PIPE, stderr=end, env=environment, check=True
    )
    os.close(end)
    assert json.loads(shown.stdout)["target"]["path"] == "b.npz"
    assert b"writing b.npz" in os.read(terminal, 1 << 16)
    os.close(terminal)


# --- inspect ----------------------------------------------------------------------------------


def test_inspect_shows_tensors_with_statistics_and_what_they_are(run: Run) -> None:
    code, out, err = run("inspect", "google.npz")
    assert (code, err) == (0, "")
    kernel = WEIGHTS["blocks.0.token_mixing.dense_0.kernel"]
    row = next(line for line in out.splitlines() if "token_mixing/Dense_0/kernel" in line).split()
    assert row[1:4] == ["blocks.0.token_mixing.dense_0.kernel", "4x5", "float32"]
    assert row[4:8] == [f"{f(kernel.astype(float)):.4g}" for f in (np.min, np.max, np.mean, np.std)]
    for fact in (
        "kind         npz",
        "layout       google",
        "classes      3",
        "by           a test",
    ):
        assert fact in out


@pytest.mark.parametrize("command", ["inspect google.npz", "map head.kernel"])
def test_a_narrow_terminal_cuts_neither_names_nor_numbers(
    run: Run, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def words() -> list[str]:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", run(*command.split()).out)
        return [word for word in plain.split() if set(word) != {"─"}]

    wide = words()
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # which makes rich take this for a terminal
    assert words() == wide


def test_inspect_as_json_counts_what_is_not_finite(run: Run) -> None:
    odd = np.array([np.nan, np.inf, 1, 3, 2, -0.0], np.float32)
    bare("google.npz", "odd.npz", **{"pre_head_layer_norm/scale": odd})
    told = run("inspect", "odd.npz", "--json").data
    (norm,) = (t for t in told["tensors"] if t["canonical"] == ["norm.scale"])
    assert (norm["odd"], norm["minimum"], norm["maximum"], norm["mean"]) == (2, 0, 3, 1.5)
    assert (told["layout"], told["blocks"], told["values"]) == ("google", 2, SPEC.parameter_count)


def test_inspect_says_what_has_to_be_said_and_nothing_that_nobody_said(run: Run) -> None:
    outcome = run("inspect", "bare.pth", "--json")
    assert outcome.code == 0
    assert "`mixer-spec convert`, with --gelu tanh or --gelu none" in outcome.data["problem"]
    assert outcome.data["layout"] == "timm"
    assert [note for note in outcome.data["notes"] if "trained with" in note] == []


def test_inspect_shows_tensors_of_no_layout(run: Run) -> None:
    np.savez("mine.npz", abc=np.ones((2, 3)))
    outcome = run("inspect", "mine.npz")
    assert outcome.code == 0
    assert "2x3" in outcome.out
    assert "its names are those of no layout" in outcome.out


@pytest.mark.parametrize("name", ["bare.pth", "bare.npz", STATED])
def test_inspect_imports_no_framework(run: Run, name: str) -> None:
    code = (
        "import sys; from mixer_converters.inspection import inspect; "
        f"inspect({name!r}); print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "numpy" in loaded
    assert loaded.isdisjoint({"torch", "jax", "flax", "onnx", "onnxruntime", "h5py", "orbax"})


@pytest.mark.parametrize("command", ["inspect", "digest"])
def test_damaged_file_is_refused(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "cut.pth").write_bytes((tmp_path / "bare.pth").read_bytes()[:-100])
    code, out, err = run(command, "cut.pth")
    assert (code, out) == (2, "")
    assert "error: cut.pth: is not a whole zip file" in err


# --- map, diff, digest ------------------------------------------------------------------------


def test_map_shows_one_tensor_in_every_layout(run: Run) -> None:
    code, out, err = run("map", "MixerBlock_3/LayerNorm_1/scale")
    assert (code, err) == (0, "")
    for name in ("blocks.3.channel_mixing.norm.scale", "blocks.3.norm2.weight", "5.1.norm.weight"):
        assert name in out
    told = run("map", "5.1.norm.weight", "--json").data
    assert {row["layout"] for row in told} > {"google", "timm", "lucidrains", "nnx", "kecam"}
    code, out, err = run("map", "blocks.3.nrom2.weight")
    assert (code, out) == (2, "")
    assert "no layout has a tensor of that name" in err


def test_diff_is_0_for_the_same_weights_in_any_layout(run: Run) -> None:
    count = len(WEIGHTS)
    for name in (*FILES, "bare.pth", "bare.npz"):
        code, out, err = run("diff", STATED, name)
        assert (code, err) == (0, "")
        assert out.strip() == f"{count} of {count} weights are the same, bit for bit"
    told = run("diff", "bare.pth", "bare.npz", "--json").data
    assert told == {"weights": count, "same": True, "different": []}


def test_diff_is_1_and_names_the_weight_that_differs_and_by_how_much(run: Run) -> None:
    bare("google.npz", "moved.npz", **{"head/bias": WEIGHTS["head.bias"] + np.float32(0.5)})
    code, out, err = run("diff", STATED, "moved.npz")
    assert (code, err) == (1, "")
    assert next(line for line in out.splitlines() if "head.bias" in line).split()[2] == "0.5"
    assert f"{len(WEIGHTS) - 1} of {len(WEIGHTS)} weights are the same" in out
    outcome = run("diff", STATED, "moved.npz", "--json")
    (only,) = outcome.data["different"]
    assert (outcome.code, only["name"], outcome.data["same"]) == (1, "head.bias", False)
    assert only["largest"] == pytest.approx(0.5)


def test_diff_of_what_cannot_be_read_is_2(run: Run) -> None:
    code, out, err = run("diff", STATED, "absent.npz")
    assert (code, out) == (2, "")
    assert "there is no such file" in err


def test_digest_is_of_the_weights_and_of_no_layout(run: Run) -> None:
    printed = {run("digest", name).out for name in (STATED, *FILES, "bare.pth", "bare.npz")}
    assert printed == {load(STATED).weights_digest + "\n"}
    told = run("digest", "bare.npz", "--json").data
    assert told == {"path": "bare.npz", "weights_digest": load(STATED).weights_digest}
    bare("google.npz", "moved.npz", **{"head/bias": WEIGHTS["head.bias"] * np.float32(2)})
    assert run("digest", "moved.npz").out not in printed


# --- verify -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FILES, "bare.npz"])
def test_verify_finds_the_same_function_in_files_of_any_layout(run: Run, name: str) -> None:
    code, out, _ = run("verify", STATED, name, "--backends", "reference")
    assert code == 0
    assert f"the same function: {STATED} and {name}" in out
    assert "weights: the same bits" in out


def test_verify_tells_erf_from_tanh_in_equal_weights(run: Run) -> None:
    assert run("convert", "bare.pth", "erf.npz", "--gelu", "none").code == 0
    assert run("diff", STATED, "erf.npz").code == 0
    outcome = run("verify", STATED, "erf.npz", "--backends", "reference", "--json")
    assert outcome.code == 1
    assert outcome.data["same"] is False
    assert outcome.data["first_difference"] == "blocks.0.token_mixing"


def test_verify_asks_for_the_function_of_a_file_that_does_not_say_it(run: Run) -> None:
    code, out, err = run("verify", STATED, "bare.pth", "--backends", "reference")
    assert (code, out) == (2, "")
    assert "say it to `mixer-spec convert`, with --gelu tanh or --gelu none" in err


# --- what a file does not say, and what runs it -------------------------------------------------


def test_convert_adds_what_the_file_does_not_say(run: Run, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\nlion\n")
    assert "preprocessing unknown" in run("convert", "bare.npz", "a.safetensors").out
    told = ("--labels", "names.txt", "--preprocessing", "timm_imagenet")
    assert "preprocessing unknown" not in run("convert", "bare.npz", "b.npz", *told).out
    found = load("b.npz")
    assert (found.labels, found.preprocessing) == (
        ("cat", "dog", "lion"),
        PIPELINES["timm_imagenet"],
    )
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    code, _, err = run("convert", "bare.npz", "c.npz", *told)
    assert (code, "expected 3 labels, got 2" in err) == (2, True)
    assert not Path("c.npz").exists()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (("--gelu", "none"), "it says of itself gelu 'tanh'; expected nothing else, got 'none'"),
        (("--epsilon", "1e-5"), "it says of itself epsilon 1e-06; expected nothing else"),
        (("--image-size", "12"), "it says of itself image_size (8, 8); expected nothing else"),
        (("--heads", "3"), "it says of itself heads None; expected nothing else, got 3"),
    ],
)
def test_what_a_file_says_of_itself_is_not_overruled(
    run: Run, said: tuple[str, str], message: str
) -> None:
    code, out, err = run("convert", STATED, "a.npz", *said)
    assert (code, out) == (2, "")
    assert message in err
    assert not Path("a.npz").exists()
    agreeing = ("--gelu", "tanh", "--epsilon", "1e-6", "--image-size", "8")
    assert run("convert", STATED, "a.npz", *agreeing).code == 0


def test_export_takes_any_layout_that_says_its_function(run: Run) -> None:
    for name in ("google.npz", "timm.pth", "kecam.h5"):
        assert run("export", name, "-o", f"{name}.onnx").code == 0
        assert load(f"{name}.onnx").weights_digest == load(STATED).weights_digest
    code, out, err = run("export", "bare.pth")
    assert (code, out) == (2, "")
    assert "with --gelu tanh or --gelu none" in err
    assert run("export", STATED, "-o", "int8.onnx", "--int8", "dynamic").code == 0
    code, out, err = run("convert", "int8.onnx", "back.npz")
    assert (code, out) == (2, "")
    assert "int8.onnx: holds eight bits of each kernel, which do not give the weights back" in err
    for name in ("google.npz", "timm.safetensors"):
        code, out, err = run("export", name, "--weights", "shared", "-o", "shared.onnx")
        assert (code, out) == (2, "")
        assert f"expected a canonical .safetensors, got {name}" in err
    assert run("export", STATED, "--weights", "shared").code == 0
