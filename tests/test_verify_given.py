"""`verify` on weights and images that the caller brings, as those of a trained model."""

import numpy as np
import pytest

from mixer_conformance import conformance_inputs, conformance_weights, verify
from mixer_spec import InputError, WeightsError, families, reference

SPEC = families.mixer(
    image_size=8, patch=4, channels=8, depth=1, token_hidden=5, channel_hidden=12, classes=7
)


def given() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Weights and three images that `verify` would not make itself."""
    weights = {name: 2 * array for name, array in conformance_weights(SPEC, seed=9).items()}
    return weights, 0.5 * conformance_inputs(SPEC, 3, seed=9)


class Watching(reference.ReferenceBackend):
    """The reference, which notes what it was loaded with and run on."""

    def load(self, spec, weights, *, profile="f32-strict"):
        self.weights = weights
        model = super().load(spec, weights, profile=profile)
        watching = self

        class Noting:
            def forward(self, images, taps=()):
                watching.images = images
                return model.forward(images, taps)

            def export_weights(self):
                return model.export_weights()

        return Noting()


class HeadOff(reference.ReferenceBackend):
    """The reference with a head bias that is off by a thousandth."""

    def load(self, spec, weights, *, profile="f32-strict"):
        wrong = {**weights, "head.bias": weights["head.bias"] * np.float32(1.001)}
        return super().load(spec, wrong, profile=profile)


def test_backends_are_judged_on_the_given_weights_and_images():
    weights, images = given()
    backend = Watching()
    report = verify(SPEC, [backend], weights=weights, inputs=images)
    assert report.conformant
    assert (report.seed, report.batch) == (None, 3)
    assert backend.weights["norm.scale"] is weights["norm.scale"]
    np.testing.assert_array_equal(backend.images, images)


def test_a_wrong_head_is_found_on_given_weights():
    weights, images = given()
    report = verify(SPEC, [HeadOff()], weights=weights, inputs=images)
    assert not report.conformant
    assert report.backends[0].first_bad_stage == "logits"


def test_the_seed_is_told_while_it_makes_anything():
    weights, images = given()
    assert verify(SPEC, ["reference"], weights=weights, seed=4).seed == 4
    assert verify(SPEC, ["reference"], inputs=images, seed=4).seed == 4


def test_images_and_weights_that_do_not_fit_are_refused():
    weights, images = given()
    with pytest.raises(InputError, match="inputs: wrong size"):
        verify(SPEC, ["reference"], weights=weights, inputs=images[:, :4])
    del weights["head.bias"]
    with pytest.raises(WeightsError, match=r"- head\.bias \[7\] \(missing\)"):
        verify(SPEC, ["reference"], weights=weights, inputs=images)
