"""Models as folders: round trips, the card, and nothing half-written."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image as Pillow

from mixer_conformance import conformance_inputs, conformance_weights
from mixer_conformance import verify as judge
from mixer_converters import from_pretrained, pretrained, save_pretrained
from mixer_converters.card import model_card
from mixer_converters.metadata import Metadata
from mixer_spec import (
    FileError,
    InputError,
    MissingExtraError,
    ModelSpec,
    SpecError,
    WeightsError,
    families,
)
from mixer_spec.preprocess import PIPELINES
from mixer_spec.reference import forward
from mixer_spec.shapes import TokenIds
from mixer_spec.weights import digest
from tests.float32_noise import rms, truth_and_tolerance

SPEC = families.gmixer(
    image_size=(8, 12), patch=4, channels=8, depth=2, token_hidden=6, channel_hidden=12, classes=2
)
MIXER = families.mixer(
    image_size=(8, 12), patch=4, channels=8, depth=1, token_hidden=6, channel_hidden=12, classes=2
)
LABELS = ['a "cat": #1', "dog | wolf"]


def _save(folder: Path, spec: ModelSpec = SPEC, **options: Any) -> str:
    return save_pretrained(folder, spec, conformance_weights(spec), **options)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- round trips -----------------------------------------------------------------------------


def test_everything_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    told = _save(
        folder,
        variant="gmixer_12",
        preprocessing=PIPELINES["big_vision"],
        labels=LABELS,
        provenance={"trained on": "nothing"},
    )
    weights = conformance_weights(SPEC)
    file = from_pretrained(folder)
    assert told == digest(weights) == file.weights_digest
    assert digest(file.weights) == told
    assert file.spec == SPEC
    assert (file.variant, file.labels) == ("gmixer_12", tuple(LABELS))
    assert file.preprocessing == PIPELINES["big_vision"]
    assert file.provenance == {"trained on": "nothing"}
    assert _names(folder) == ["README.md", "config.json", "model.safetensors"]
    assert _names(tmp_path) == ["tiny"]


def test_the_order_of_bytes_in_memory_plays_no_part(tmp_path: Path) -> None:
    weights = conformance_weights(SPEC)
    swapped = {name: array.astype(">f4") for name, array in weights.items()}
    assert save_pretrained(tmp_path / "tiny", SPEC, swapped) == digest(weights) == digest(swapped)
    assert digest(from_pretrained(tmp_path / "tiny").weights) == digest(weights)


def test_config_says_what_tools_look_for(tmp_path: Path) -> None:
    _save(tmp_path / "tiny", labels=LABELS)
    config = json.loads((tmp_path / "tiny/config.json").read_text("utf-8"))
    assert config["model_type"] == "mixer_spec"
    assert config["num_classes"] == 2
    assert config["id2label"] == {"0": LABELS[0], "1": LABELS[1]}
    spec = config["spec"]
    assert ModelSpec.from_json(json.dumps(spec)) == SPEC


def test_folder_can_be_moved(tmp_path: Path) -> None:
    _save(tmp_path / "tiny")
    (tmp_path / "tiny").rename(tmp_path / "other")
    assert from_pretrained(str(tmp_path / "other")).spec == SPEC


# --- the card --------------------------------------------------------------------------------


def _card(spec: ModelSpec = SPEC, name: str = "tiny", **options: Any) -> str:
    known = {k: options.pop(k) for k in ("preprocessing", "labels", "provenance") if k in options}
    return model_card(Metadata(spec=spec, weights_digest="d" * 64, **known), name, **options)


def test_head_of_the_card_is_yaml_that_the_hub_reads() -> None:
    head = yaml.safe_load(_card(license="apache-2.0").split("---")[1])
    assert head["library_name"] == "mixer-spec"
    assert head["pipeline_tag"] == "image-classification"
    assert head["license"] == "apache-2.0"
    assert "mlp-mixer" in head["tags"]


def test_card_of_a_sequence_model_claims_no_images() -> None:
    spec = families.sequence_mixer(
        input=TokenIds(tokens=4, vocabulary=9), channels=4, depth=1, token_hidden=3,
        channel_hidden=5, classes=2,
    )  # fmt: skip
    card = _card(spec)
    assert "pipeline_tag" not in card
    assert "movedim" not in card


@pytest.mark.parametrize(
    ("spec", "facts"),
    [
        (MIXER, ["GELU by the tanh approximation: 2 places", "epsilon 1e-06: 3 places"]),
        (
            families.gmlp(image_size=8, patch=4, channels=4, depth=2),
            [
                "GELU by erf, exact: 2 places",
                "LayerNorm with epsilon 1e-05: 2 places, the first `blocks.0.gated_mixing.gate",
            ],
        ),
        (SPEC, ["SiLU: 4 places", "gated by the second half: 4 places"]),
        (
            families.feed_forward(image_size=8, patch=4, channels=4, depth=1),
            ["normalisation over the tokens with epsilon 1e-06: 1 place,"],
        ),
    ],
    ids=["mixer", "gmlp", "gmixer", "feed_forward"],
)
def test_card_tells_which_function_it_is(spec: ModelSpec, facts: list[str]) -> None:
    card = _card(spec)
    for fact in facts:
        assert fact in card


def test_card_holds_digest_fingerprint_preprocessing_and_provenance() -> None:
    card = _card(preprocessing=PIPELINES["timm_inception"], provenance={"origin": "a | b\nc"})
    assert "d" * 64 in card
    assert SPEC.fingerprint in card
    assert "The pipeline `timm_inception`." in card
    assert "- origin: a \\| b c" in card
    assert "Not known; it changes every logit." in _card()


def test_card_holds_the_figures_of_a_verification() -> None:
    report = judge(SPEC, ["reference"]).to_data()
    card = _card(verification=report)
    margin = report["backends"][0]["margin"]
    assert f"| conformant | {margin:.3f} |" in card
    report["backends"][0]["conformant"] = False
    assert "| **not conformant** |" in _card(verification=report)


def test_verification_of_another_spec_is_refused(tmp_path: Path) -> None:
    report = judge(MIXER, ["reference"]).to_data()
    with pytest.raises(InputError, match="is of another spec"):
        _save(tmp_path / "tiny", verification=report)
    with pytest.raises(InputError, match="must be what Report"):
        _save(tmp_path / "tiny", verification={"reports": []})
    assert _names(tmp_path) == []


def test_code_on_the_card_runs_and_all_three_frameworks_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tiny"
    _save(folder, preprocessing=PIPELINES["big_vision"])
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Pillow.fromarray(noise).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    card = (folder / "README.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, Any] = {}
    exec(blocks[0], names)  # noqa: S102 - what the card tells its reader to run
    weights = conformance_weights(SPEC)
    expected = forward(SPEC, weights, names["inputs"])["logits"]
    _, tolerance = truth_and_tolerance(SPEC, weights, conformance_inputs(SPEC, 8))
    assert np.ptp(expected) > 0.1
    for block in blocks[1:]:
        names.pop("logits", None)
        exec(block, names)  # noqa: S102
        found = names["logits"]
        found = found.detach().numpy() if hasattr(found, "detach") else np.asarray(found)
        assert rms(found - expected) <= tolerance["logits"]


# --- nothing half-written --------------------------------------------------------------------


def test_folder_that_is_there_is_refused_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    _save(folder)
    with pytest.raises(FileError, match="is there already; choose another name, or replace it"):
        _save(folder, MIXER)
    assert from_pretrained(folder).spec == SPEC


def test_overwrite_replaces_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    _save(folder)
    _save(folder, MIXER, overwrite=True)
    assert from_pretrained(folder).spec == MIXER
    assert _names(tmp_path) == ["tiny"]


@pytest.mark.parametrize("name", ["notes.txt", "README.md"])
def test_overwrite_never_removes_what_others_wrote(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "home"
    (folder / name).mkdir(parents=True)  # a folder, even of a name that we write
    with pytest.raises(FileError, match="is not replaced; expected a folder with nothing but"):
        _save(folder, overwrite=True)
    assert _names(folder) == [name]


def test_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny").write_text("mine")
    with pytest.raises(FileError, match=r"is not replaced; .* got \['tiny'\] too"):
        _save(tmp_path / "tiny", overwrite=True)
    assert (tmp_path / "tiny").read_text() == "mine"


def test_missing_parent_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no folder"):
        _save(tmp_path / "none/tiny")


@pytest.mark.parametrize("overwrite", [False, True])
def test_failure_while_writing_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    folder = tmp_path / "tiny"
    if overwrite:
        _save(folder)

    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretrained, "save", full)
    with pytest.raises(FileError, match=r"what was there is untouched; .*No space left"):
        _save(folder, MIXER, overwrite=overwrite)
    assert _names(tmp_path) == (["tiny"] if overwrite else [])
    if overwrite:
        assert from_pretrained(folder).spec == SPEC


def test_failure_of_the_last_renaming_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tiny"
    _save(folder)
    rename = Path.rename

    def refuse(self: Path, target: Any) -> Path:
        if self.name.endswith(".tmp"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(FileError, match="Input/output error"):
        _save(folder, MIXER, overwrite=True)
    monkeypatch.undo()
    assert from_pretrained(folder).spec == SPEC
    assert _names(tmp_path) == ["tiny"]


@pytest.mark.parametrize(
    ("options", "error"), [({"labels": ["one"]}, SpecError), ({"provenance": {1: 2}}, SpecError)]
)
def test_bad_metadata_leaves_nothing(
    tmp_path: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        _save(tmp_path / "tiny", **options)
    assert _names(tmp_path) == []


def test_weights_of_another_spec_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        save_pretrained(tmp_path / "tiny", SPEC, conformance_weights(MIXER))
    assert _names(tmp_path) == []


# --- reading what is not whole ---------------------------------------------------------------


def test_config_of_another_model_is_refused(tmp_path: Path) -> None:
    _save(tmp_path / "one")
    _save(tmp_path / "two", MIXER)
    (tmp_path / "one/config.json").replace(tmp_path / "two/config.json")
    with pytest.raises(FileError, match="do not belong together; expected parameters") as caught:
        from_pretrained(tmp_path / "two")
    assert any("expected fingerprint" in problem for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"architecture": "mixer_b16_224"}', "was not written by mixer_spec"),
        ("[]", "was not written by mixer_spec"),
        ("{", "must be JSON"),
        ("[" * 100_000, "must be JSON"),
        ("\udcff", "must be JSON"),
    ],
)
def test_config_of_others_is_refused(tmp_path: Path, text: str, words: str) -> None:
    _save(tmp_path / "tiny")
    (tmp_path / "tiny/config.json").write_text(text, "utf-8", "surrogateescape")
    with pytest.raises(FileError, match=words):
        from_pretrained(tmp_path / "tiny")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    _save(tmp_path / "tiny")
    (tmp_path / "tiny" / name).unlink()
    with pytest.raises(FileError, match=re.escape(name)):
        from_pretrained(tmp_path / "tiny")


# --- the hub, which no test asks -------------------------------------------------------------


def test_hub_is_asked_for_these_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(tmp_path / "tiny")
    asked: list[Any] = []

    def download(name: str, **options: Any) -> str:
        asked.append((name, options))
        return str(tmp_path / "tiny")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=download))
    monkeypatch.chdir(tmp_path)
    assert from_pretrained("owner/tiny-mixer", revision="v1").spec == SPEC
    files = ["config.json", "model.safetensors", "README.md"]
    assert asked == [("owner/tiny-mixer", {"revision": "v1", "allow_patterns": files})]


def test_refusal_of_the_hub_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*args: Any, **options: Any) -> str:
        raise OSError("404 Client Error.\n\nRepository Not Found")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=download))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match=r"does not give it; got: 404 Client Error\.$"):
        from_pretrained("owner/none")


def test_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as if it were not installed
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingExtraError, match=r"mixer-spec\[hub\]"):
        from_pretrained("owner/none")


@pytest.mark.parametrize("source", ["none", "a/b/c", "./none", "https://x/y", "owner/"])
def test_neither_a_folder_nor_a_hub_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    def never(*args: Any, **options: Any) -> str:
        raise AssertionError("the hub was asked")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=never))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match="there is no such folder"):
        from_pretrained(source)


def test_folder_has_no_revisions(tmp_path: Path) -> None:
    _save(tmp_path / "tiny")
    with pytest.raises(FileError, match="a folder has no revisions"):
        from_pretrained(tmp_path / "tiny", revision="main")
