"""A worker that somebody else has taken over harms nobody but its own session."""

import os

import pytest
import rogue
from harness import Daemon, Qmp, children, eventually, flat, session

from dm.protocol import schema
from dm.protocol.schema import DoneReason
from dm.shim.client import Shim
from dm.shim.errors import ShimError

HARMLESS = {"descriptors", "cut the run table"}
OWN_END = {"close the line", "leave a child"}


@pytest.fixture(scope="module")
def rogues(tmp_path_factory):
    place = tmp_path_factory.mktemp("r")
    with Daemon(place, "--qmp", f"unix:{place}/qmp", "--session-timeout", "60", engine="rogue:create") as daemon:
        with session(daemon.endpoint, b"h", name="bystander") as (_, vcpu):
            yield daemon, vcpu
        assert daemon.stop() == 0, daemon.log.read_text()
        assert "Traceback" not in daemon.log.read_text()


def descriptors(daemon):
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


@pytest.mark.parametrize("attack", rogue.ATTACKS)
def test_only_its_own_session_is_lost(rogues, attack):
    daemon, vcpu = rogues
    row = schema.Cpuid(list(rogue.ATTACKS).index(attack), 0, 0, 0, 0, 0)
    before = descriptors(daemon)
    with Qmp(daemon.directory / "qmp") as qmp:
        with Shim.connect(daemon.endpoint, "victim") as shim:
            number = str(shim.session)
            if attack in HARMLESS:
                shim.create_vcpu(0, [row])
                assert isinstance(shim.request(schema.Ping(seq=0, session=0)), schema.Ok)
            else:
                with pytest.raises(ShimError):
                    shim.create_vcpu(0, [row])
                eventually(lambda: shim.lost)
        reason = qmp.event("X86_DM_SESSION_CLOSED")["data"]["reason"]
        if attack not in HARMLESS | OWN_END:
            assert reason.startswith("its worker sent what no worker sends: ")
            assert f"session {number} (victim): lost: {reason}" in daemon.log.read_text()
        elif attack == "leave a child":
            assert "SIGSEGV" in reason
        # The others are there as before, for everybody.
        (one,) = qmp.ask("query-x86-dm")["sessions"]
        assert one["name"] == "bystander"
    assert vcpu.run(flat()).reason is DoneReason.HALT
    assert len(children(daemon.process.pid)) == 1
    eventually(lambda: descriptors(daemon) <= before)
