"""The whole daemon as a process, with the scripted engine."""

import os
import signal
import socket
import stat
import subprocess
import threading
import time
from random import Random

import pytest
from harness import (
    FOREVER,
    Daemon,
    Peer,
    Qmp,
    children,
    command,
    environment,
    eventually,
    flat,
    groups,
    session,
    when_it_runs,
)

from dm.protocol import codec, examples, schema
from dm.protocol.schema import DoneReason, Error, ErrorClass, Kind, Map, Region
from dm.shim.client import Shim
from dm.shim.errors import Refused, SessionLost
from dm.shim.ram import Ram

IN60 = b"I\x60\x00\x01"


def workers(daemon):
    return children(daemon.process.pid)


class TestHello:
    def test_welcome(self, peer, daemon):
        welcome = peer.hello(features=["explain", "ram-path", "telepathy"])
        assert isinstance(welcome, schema.Welcome)
        assert (welcome.version, welcome.engine, welcome.max_message) == (1, "fake", 1 << 20)
        assert set(welcome.features) == {"explain", "ram-path"}
        assert welcome.session > 0
        assert welcome.daemon.startswith("x86-dm ")
        mode = os.stat(welcome.ram_socket).st_mode
        assert stat.S_ISSOCK(mode)
        assert mode & 0o777 == 0o600
        assert peer.ask(schema.Bye(seq=2, session=welcome.session)) == schema.Ok(seq=2, session=welcome.session)

    @pytest.mark.parametrize(("low", "high"), [(4, 9), (0, 0), (9, 1)])
    def test_no_common_version(self, peer, low, high):
        error = peer.hello(min_version=low, max_version=high)
        assert (error.error, error.seq) == (ErrorClass.VERSION, 1)
        assert error.expected == "a range that meets 1 to 3"

    def test_a_newer_shim_speaks_our_version(self, peer):
        welcome = peer.hello(min_version=1, max_version=99)
        assert welcome.version == schema.VERSION == 3
        peer.ask(schema.Bye(seq=2, session=welcome.session))

    def test_one_session_for_each_socket(self, peer):
        welcome = peer.hello()
        assert peer.hello().error is ErrorClass.BUSY
        peer.ask(schema.Bye(seq=2, session=welcome.session))
        again = peer.hello()
        assert again.session != welcome.session
        peer.ask(schema.Bye(seq=2, session=again.session))

    def test_unknown_resume(self, peer):
        assert peer.hello(resume=1).error is ErrorClass.UNKNOWN_SESSION


class TestFiles:
    def test_sockets_are_private(self, daemon):
        control = daemon.directory / "control"
        assert control.stat().st_mode & 0o777 == 0o600
        assert (daemon.directory / "control.d").stat().st_mode & 0o777 == 0o700

    def test_vcpu_endpoints_are_private(self, daemon):
        with session(daemon.endpoint) as (_, vcpu):
            assert os.stat(vcpu.endpoint.removeprefix("ipc://")).st_mode & 0o777 == 0o600


class TestMistakes:
    """Rubbish on the control socket is answered, and the daemon goes on serving."""

    @pytest.mark.parametrize(
        ("parts", "error", "text"),
        [
            ([b""], ErrorClass.BAD_MESSAGE, "not MessagePack"),
            ([b"\xff" * 1000], ErrorClass.BAD_MESSAGE, ""),
            ([b"\x81\xa4type\xa3you"], ErrorClass.UNKNOWN_MESSAGE, "there is no message 'you'"),
            ([b"", codec.encode(schema.Ping(seq=1, session=1))], ErrorClass.BAD_MESSAGE, "the message has 2 parts"),
            ([bytes(schema.MAX_CONTROL + 1)], ErrorClass.TOO_LARGE, "the message has 65537 bytes"),
            ([schema.Ping(seq=1, session=1)], ErrorClass.UNKNOWN_SESSION, "there is no session 1"),
            ([schema.Ok(seq=1, session=1)], ErrorClass.BAD_MESSAGE, "ok came to the control endpoint"),
            (
                [schema.Kick(seq=1, session=1, vcpu=0, epoch=1)],
                ErrorClass.BAD_MESSAGE,
                "kick came to the control endpoint",
            ),
        ],
    )
    def test_refused(self, peer, parts, error, text):
        answer = peer.ask(*parts)
        assert answer.error is error
        assert text in answer.text
        assert isinstance(peer.hello(min_version=5, max_version=5), Error)

    def test_another_socket_cannot_use_a_session(self, peer, daemon):
        number = peer.hello().session
        with Peer(daemon.endpoint) as thief:
            for message in (
                schema.Ping(seq=1, session=number),
                schema.Query(seq=1, session=number),
                schema.Bye(seq=1, session=number),
            ):
                assert thief.ask(message).error is ErrorClass.STALE_EPOCH
        assert isinstance(peer.ask(schema.Ping(seq=5, session=number)), schema.Ok)
        peer.ask(schema.Bye(seq=6, session=number))

    def test_a_monstrous_frame_cuts_its_sender_off_only(self, daemon, peer):
        with Peer(daemon.endpoint) as monster:
            monster.send(bytes(32 * schema.MAX_CONTROL))
            assert monster.silent(0.2)
        assert isinstance(peer.hello(min_version=5, max_version=5), Error)

    def test_requests_that_name_nothing(self, daemon):
        with Shim.connect(daemon.endpoint) as shim:
            for message, error in (
                (schema.VcpuDestroy(seq=0, session=0, vcpu=7), ErrorClass.UNKNOWN_VCPU),
                (schema.RamRemove(seq=0, session=0, ram=7), ErrorClass.BAD_MEMORY),
                (schema.VcpuCreate(seq=0, session=0, vcpu=256), ErrorClass.LIMIT),
                (schema.VcpuCreate(seq=0, session=0, vcpu=0, model="z80"), ErrorClass.BAD_MESSAGE),
                (schema.VcpuCreate(seq=0, session=0, vcpu=0, model="80286"), ErrorClass.BAD_MESSAGE),
                (schema.MemoryMap(seq=0, session=0, map=Map(0, [], True)), ErrorClass.BAD_GENERATION),
                (
                    schema.MemoryMap(seq=0, session=0, map=Map(1, [Region(0, 4096, Kind.RAM, 9)], True)),
                    ErrorClass.BAD_MEMORY,
                ),
                (schema.Ram(seq=0, session=0, ram=1, size=4096), ErrorClass.BAD_MEMORY),
            ):
                with pytest.raises(Refused) as caught:
                    shim.request(message)
                assert caught.value.error.error is error, message
            assert shim.counters().vcpus == []
            shim.create_vcpu(0)
            with pytest.raises(Refused, match="vCPU 0 exists"):
                shim.create_vcpu(0)


class TestRam:
    def test_guest_and_shim_share_it(self, daemon):
        with session(daemon.endpoint, b"S\x00\x20\x00\x00\x5ah") as (shim, vcpu):
            pages = []
            assert vcpu.run(flat(), on_pages=pages.extend).reason is DoneReason.HALT
            assert shim.ram.view[0x2000] == 0x5A
            assert pages == [2]

    def test_files_below_the_memory_path(self, daemon):
        path = daemon.memory / "vm"
        path.write_bytes(b"A\x34\x12h".ljust(8192, b"\0"))
        with Shim.connect(daemon.endpoint) as shim:
            block = shim.add_ram_file(str(path), 8192)
            shim.set_map([Region(0, 8192, Kind.RAM, block)])
            state = flat()
            shim.create_vcpu(0).run(state)
            assert state.rax == 0x1234
            for bad in ("/etc/passwd", str(daemon.memory / ".." / "log"), str(daemon.memory), "vm"):
                with pytest.raises(Refused, match="path"):
                    shim.add_ram_file(bad, 4096)
            with pytest.raises(Refused, match="in use by the memory map"):
                shim.remove_ram(block)
            shim.set_map([])
            shim.remove_ram(block)

    def side(self, shim, data, fds):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one:
            one.settimeout(100)
            one.connect(shim.welcome.ram_socket)
            socket.send_fds(one, [data], fds)
            return codec.decode(one.recv(65536))

    def test_mistakes_on_the_ram_socket(self, daemon, tmp_path):
        loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
        os.ftruncate(loose, 4096)
        with Shim.connect(daemon.endpoint) as shim, Ram(4096) as ram:
            good = codec.encode(schema.Ram(seq=1, session=shim.session, ram=1, size=4096, secret=shim.secret))
            wrong = {
                "no descriptor": (good, []),
                "two": (good, [ram.fd, ram.fd]),
                "not sealed": (good, [loose]),
                "not a memfd": (good, [0]),
                "rubbish": (b"rubbish", [ram.fd]),
                "another message": (codec.encode(schema.Ping(seq=1, session=shim.session)), [ram.fd]),
                "too large": (bytes(70000), [ram.fd]),
                "no session": (codec.encode(schema.Ram(seq=1, session=1, ram=1, size=4096)), [ram.fd]),
                "size": (
                    codec.encode(schema.Ram(seq=1, session=shim.session, ram=1, size=8192, secret=shim.secret)),
                    [ram.fd],
                ),
            }
            for what, (data, fds) in wrong.items():
                answer = self.side(shim, data, fds)
                assert isinstance(answer, Error), what
                assert answer.expected, what
            assert isinstance(self.side(shim, good, [ram.fd]), schema.Ok)
        os.close(loose)

    def test_no_refused_descriptor_stays_behind(self, daemon):
        def count():
            return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))

        null = os.open(os.devnull, os.O_RDONLY)
        with Shim.connect(daemon.endpoint) as shim:
            good = codec.encode(schema.Ram(seq=1, session=shim.session, ram=1, size=4096, secret=shim.secret))
            before = count()
            for data in (good, b"rubbish", codec.encode(schema.Ping(seq=1, session=shim.session)), bytes(70000)):
                for many in (1, 2, 4, 5, 250):
                    assert isinstance(self.side(shim, data, [null] * many), Error)
            eventually(lambda: count() <= before)
        os.close(null)

    def test_no_descriptor_stays_behind(self, daemon):
        def count():
            return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))

        eventually(lambda: not workers(daemon))
        before = count()
        for _ in range(3):
            with session(daemon.endpoint, b"h") as (_, vcpu):
                vcpu.run(flat())
        eventually(lambda: count() <= before)


class TestMaps:
    def test_all_vcpus_take_up_a_new_map(self, daemon):
        with session(daemon.endpoint, FOREVER) as (shim, first):
            second = shim.create_vcpu(1)
            shim.ram.view[0x100:0x104] = IN60
            shim.ram.view[0x104] = ord("h")
            ends = []
            thread = threading.Thread(target=lambda: ends.append(first.run(flat())))
            thread.start()
            eventually(lambda: any(v.requests for v in shim.counters().vcpus))
            # The second vCPU's device access takes all RAM away: the first one then fetches "h" from nowhere.
            second.run(flat(program_at=0x100), on_io=lambda io: answer_with_map(shim, []))
            thread.join(60)
            assert ends[0].reason is DoneReason.HALT
            assert shim.counters().generation == shim.generation == 2

    def test_an_old_generation_is_refused(self, daemon):
        with session(daemon.endpoint, b"h") as (shim, vcpu):
            with pytest.raises(Refused) as caught:
                shim.request(schema.MemoryMap(seq=0, session=0, map=Map(1, [], True)))
            assert caught.value.error.expected == "above 1"
            shim.generation = 9
            with pytest.raises(Refused, match="at most 1"):
                vcpu.run(flat())


def answer_with_map(shim, regions):
    from dm.shim.answer import Answer

    return Answer(b"a", map=shim.next_map(regions))


class TestSessions:
    def test_both_sides_count_the_same(self, daemon):
        with session(daemon.endpoint, b"A\x34\x12" + IN60 + b"h") as (shim, vcpu):
            for _ in range(5):
                vcpu.run(flat(), on_io=lambda io: b"a")
            ours, theirs = vcpu.stats, shim.counters().vcpus[0]
            assert (ours.requests, ours.io, ours.instructions, ours.steps) == (5, 5, 15, 15)
            assert (theirs.requests, theirs.io, theirs.instructions, theirs.steps) == (5, 5, 15, 15)
            assert (ours.bytes_sent, ours.bytes_received) == (theirs.bytes_in, theirs.bytes_out)
            assert theirs.errors == 0

    def test_sessions_are_processes_apart(self, daemon):
        with session(daemon.endpoint, FOREVER) as (_, busy), session(daemon.endpoint, b"h") as (_, other):
            assert len(workers(daemon)) == 2
            thread = threading.Thread(target=lambda: busy.run(flat()))
            thread.start()
            for _ in range(10):
                assert other.run(flat()).reason is DoneReason.HALT
            busy.kick()
            thread.join(60)
            assert not thread.is_alive()

    def test_a_destroyed_vcpu_can_be_made_again(self, daemon):
        with session(daemon.endpoint, b"h") as (shim, vcpu):
            vcpu.run(flat())
            shim.destroy_vcpu(0)
            with pytest.raises(SessionLost, match="closed"):
                vcpu.run(flat())
            assert shim.create_vcpu(0).run(flat()).reason is DoneReason.HALT

    def test_a_worker_that_dies_takes_only_its_session(self, daemon):
        with session(daemon.endpoint, b"h") as (_, other):
            spared = set(workers(daemon))
            with session(daemon.endpoint, FOREVER) as (shim, vcpu):
                (victim,) = set(workers(daemon)) - spared
                when_it_runs(shim, lambda: os.kill(victim, signal.SIGKILL))
                with pytest.raises(SessionLost, match=r"lost in the middle.*worker process ended"):
                    vcpu.run(flat())
            assert other.run(flat()).reason is DoneReason.HALT

    def test_resume_moves_a_session_to_a_new_socket(self, peer, daemon):
        welcome = peer.hello(max_version=3, epoch=1)
        number, mine = welcome.session, {"max_version": 3, "resume": welcome.session, "secret": welcome.secret}
        with Peer(daemon.endpoint) as new:
            assert new.hello(**mine, epoch=1).error is ErrorClass.STALE_EPOCH
            assert new.hello(**mine, epoch=2).session == number
            assert peer.ask(schema.Ping(seq=3, session=number)).error is ErrorClass.STALE_EPOCH
            assert isinstance(new.ask(schema.Bye(seq=3, session=number)), schema.Ok)


class TestLife:
    def test_a_silent_shim_loses_its_session(self, tmp_path):
        with Daemon(tmp_path, "--session-timeout", "5") as daemon, Peer(daemon.endpoint) as peer:
            number = peer.hello().session
            for seq in range(6):
                time.sleep(1)
                assert isinstance(peer.ask(schema.Ping(seq=seq, session=number)), schema.Ok)
            assert len(workers(daemon)) == 1
            eventually(lambda: not workers(daemon))
            assert peer.ask(schema.Ping(seq=9, session=number)).error is ErrorClass.UNKNOWN_SESSION

    def test_a_vanished_shim_frees_a_running_vcpu(self, tmp_path):
        with Daemon(tmp_path, "--session-timeout", "10") as daemon:
            shim = Shim.connect(daemon.endpoint)
            with Ram(4096) as ram, Peer(shim.create_vcpu(0).endpoint) as bare:
                ram.view[:3] = FOREVER
                shim.set_map([Region(0, 4096, Kind.RAM, shim.add_ram(ram))])
                bare.send(
                    schema.Emulate(
                        session=shim.session,
                        vcpu=0,
                        epoch=1,
                        seq=1,
                        generation=1,
                        state=groups(flat()),
                        secret=shim.secret,
                    )
                )
                shim.close(bye=False)
                assert bare.receive().error is ErrorClass.ABORTED
            eventually(lambda: not workers(daemon))

    @pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_gives_every_state_back(self, tmp_path, sig):
        with Daemon(tmp_path) as daemon, session(daemon.endpoint, FOREVER) as (shim, vcpu):
            second = shim.create_vcpu(1)
            ends = []
            state = flat()
            threads = [
                threading.Thread(target=lambda: ends.append(vcpu.run(state))),
                threading.Thread(target=lambda: ends.append(second.run(flat()))),
            ]
            for thread in threads:
                thread.start()
            eventually(lambda: sum(v.requests for v in shim.counters().vcpus) == 2)
            assert daemon.stop(sig) == 0
            for thread in threads:
                thread.join(60)
            assert [(done.reason, done.closing) for done in ends] == [(DoneReason.KICKED, True)] * 2
            assert all(done.steps > 0 for done in ends)
            assert state.rip in (0, 1)
            eventually(lambda: shim.closing)
            with pytest.raises(SessionLost, match="shutting down"):
                vcpu.run(state)
        assert {entry.name for entry in tmp_path.iterdir()} == {"log"}

    def test_an_idle_daemon_ends_for_all_its_sessions(self, tmp_path):
        with Daemon(tmp_path) as daemon, Shim.connect(daemon.endpoint):
            assert daemon.stop() == 0

    def test_killed_supervisor_workers_give_back_and_end(self, tmp_path):
        with Daemon(tmp_path) as daemon, session(daemon.endpoint, FOREVER) as (shim, vcpu):
            (worker,) = workers(daemon)
            when_it_runs(shim, daemon.process.kill)
            done = vcpu.run(flat())
            assert (done.reason, done.closing) == (DoneReason.KICKED, True)
            eventually(lambda: not os.path.exists(f"/proc/{worker}") or "zombie" in status(worker))

    def test_a_new_daemon_takes_over_what_a_killed_one_left(self, tmp_path):
        with Daemon(tmp_path) as first:
            Shim.connect(first.endpoint).close()
            first.process.kill()
        assert (tmp_path / "control.d" / "ram").exists()
        with Daemon(tmp_path) as second, session(second.endpoint, b"h") as (_, vcpu):
            assert vcpu.run(flat()).reason is DoneReason.HALT

    def test_two_daemons_do_not_share_an_endpoint(self, daemon):
        second = subprocess.run(
            command("--listen", daemon.endpoint, "--engine", "fake_engine:create"),
            env=environment(),
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert second.returncode == 1
        assert second.stderr.strip() == f"x86-dm serve: another daemon serves {daemon.endpoint}"
        with session(daemon.endpoint, b"h") as (_, vcpu):
            assert vcpu.run(flat()).reason is DoneReason.HALT

    def test_an_engine_that_cannot_be_made_is_said_at_once(self, tmp_path):
        out = subprocess.run(
            command("--listen", f"ipc://{tmp_path}/c", "--engine", "no_such_module:create"),
            env=environment(),
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert out.returncode == 1
        assert "no_such_module" in out.stderr
        assert list(tmp_path.iterdir()) == []


def status(pid):
    try:
        with open(f"/proc/{pid}/status") as file:
            return file.read()
    except FileNotFoundError:
        return "zombie"


class TestMonitor:
    def test_sessions_and_their_events(self, daemon):
        with Qmp(daemon.directory / "qmp") as qmp:
            with session(daemon.endpoint, IN60 + b"h", name="vm1") as (shim, vcpu):
                number = str(shim.session)
                assert qmp.event("X86_DM_SESSION_OPENED")["data"] == {"session": number, "name": "vm1"}
                vcpu.run(flat(), on_io=lambda io: b"a")

                def mine():
                    (one,) = [s for s in qmp.ask("query-x86-dm")["sessions"] if s["id"] == number]
                    return one

                done = {"index": 0, "state": "idle", "requests": 1, "instructions": 2, "io-exits": 1}
                eventually(lambda: mine()["vcpus"] == [done])
                one = mine()
                assert (one["name"], one["engine"]) == ("vm1", "fake")
                assert one["pid"] in workers(daemon)
            closed = qmp.event("X86_DM_SESSION_CLOSED")
            assert closed["data"] == {"session": number, "reason": "its shim said bye"}

    def test_stop_and_cont(self, daemon):
        with Qmp(daemon.directory / "qmp") as qmp, session(daemon.endpoint, FOREVER) as (shim, vcpu):
            done = []
            thread = threading.Thread(target=lambda: done.append(vcpu.run(flat())))
            thread.start()
            eventually(lambda: any(v.requests for v in shim.counters().vcpus))
            qmp.ask("stop")
            assert qmp.ask("query-status")["status"] == "paused"
            qmp.event("STOP")
            with session(daemon.endpoint, b"h") as (_, late):  # a new session is held as well
                held = threading.Thread(target=lambda: done.append(late.run(flat())))
                held.start()
                held.join(0.2)
                assert held.is_alive()
                qmp.ask("cont")
                held.join(60)
                assert [d.reason for d in done] == [DoneReason.HALT]
            qmp.event("RESUME")
            vcpu.kick()
            thread.join(60)
            assert done[1].reason is DoneReason.KICKED

    def test_quit(self, tmp_path):
        with Daemon(tmp_path, "--qmp", f"unix:{tmp_path}/qmp") as daemon:
            with session(daemon.endpoint, FOREVER) as (shim, vcpu), Qmp(tmp_path / "qmp") as qmp:
                when_it_runs(shim, lambda: qmp.ask("quit"))
                assert vcpu.run(flat()).closing
                assert qmp.event("SHUTDOWN")["data"] == {"guest": False, "reason": "host-qmp-quit"}
            assert daemon.process.wait(60) == 0

    def test_a_vcpu_lost_in_its_first_moments_is_an_event_too(self, daemon):
        """Whatever the worker has reported by then: runs are noted where they outlive it."""
        with Qmp(daemon.directory / "qmp") as qmp, session(daemon.endpoint, IN60) as (shim, vcpu):
            shim.create_vcpu(1)  # idle: not lost
            (pid,) = [s["pid"] for s in qmp.ask("query-x86-dm")["sessions"] if s["id"] == str(shim.session)]
            with pytest.raises(SessionLost):
                vcpu.run(flat(), on_io=lambda io: os.kill(pid, signal.SIGKILL))
            data = qmp.event("X86_DM_VCPU_LOST")["data"]
            assert (data["session"], data["vcpu"]) == (str(shim.session), 0)
            qmp.event("X86_DM_SESSION_CLOSED")
            assert not [event for event in qmp.events if event["event"] == "X86_DM_VCPU_LOST"]

    def test_lost_memory_is_an_event(self, daemon):
        path = daemon.memory / "vm"
        path.write_bytes(FOREVER.ljust(8192, b"\0"))
        with Qmp(daemon.directory / "qmp") as qmp, Shim.connect(daemon.endpoint) as shim:
            shim.set_map([Region(0, 8192, Kind.RAM, shim.add_ram_file(str(path), 8192))])
            vcpu = shim.create_vcpu(0)
            when_it_runs(shim, lambda: os.truncate(path, 0))
            assert vcpu.run(flat()).reason is DoneReason.MEMORY_LOST
            data = qmp.event("X86_DM_VCPU_LOST")["data"]
            assert data["reason"].startswith("memory-lost: RAM block 1 is gone")

    def test_a_lost_vcpu_is_an_event(self, daemon):
        with Qmp(daemon.directory / "qmp") as qmp, session(daemon.endpoint, FOREVER) as (shim, vcpu):
            number = str(shim.session)

            def kill():
                (pid,) = [s["pid"] for s in qmp.ask("query-x86-dm")["sessions"] if s["id"] == number]

                def running():
                    (one,) = [s for s in qmp.ask("query-x86-dm")["sessions"] if s["id"] == number]
                    return any(v["state"] == "running" for v in one["vcpus"])

                eventually(running)
                os.kill(pid, signal.SIGKILL)

            thread = threading.Thread(target=kill)
            thread.start()
            with pytest.raises(SessionLost):
                vcpu.run(flat())
            thread.join(60)
            data = qmp.event("X86_DM_VCPU_LOST")["data"]
            assert (data["session"], data["vcpu"]) == (number, 0)


class TestRubbish:
    """Golden messages, damaged at random, on both endpoints: all is answered or ignored, nothing breaks or grows."""

    COUNT = 1500

    def flood(self, peer, extra):
        random = Random(20240607)
        sources = [codec.encode(message) for _, message in examples.GOOD] + extra
        for _ in range(self.COUNT):
            data = bytearray(random.choice(sources))
            for _ in range(random.randrange(1, 4)):
                data[random.randrange(len(data))] = random.randrange(256)
            peer.send(bytes(data[: random.randrange(1, len(data) + 1)] if random.random() < 0.3 else data))
            while not peer.silent(0):
                peer.receive()
        while not peer.silent(0.3):
            peer.receive()

    def test_control(self, daemon):
        with session(daemon.endpoint, b"h") as (shim, vcpu), Peer(daemon.endpoint) as peer:
            mine = [schema.Query(seq=1, session=shim.session), schema.Ping(seq=1, session=shim.session)]
            before = resident(daemon.process.pid)
            self.flood(peer, [codec.encode(message) for message in mine] * 5)
            assert resident(daemon.process.pid) - before < 16 << 20
            assert vcpu.run(flat()).reason is DoneReason.HALT

    def test_vcpu(self, daemon):
        with session(daemon.endpoint, FOREVER) as (shim, vcpu):
            thread = threading.Thread(target=lambda: vcpu.run(flat()))
            thread.start()
            eventually(lambda: shim.counters().vcpus[0].requests)
            with Peer(vcpu.endpoint) as peer:
                kick = schema.Kick(session=shim.session, vcpu=0, epoch=1, seq=1)
                self.flood(peer, [codec.encode(kick)] * 10)
            assert thread.is_alive()  # none of it passed for the owner's kick
            vcpu.kick()
            thread.join(60)
            assert not thread.is_alive()
            assert shim.counters().vcpus[0].errors > 0


def resident(pid):
    """Bytes of memory a process holds."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
