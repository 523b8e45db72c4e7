"""Fixtures: a machine for each engine, and both side by side."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from guest import Machine, make_engine


@pytest.fixture(params=["native", "python"])
def engine_name(request):
    return request.param


@pytest.fixture
def vm(engine_name):
    """A machine for each engine."""
    engine = make_engine(engine_name)
    yield Machine(engine)
    engine.close()


@pytest.fixture
def both():
    """The two engines, each in a machine of its own."""
    machines = [Machine(make_engine(name)) for name in ("native", "python")]
    yield machines
    for machine in machines:
        machine.engine.close()
