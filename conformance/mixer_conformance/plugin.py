"""The suite as a pytest plugin: one test for each case family on each model.

``pytest -p mixer_conformance.plugin --pyargs mixer_conformance --backend torch`` runs it; its options
mean what they do for ``mixer-spec conformance run``, and pytest's ``-k`` chooses families.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mixer_spec.backend import PROFILES

from .cases import EFFORTS
from .excuses import Excuse, read_excuses
from .result import GOOD
from .suite import Explanations, Planned, planned, subject_of


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the command line."""
    group = parser.getgroup("mixer_conformance", "conformance of a backend")
    group.addoption("--backend", help="a registered name, or package.module:Class")
    group.addoption("--level", type=int, default=2, help="0 structure to 4 optimiser")
    group.addoption("--profile", default="f32-strict", choices=PROFILES)
    group.addoption("--effort", default="quick", choices=EFFORTS)
    group.addoption("--scales", default="", help="models or groups, separated by commas")
    group.addoption("--excuses", type=Path, help="the backend's TOML file of known failures")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The suite is collected once, at this package's own file."""
    if file_path.name == "conformance_suite.py" and parent.config.getoption("--backend"):
        suite: pytest.Collector = ConformanceFile.from_parent(parent, path=file_path)
        return suite
    return None


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run in which the backend supported nothing is no success."""
    if exitstatus == pytest.ExitCode.OK and _supported_nothing(session):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Why such a run is none."""
    if _supported_nothing(terminalreporter._session):
        terminalreporter.write_line("nothing was executed: the backend supports none of the cases")


def _supported_nothing(session: pytest.Session) -> bool:
    items = [item for item in session.items if isinstance(item, ConformanceItem)]
    return bool(items) and not any(item.executed for item in items)


class ConformanceFile(pytest.File):
    """All planned cases."""

    def collect(self) -> Iterator[pytest.Item]:
        """One item for each case family on each model."""
        option = self.config.getoption
        subject = subject_of(
            option("--backend"), option("--profile"), option("--level"), option("--effort")
        )
        scales = tuple(name for name in option("--scales").split(",") if name)
        excuses = read_excuses(option("--excuses")) if option("--excuses") else ()
        known: Explanations = {}
        for one in planned(
            subject, level=option("--level"), effort=option("--effort"), scales=scales
        ):
            item: pytest.Item = ConformanceItem.from_parent(
                self, name=one.id, planned=one, excuses=excuses, known=known
            )
            item.user_properties.append(("title", one.case.title))
            yield item


class ConformanceItem(pytest.Item):
    """One case family on one model."""

    executed = False

    def __init__(
        self, *, planned: Planned, excuses: Sequence[Excuse], known: Explanations, **rest: Any
    ) -> None:
        super().__init__(**rest)
        self._planned = planned
        self._excuses = excuses
        self._known = known  # shared by all items of a run

    def runtest(self) -> None:
        """Run it; what is not good fails, and what the backend does not have is skipped."""
        result = self._planned.explained(self._excuses, self._known)
        self.user_properties.append(("margin", str(result.margin)))
        self.executed = result.status != "unsupported"
        if result.status == "unsupported":
            pytest.skip(result.message)
        if result.status == "expected_fail":
            pytest.xfail(result.message)
        if result.status not in GOOD:
            why = f"\n{result.diagnosis.sentence}" if result.diagnosis else ""
            raise NotConformant(f"{result.status}: {result.message}{why}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The finding in one sentence; only a fault of the suite's own has a traceback."""
        if isinstance(excinfo.value, NotConformant):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where the test is, for pytest's lines."""
        return self.path, None, self.name


class NotConformant(Exception):
    """A case that is not good."""
