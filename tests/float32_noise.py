"""How far the reference in float32 is from itself in float64: what tests of exports are judged by.

So many times this noise, as the conformance suite lets a backend be off, and no number of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_conformance.tolerance import K_RMS
from mixer_spec import ModelSpec
from mixer_spec.reference import Arithmetic, Shuffled, forward
from mixer_spec.weights import Weights

Array = NDArray[Any]


def rms(array: Array) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


def truth_and_tolerance(
    spec: ModelSpec, weights: Weights, inputs: Array, taps: Sequence[str] = ()
) -> tuple[Mapping[str, Array], dict[str, float]]:
    """Taps and logits in float64, and the root mean square by which float32 may miss them.

    The worst of three runs, as one may be lucky. Give it eight inputs or more: one is too few for
    the noise of a single logit.
    """
    truth = forward(spec, weights, inputs, taps)
    runs = [
        forward(spec, weights, inputs, taps, arithmetic=arithmetic)
        for arithmetic in (Arithmetic(np.float32), Shuffled(0), Shuffled(1))
    ]
    return truth, {
        tap: K_RMS * max(rms(run[tap] - array) for run in runs) for tap, array in truth.items()
    }


def allowed_in_log_softmax(tolerance: float, classes: int) -> float:
    """The root mean square by which log-probabilities may be off, where logits may by ``tolerance``.

    A log-probability has the error of its logit, that of a mean over its input's logits, which is
    at most their largest, and eight roundings of softmax itself.
    """
    return tolerance * (1 + classes**0.5) + 8 * 2.0**-24
