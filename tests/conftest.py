"""What every test shares: the rule about skips, and the marker ``long``."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

#: A test that carries one of these may be skipped: the host lacks what it names.
HOST_MARKERS = frozenset({"kvm", "modify_ldt", "vectors", "linux_image"})
STRICT = os.environ.get("DM_STRICT") == "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests marked ``long`` unless -m names the marker or a test is named by its node id."""
    if "long" in config.option.markexpr or any("::" in arg for arg in config.args):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under DM_STRICT=1 a skip is a failure, unless the test says that the host may lack what it needs."""
    report = yield
    expected = hasattr(report, "wasxfail") or any(item.get_closest_marker(name) for name in HOST_MARKERS)
    if STRICT and report.skipped and not expected:
        report.outcome = "failed"
        report.longrepr = f"skipped under DM_STRICT=1, no marker of {sorted(HOST_MARKERS)}: {_reason(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Under DM_STRICT=1 a whole module skipped at import is a failure: it cannot carry a marker yet."""
    report = yield
    if STRICT and report.outcome == "skipped":
        report.outcome = "failed"
        report.longrepr = f"module skipped under DM_STRICT=1: {_reason(report)}"
    return report
