"""Judge whether a backend computes what a spec says, against the float64 reference.

Example:
    >>> from mixer_spec import families
    >>> spec = families.resmlp(image_size=8, patch=4, channels=6, depth=1, classes=3)
    >>> verify(spec, ["reference"]).conformant
    True
"""

from .compare import Comparison, compare
from .excuses import Excuse, read_excuses
from .isolated import run_isolated
from .report import BackendReport, Report
from .result import Result
from .suite import run
from .verify import verify
from .weights import conformance_inputs, conformance_weights

__all__ = [
    "BackendReport",
    "Comparison",
    "Excuse",
    "Report",
    "Result",
    "compare",
    "conformance_inputs",
    "conformance_weights",
    "read_excuses",
    "run",
    "run_isolated",
    "verify",
]
