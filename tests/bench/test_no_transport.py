"""Requests that reach the exchange in C without a transport."""

from __future__ import annotations

from pathlib import Path

import pytest

from dm.bench import no_transport
from dm.bench.engines import BenchError
from dm.bench.kernels import KERNELS


def test_every_request_is_carried_out(tmp_path: Path) -> None:
    requests = no_transport._Requests(KERNELS["alu"], tmp_path)
    try:
        counters = requests._exchange.c.counters
        assert (counters.requests, counters.instructions) == (1, 1)  # the whole state
        assert requests.time(50) > 0
        assert (counters.requests, counters.instructions) == (51, 51)
        assert counters.bytes_out > 51 * 20
    finally:
        requests.close()


def test_a_figure_for_each_run() -> None:
    (figure,) = no_transport.single_request(KERNELS["alu"], 3, 20)
    assert (figure.name, figure.unit) == ("single request without transport", "us")
    assert 0 < figure.low <= figure.median <= figure.high


def test_a_request_that_is_left_to_python_is_no_figure(tmp_path: Path) -> None:
    requests = no_transport._Requests(KERNELS["alu"], tmp_path)
    try:
        requests._exchange.c.kept.epoch = 2  # a request of another epoch
        with pytest.raises(BenchError, match=r"left a request to Python \(MESSAGE\)"):
            requests.time(5)
    finally:
        requests.close()


def test_what_cannot_be_compiled_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "no_transport.c"
    wrong.write_text("int broken(void) { return nothing; }")
    monkeypatch.setattr(no_transport, "_SOURCE", wrong)
    with pytest.raises(BenchError, match=r"(?s)cannot be compiled.*nothing"):
        no_transport.single_request(KERNELS["alu"], 1, 1)
