"""Measurements through a daemon give all their figures, and plausible ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dm.bench import c_client, programs, transport
from dm.bench.engines import BenchError, Figure


def by_name(figures: list[Figure]) -> dict[str, Figure]:
    assert all(0 < f.low <= f.median <= f.high for f in figures)
    assert len({f.name for f in figures}) == len(figures)
    return {f.name: f for f in figures}


def test_round_trips_stand_beside_their_echo() -> None:
    found = by_name(transport.round_trips("native", 2, 50))
    for name in ("request", "I/O exit"):
        assert found[name].unit == "us"
        for echo in ("bare echo", "echo awake"):
            assert found[f"{name} / {echo}"].unit == "x"
            low = found[name].low / found[f"{name}: {echo}"].high
            high = found[name].high / found[f"{name}: {echo}"].low
            assert low <= found[f"{name} / {echo}"].median <= high


def test_the_c_client_stands_beside_an_echo_in_c() -> None:
    try:
        found = by_name(c_client.round_trips("native", 2, 200))
    except programs.Skipped as reason:
        pytest.skip(str(reason))
    for name in ("request by the C client", "I/O exit by the C client"):
        low = found[name].low / found[f"{name}: echo in C"].high
        high = found[name].high / found[f"{name}: echo in C"].low
        assert low <= found[f"{name} / echo in C"].median <= high


def test_a_c_client_that_cannot_be_compiled_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not there")
    wrong = tmp_path / "c_client.c"
    wrong.write_text("int main(void) { return nothing; }")
    monkeypatch.setattr(c_client, "_SOURCE", wrong)
    with pytest.raises(BenchError, match=r"(?s)cannot be compiled.*nothing"):
        c_client.build(tmp_path)
    wrong.write_text('#include "no-such-header.h"')
    with pytest.raises(programs.Skipped, match="libzmq3-dev"):
        c_client.build(tmp_path)


def test_beside_a_busy_vm() -> None:
    found = by_name(transport.beside_busy("native", 1, 20))
    assert {"request, another VM busy", "I/O exit, another VM busy / idle"} <= set(found)
    ratio = found["request / bare echo, another VM busy"].median
    expected = found["request, another VM busy"].median / found["bare echo, another VM busy"].median
    assert abs(ratio / expected - 1) < 1e-9


def test_scaling() -> None:
    found = by_name(transport.scaling("native", 1, 0.05))
    two = found["two vCPUs of one VM"].median
    assert abs(found["two vCPUs of one VM / one"].median - two / found["one vCPU"].median) < 1e-9
    assert found["two VMs / one"].unit == "x"


def test_start_up_and_memory() -> None:
    found = by_name(programs.start_up("native", 1))
    assert found["start to first answer"].median > found["start to listening"].median
    one, none = found["idle memory, daemon and one VM: resident"], found["idle memory, daemon: resident"]
    assert one.median > none.median > 5
    assert found["idle memory, daemon: proportional"].median <= none.median


def test_an_idle_guest_costs_something() -> None:
    (figure,) = programs.idle_guest("native", 1, 0.5)
    assert figure.unit == "%"
    assert 0 < figure.median < 200


@pytest.mark.long
def test_build_starts_from_nothing() -> None:
    assert by_name(programs.build_time(1))["building the native engine"].median > 1


@pytest.mark.long
def test_time_to_grub() -> None:
    try:
        found = by_name(programs.time_to_grub("native", 1))
    except programs.Skipped as reason:
        pytest.skip(str(reason))
    assert found["grub>, whole command"].median > found["grub>, from power-on"].median
    assert found["grub>, from power-on"].median >= found["grub>, requests to the daemon"].median
