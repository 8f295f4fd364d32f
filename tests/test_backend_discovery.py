"""Backends are found by name or by class, and a missing one is explained."""

from __future__ import annotations

import builtins
import sys
import types

import pytest

from mixer_spec import MissingExtraError, UnknownNameError, backend_names, families, load_backend
from mixer_spec.extras import load_or_name_extra
from mixer_spec.reference import ReferenceBackend
from mixer_spec.weights import digest, initial

TINY = families.mixer(
    image_size=8, patch=4, channels=6, depth=1, token_hidden=5, channel_hidden=7, classes=3
)


def test_four_backends_are_registered():
    assert backend_names() == ("jax", "onnxruntime", "reference", "torch")


@pytest.mark.parametrize("name", ["reference", "mixer_spec.reference:ReferenceBackend"])
def test_backend_loads_by_name_and_by_class(name):
    assert isinstance(load_backend(name), ReferenceBackend)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torhc", r"is not registered; expected one of \['torch'\]"),
        ("", "is not registered; expected one of"),
        ("no_such_package:Backend", "there is no module no_such_package"),
        ("mixer_spec.reference:Nothing", "module mixer_spec.reference has no 'Nothing'"),
        ("mixer_spec:__version__", "is not a Backend"),
        ("builtins:dict", r"is not a Backend; expected info\(\) and load\(\)"),
    ],
)
def test_names_that_are_no_backend_are_explained(name, message):
    with pytest.raises(UnknownNameError, match=message):
        load_backend(name)


def test_missing_framework_names_the_extra_that_brings_it(monkeypatch):
    real = builtins.__import__

    def without_torch(name, *args, **kwargs):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    for module in [m for m in sys.modules if m.split(".")[0] == "mixer_torch"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(MissingExtraError, match=r'pip install "mixer-spec\[torch\]"'):
        load_backend("torch")


def test_missing_package_that_no_extra_brings_stays_an_import_error():
    def load():
        raise ModuleNotFoundError("No module named 'colour'", name="colour")

    with pytest.raises(ModuleNotFoundError, match="colour") as caught:
        load_or_name_extra("backend x", load)
    assert not isinstance(caught.value, MissingExtraError)


def test_error_inside_a_backend_module_is_not_hidden(monkeypatch):
    module = types.ModuleType("broken_backend")
    monkeypatch.setitem(sys.modules, "broken_backend", module)

    class Broken:
        def __init__(self):
            raise RuntimeError("no such device")

    module.Broken = Broken
    with pytest.raises(RuntimeError, match="no such device"):
        load_backend("broken_backend:Broken")


def test_reference_is_a_backend_like_any_other():
    backend = load_backend("reference")
    weights = initial(TINY)
    model = backend.load(TINY, weights)
    assert digest(model.export_weights()) == digest(weights)
    assert backend.info().profiles == ("f32-strict", "f64")


def test_profile_that_is_not_claimed_is_refused():
    with pytest.raises(UnknownNameError, match=r"expected one of \['f32-strict', 'f64'\], got"):
        load_backend("reference").load(TINY, initial(TINY), profile="int4")
