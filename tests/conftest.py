"""What every test shares: the rule about skips, and the marker ``long``."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from dm.isa.map import coverage

#: Signals that a test sends, or whose effect on a child it looks at.
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2)


def own_dispositions() -> None:
    """Undo what a parent has left to this process and its children: ignored and blocked signals, closed descriptors.

    nohup ignores SIGHUP, a shell without job control SIGINT and SIGQUIT in the background; children of whoever ignores
    SIGCHLD cannot be waited for.  The next file opened would take the place of a closed descriptor 0 to 2.
    """
    with contextlib.suppress(ValueError):  # not the main thread
        for number in SIGNALS:
            if signal.getsignal(number) is signal.SIG_IGN:
                default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                signal.signal(number, default)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            empty = os.open(os.devnull, os.O_RDWR)
            if empty != descriptor:
                os.dup2(empty, descriptor)
                os.close(empty)
            os.set_inheritable(descriptor, True)


own_dispositions()

# Modules that tests share are imported by their names: tests/needs.py here, others beside their tests.
sys.path.insert(0, str(Path(__file__).resolve().parent))

#: A test that carries one of these may be skipped: the host lacks what it names.
HOST_MARKERS = frozenset({"kvm", "modify_ldt"})
STRICT = os.environ.get("DM_STRICT") == "1"
# A busy machine is slow, which says nothing about an example.
settings.register_profile("dm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dm")
#: The table of executed forms in this tree; a test run reads the installed package's.
TREE = Path(__file__).resolve().parents[1] / "dm/isa/map/executed.txt"
#: Test modules (as dm.isa.map.coverage names them): tests collected, and those of them that have passed.
_collected: Counter[str] = Counter()
_passed: Counter[str] = Counter()


def host_cpu() -> str:
    """Return vendor, family and model of the host's CPU as Linux shows them; the live oracle is that part's."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return "unknown"
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    words = (told.get("vendor_id"), told.get("cpu family"), told.get("model"))
    return "{} family {} model {}".format(*words) if all(words) else "unknown"


def pytest_report_header() -> str:
    """Say whose CPU this is."""
    return f"host CPU: {host_cpu()}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say whose CPU the live oracle was, also where there is no header."""
    passed = terminalreporter.getreports("passed") if hasattr(terminalreporter, "getreports") else []
    if any("modify_ldt" in report.keywords for report in passed):
        terminalreporter.write_line(f"live oracle: {host_cpu()}; the other vendor's part is in the recorded sets")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare --write-executed."""
    parser.addoption(
        "--write-executed", action="store_true",
        help="renew the claims of the test modules run, in dm/isa/map/executed.txt, about the forms that they execute",
    )  # fmt: skip


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


def _module(nodeid: str) -> str:
    return nodeid.partition("::")[0].removeprefix("tests/").removesuffix(".py")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Count the tests of each module, those included that -k, -m or a node id leave out."""
    for item in session.items:
        _collected[_module(item.nodeid)] += 1


@pytest.hookimpl(tryfirst=True)
def pytest_deselected(items: list[pytest.Item]) -> None:
    """A module of which a test is left out cannot be held to what it claims."""
    for item in items:
        if not item.get_closest_marker("long"):
            _collected[_module(item.nodeid)] += 1


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count what has passed."""
    if report.when == "call" and report.passed:
        _passed[_module(report.nodeid)] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Gather what was executed; a module whose tests have all passed must have executed what is claimed of it."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:  # a process of pytest-xdist: the one that started it gathers
        output["executed"] = [tuple(e) for e in coverage.recorded]
        output["collected"] = dict(_collected)
        return
    some = any("::" in arg for arg in session.config.args)  # then what is left out was never collected
    complete = {module for module, count in _collected.items() if _passed[module] == count and not some}
    claimed = coverage.load()
    if session.config.option.write_executed:
        mine = {e for e in coverage.recorded if e.test in complete}
        coverage.save({claim for claim in claimed if claim.test not in complete} | mine, TREE)
        return
    broken = coverage.broken_claims(claimed, coverage.recorded, complete)
    if broken:
        what = f"{len(broken)} claims about forms are not true (pytest --write-executed renews)"
        text = "\n".join([f"{what}:", *(f"  {claim}" for claim in broken[:20])])
        name = "dm/isa/map/executed.txt"
        report = pytest.TestReport(name, (name, None, name), {}, "failed", text, "call")
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        reporter.stats.setdefault("failed", []).append(report)  # so that the last line of the run counts it
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object, error: object) -> None:
    """Take what a process of pytest-xdist has executed; each has collected all tests."""
    output = getattr(node, "workeroutput", {})
    coverage.recorded.update(coverage.Execution(*e) for e in output.get("executed", ()))
    _collected.update({k: v - _collected[k] for k, v in output.get("collected", {}).items()})
