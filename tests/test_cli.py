"""The command line: what it prints, its exit codes, and commands that other packages bring."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from mixer_spec import VARIANTS, ModelSpec, __version__, families, variant
from mixer_spec.cli import GROUP
from mixer_spec.preprocess import PIPELINES, Preprocessing
from mixer_spec.schema import json_schema
from mixer_spec.shapes import TokenIds, Vectors

Run = Callable[..., Any]


# --- list, info, schema ---------------------------------------------------------------------


def test_list_names_every_variant_with_its_published_parameters(run: Run) -> None:
    outcome = run("list")
    assert outcome.code == 0
    assert outcome.err == ""
    for published in VARIANTS.values():
        name = f"{published.name} "
        (line,) = [line for line in outcome.out.splitlines() if line.startswith(name)]
        assert f" {published.parameters:,} " in line
        assert published.source in line
    assert "2 x multiply-adds" in outcome.out


def test_list_as_json_holds_the_same(run: Run) -> None:
    rows = run("list", "--json").data
    assert [row["name"] for row in rows] == list(VARIANTS)
    by_name = {row["name"]: row for row in rows}
    assert by_name["mixer_b16"]["parameters"] == 59_880_472
    assert by_name["mixer_b16"]["gflops"] == pytest.approx(25.2, abs=0.05)


@pytest.mark.parametrize(
    "name",
    [
        "mixer_s32",
        "gmlp_s16",
        "resmlp_b24",
        "gmixer_12",
        "vit_b16",
        "ff_ti16",
        "mixer_s32_untied",
        "mixer_s16_views",
        "mixer_s16_pyramid",
        "resmlp_12_sepconv",
    ],
)
def test_layers_of_info_add_up_to_the_totals(run: Run, name: str) -> None:
    told = run("info", name, "--json").data
    spec = variant(name).spec()
    sizes = [
        _product(parameter["shape"])
        for layer in told["layers"]
        for parameter in layer["parameters"].values()
    ]
    assert sum(sizes) == told["parameters"] == VARIANTS[name].parameters
    for column in ("multiply_adds", "activation_bytes"):
        assert sum(layer[column] for layer in told["layers"]) == told[column]
    assert told["gflops"] == 2e-9 * spec.multiply_adds
    assert told["fingerprint"] == spec.fingerprint
    assert told["taps"] == list(spec.taps)


def _product(shape: list[int]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total


def test_info_counts_with_and_without_the_head(run: Run) -> None:
    outcome = run("info", "Mixer-B/16")
    assert outcome.code == 0
    assert "59,880,472; without the head, as papers count: 59,111,472" in outcome.out
    assert run("info", "B/16", "--json").data["parameters_without_head"] == 59_111_472


def test_info_folds_the_blocks_of_a_stage_unless_asked_for_each(run: Run) -> None:
    folded = run("info", "mixer_s32").out
    assert "blocks.0-7.token_mixing.dense_0" in folded
    assert "blocks.7.token_mixing.dense_0" not in folded
    unfolded = run("info", "mixer_s32", "--layers").out
    assert "blocks.0-7" not in unfolded
    assert "blocks.7.token_mixing.dense_0" in unfolded


def test_info_shows_the_initial_values_of_the_variant(run: Run) -> None:
    assert "1: layer_norm.scale, token_dense.bias" in run("info", "gmlp_ti16").out
    layers = run("info", "gmlp_ti16", "--json").data["layers"]
    parameters = {name: p for layer in layers for name, p in layer["parameters"].items()}
    gate = parameters["blocks.0.gated_mixing.gate.dense_0.kernel"]
    assert gate["initial"] == "normal, standard deviation 1e-06"


def test_info_tells_the_preprocessing_of_the_published_weights(run: Run) -> None:
    expected = "deit_resmlp: resize_and_crop, mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225"
    assert expected in run("info", "resmlp_12").out
    told = run("info", "resmlp_12", "--json").data["preprocessing"]
    assert told.pop("name") == "deit_resmlp"
    assert Preprocessing.from_data(told, "info") == PIPELINES["deit_resmlp"]


def test_info_at_another_size_and_number_of_classes(run: Run) -> None:
    outcome = run("info", "mixer_b16", "--image-size", "224x320", "--classes", "10", "--json")
    told = outcome.data
    assert told["input"] == [224, 320, 3]
    assert told["classes"] == 10
    assert told["layers"][0]["outgoing"] == [14 * 20, 768]


def test_info_reads_a_spec_file(run: Run, tmp_path: Path) -> None:
    spec = variant("mixer_s32").spec(image_size=64, classes=10)
    path = tmp_path / "mine.json"
    path.write_text(spec.to_json(indent=2))
    told = json.loads(run("info", str(path), "--json").out)
    assert told["name"] is None
    assert told["fingerprint"] == spec.fingerprint
    assert ModelSpec.from_json(json.dumps(told["spec"])) == spec
    assert run("info", str(path)).code == 0


@pytest.mark.parametrize(
    ("entering", "told", "stem", "words"),
    [
        (
            TokenIds(tokens=64, vocabulary=8000),
            [64],
            ["stem", "64", "64x16", "1", "128,000"],
            "ids of words [token 64] of 8000 words",
        ),
        (
            Vectors(tokens=64, channels=12),
            [64, 12],
            ["stem", "64x12", "64x16", "1", "208"],
            "vectors [token 64, channel 12]",
        ),
    ],
    ids=["words", "vectors"],
)
def test_info_reads_the_spec_file_of_a_sequence(
    run: Run,
    tmp_path: Path,
    entering: TokenIds | Vectors,
    told: list[int],
    stem: list[str],
    words: str,
) -> None:
    spec = families.sequence_mixer(
        input=entering, channels=16, depth=2, token_hidden=8, channel_hidden=32, classes=2
    )
    path = tmp_path / "sequence.json"
    path.write_text(spec.to_json())
    data = json.loads(run("info", str(path), "--json").out)
    assert data["input"] == told
    assert data["parameters"] == spec.parameter_count
    assert ModelSpec.from_json(json.dumps(data["spec"])) == spec
    outcome = run("info", str(path))
    assert outcome.code == 0
    rows = [line.split() for line in outcome.out.splitlines()]
    assert [row[: len(stem)] for row in rows if row[:1] == ["stem"]] == [stem]
    assert ["input", *words.split()] in rows


def test_info_shows_the_transition_of_a_pyramid(run: Run) -> None:
    out = run("info", "mixer_s16_pyramid").out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert rows["transitions.1.dense_1"][:2] == ["256x512", "49x512"]
    assert rows["blocks.4-7.token_mixing"][:2] == ["49x512", "49x512"]


def test_schema_command_prints_the_schema(run: Run) -> None:
    assert run("schema").data == json_schema()


# --- bad input ------------------------------------------------------------------------------


def test_unknown_variant_names_the_nearest_and_exits_with_2(run: Run) -> None:
    for arguments in (["info", "mixer_b17"], ["info", "mixer_b17", "--json"]):
        outcome = run(*arguments)
        assert outcome.code == 2
        assert outcome.out == ""
        assert outcome.err.startswith("error: variant 'mixer_b17': there is no such variant")
        assert "mixer_b16" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mixer_b16", "--image-size", "225"], "expected 225 % 16 == 0, got 1"),
        (["mixer_b16", "--image-size", "large"], "expected 224 or 224x320, got 'large'"),
        (["mixer_b16", "--image-size", "0"], "height is too small; expected at least 1, got 0"),
        (["mixer_b16", "--classes", "0"], "classes is too small; expected at least 1, got 0"),
        (["absent.json"], "absent.json: cannot be read; got: No such file or directory"),
        (["absent.json", "--classes", "10"], "expected neither --image-size nor --classes"),
    ],
)
def test_bad_argument_of_info_is_one_message(run: Run, arguments: list[str], message: str) -> None:
    outcome = run("info", *arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert message in outcome.err


def test_broken_spec_file_is_named_with_everything_wrong(run: Run, tmp_path: Path) -> None:
    document = variant("mixer_s32").spec().to_data()
    document["head"]["classes"] = -1
    document["norm"]["kind"] = "batch_norm"
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(document))
    outcome = run("info", str(path))
    assert outcome.code == 2
    assert f"error: {path}: 2 rules broken" in outcome.err


def test_unknown_command_names_the_nearest(run: Run) -> None:
    outcome = run("lits")
    assert outcome.code == 2
    assert "Did you mean 'list'?" in outcome.err


# --- the program ----------------------------------------------------------------------------


def test_version_is_printed(run: Run) -> None:
    assert run("--version") == (0, f"mixer-spec {__version__}\n", "")


@pytest.mark.parametrize(
    "program",
    [[sys.executable, "-m", "mixer_spec"], [str(Path(sys.executable).with_name("mixer-spec"))]],
    ids=["module", "script"],
)
def test_module_and_script_are_the_same_program(program: list[str]) -> None:
    good = subprocess.run([*program, "list", "--json"], capture_output=True, text=True, check=True)
    assert len(json.loads(good.stdout)) == len(VARIANTS)
    bad = subprocess.run([*program, "info", "nothing"], capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: variant 'nothing'")


@pytest.mark.parametrize("argument", ["schema", "--version"])  # more than a buffer, and less
def test_reader_that_goes_away_gets_no_traceback(argument: str) -> None:
    program = [sys.executable, "-m", "mixer_spec", argument]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # long before the program has anything to print
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_interrupt_exits_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("mixer_spec.commands.schema.json_schema_text", interrupt)
    outcome = run("schema")
    assert outcome.code == 130
    assert "Traceback" not in outcome.err


# --- commands of other packages -------------------------------------------------------------

_GREET = '''
import typer
from typing import Annotated
from mixer_spec import InputError

def greet(name: Annotated[str, typer.Argument()]) -> None:
    """Greet someone."""
    if name == "nobody":
        raise InputError("greet", "there must be somebody; expected a name, got 'nobody'")
    print(f"hello {name}")
'''


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a made-up distribution whose module is registered as a command."""

    def register(command: str, target: str, module: str, source: str) -> None:
        information = tmp_path / "made_up-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n"
        )
        entry = f"[mixer_spec.commands]\n{command} = {module}:{target}\n"
        (information / "entry_points.txt").write_text(entry)
        (tmp_path / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)

    return register


def test_help_names_every_command_the_groups_too(run: Run) -> None:
    rows = [line.strip("│ ").partition(" ")[0] for line in run("--help").out.splitlines()]
    names = {"list", "doctor", *(entry.name for entry in entry_points(group=GROUP))}
    assert "conformance" in names  # a group of commands
    assert names <= set(rows)


def test_registered_command_is_listed_and_runs(run: Run, register: Callable[..., None]) -> None:
    register("greet", "greet", "made_up_greet", _GREET)
    assert "Greet someone." in run("--help").out
    assert run("greet", "you") == (0, "hello you\n", "")


def test_error_of_a_registered_command_is_one_message(
    run: Run, register: Callable[..., None]
) -> None:
    register("greet", "greet", "made_up_rude_greet", _GREET)
    outcome = run("greet", "nobody")
    assert outcome.code == 2
    assert outcome.err == ("error: greet: there must be somebody; expected a name, got 'nobody'\n")


def test_registered_command_cannot_take_the_place_of_an_own_one(
    run: Run, register: Callable[..., None]
) -> None:
    register("list", "greet", "made_up_list", _GREET)
    assert run("list").out.startswith("name ")
    assert "Greet someone." not in run("--help").out


def test_own_commands_do_not_import_registered_ones(
    run: Run, register: Callable[..., None]
) -> None:
    register("greet", "greet", "made_up_lazy", _GREET)
    run("list")
    assert "made_up_lazy" not in sys.modules
    run("greet", "you")
    assert "made_up_lazy" in sys.modules


def test_command_without_its_extra_is_listed_with_it_and_refuses(
    run: Run, register: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    register("ride", "ride", "made_up_ride", "import torch\n\ndef ride() -> None: ...\n")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "mixer-spec[torch]" in _unfolded(run("--help").out)
    for arguments in (["ride"], ["ride", "anything", "--at", "all"]):
        outcome = run(*arguments)
        assert outcome.code == 2
        assert outcome.out == ""
        assert outcome.err == (
            "error: command ride: needs the package torch, which is not installed; "
            'do `pip install "mixer-spec[torch]"`\n'
        )


@pytest.mark.parametrize(
    ("target", "source", "reason"),
    [
        ("ride", "import no_such_package\n", "No module named 'no_such_package'"),
        ("walk", "def ride() -> None: ...\n", "has no attribute 'walk'"),
    ],
)
def test_broken_registration_does_not_break_the_others(
    run: Run, register: Callable[..., None], target: str, source: str, reason: str
) -> None:
    register("ride", target, f"made_up_broken_{target}", source)
    assert run("list").code == 0
    assert "Not available" in run("--help").out
    outcome = run("ride")
    assert outcome.code == 2
    assert outcome.err.startswith("error: command ride: cannot be imported: ")
    assert reason in outcome.err


def _unfolded(help_text: str) -> str:
    """The words of a help page, without its frame and line breaks."""
    return " ".join(help_text.replace("│", " ").split())
