"""The C client: made from the schema, of one mind with the Python codec, safe from any bytes; drives a daemon."""

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from harness import free_port, stop

import dm
from dm import keys
from dm.engine import native_status
from dm.machine.state import GROUPS, group_layout
from dm.protocol import codec, generate, generate_c, schema

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).resolve().parent / "c"
GOLDEN = json.loads(generate.GOLDEN.read_text(encoding="utf-8"))
GOOD = [bytes.fromhex(one["hex"]) for one in GOLDEN["good"]]

#: The warnings QEMU builds with, and the conversions it does not ask for.
WARNINGS = [
    *("-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wshadow", "-Wundef", "-Wformat=2", "-Wtype-limits", "-Wvla"),
    *("-Wempty-body", "-Wendif-labels", "-Wimplicit-fallthrough=2", "-Winit-self", "-Wmissing-prototypes"),
    *("-Wnested-externs", "-Wold-style-declaration", "-Wold-style-definition", "-Wredundant-decls"),
    *("-Wstrict-prototypes", "-Wwrite-strings", "-Wpointer-arith", "-Wmissing-format-attribute"),
]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
ENVIRONMENT = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
STATUS = ["fine", "refused", "session-lost", "run-lost", "unusable", "no-resources"]


def compile_c(directory, source, *options):
    """Return the program made of ``source`` and of what else lies beside it in ``directory``."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not there")
    program = directory / source.stem
    sources = {source, *directory.glob("*.c")}
    command = ["gcc", "-std=gnu11", "-O1", "-g", "-D_GNU_SOURCE", f"-I{generate_c.HERE}", *options]
    built = subprocess.run([*command, "-o", program, *sources, "-lzmq", "-pthread"], capture_output=True, text=True)
    if "fatal error: zmq.h" in built.stderr:
        pytest.skip("libzmq3-dev is needed")
    assert built.returncode == 0, built.stderr
    return program


@pytest.fixture(scope="session")
def codec_program(tmp_path_factory):
    return compile_c(tmp_path_factory.mktemp("c"), SOURCES / "codec.c", *WARNINGS, *SANITIZE)


@pytest.fixture(scope="session")
def shim_program(tmp_path_factory):
    return compile_c(tmp_path_factory.mktemp("c"), SOURCES / "shim.c", *SANITIZE)


def through_c(program, messages):
    """Return (status, error class, field, packed again) for each message."""
    text = b"".join(struct.pack("<I", len(one)) + one for one in messages)
    done = subprocess.run([program], input=text, capture_output=True, env=ENVIRONMENT, timeout=250)
    assert done.returncode == 0, done.stderr.decode()
    out, at, classes = [], 0, list(schema.ErrorClass)
    for _ in messages:
        status, error, field, size = struct.unpack_from("<II129sI", done.stdout, at)
        at += 141
        out.append((STATUS[status], classes[error], field.split(b"\0")[0].decode(), done.stdout[at : at + size]))
        at += size
    assert at == len(done.stdout)
    return out


# ------------------------------------------------------------------------------------------------ what is generated


def test_the_header_is_up_to_date():
    assert generate_c.HEADER.read_text(encoding="utf-8") == generate_c.header()
    assert generate_c.main(["--check"]) == 0


def test_check_says_that_it_is_out_of_date(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(generate_c, "HEADER", tmp_path / "x86_dm.h")
    assert generate_c.main(["--check"]) == 1
    assert "x86_dm.h: out of date" in capsys.readouterr().out
    assert not generate_c.HEADER.exists()
    assert generate_c.main([]) == 0
    assert generate_c.main(["--check"]) == 0


def test_a_template_without_its_marks_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "bare.h").write_text("@VERSION@ @TABLES@\n")
    monkeypatch.setattr(generate_c, "TEMPLATE", tmp_path / "bare.h")
    with pytest.raises(ValueError, match="one line @DECLARATIONS@"):
        generate_c.header()


@pytest.mark.parametrize("level", ["-O0", "-O2", "-O3"])
def test_it_compiles_without_warnings(tmp_path, level):
    source = tmp_path / "user.c"
    source.write_text('#define X86_DM_IMPLEMENTATION\n#include "x86_dm.h"\nint main(void) { return 0; }\n')
    other = tmp_path / "other.c"  # another file that uses it
    other.write_text(
        '#include "x86_dm.h"\nvoid stop(struct x86_dm *dm);\nvoid stop(struct x86_dm *dm)\n'
        "{\n    x86_dm_close(dm, true);\n}\n"
    )
    program = compile_c(tmp_path, source, *WARNINGS, level)
    assert subprocess.run([program]).returncode == 0


# ------------------------------------------------------------------------------------------------ golden messages


def literal(text):
    return '"' + "".join(f"\\{byte:03o}" for byte in text) + '"'


def checks(kind, at, value):
    """Yield C conditions that hold when the member ``at`` means ``value`` (as golden/messages.json writes it)."""
    match kind:
        case schema.U():
            yield f"{at} == UINT64_C({value})"
        case schema.Flag():
            yield f"{at} == {str(value).lower()}"
        case schema.Text():
            yield f"strcmp({at}, {literal(value.encode())}) == 0"
        case schema.Blob():
            data = bytes.fromhex(value["hex"])
            yield f"{at}.size == {len(data)}"
            if data:
                yield f"memcmp({at}.data, {literal(data)}, {len(data)}) == 0"
        case schema.Choice(enum):
            name = {"IoKind": "IO_KIND", "DoneReason": "DONE_REASON"}.get(
                enum.__name__, {"ErrorClass": "ERROR_CLASS"}.get(enum.__name__, enum.__name__.upper())
            )
            yield f"{at} == X86_DM_{name}_{value.replace('-', '_').upper()}"
        case schema.Record(cls):
            yield from members(cls, at, value)
        case schema.StateGroups():
            present = " | ".join(f"X86_DM_GROUP_{group.upper()}" for group in value) or "0"
            yield f"{at}.present == ({present})"
            for group, values in value.items():
                for (label, _), one in zip(group_layout(group), values, strict=True):
                    member = f"{at}.state.{label}"
                    if isinstance(one, dict):
                        yield f"memcmp({member}, {literal(bytes.fromhex(one['hex']))}, sizeof({member})) == 0"
                    else:
                        yield f"{member} == UINT64_C({one})"


def members(cls, at, values):
    for row in schema.rows(cls):
        value, name = values[row.name], f"{at}.{row.name}"
        if isinstance(row.kind, schema.ListOf):
            yield f"{at}.n_{row.name} == {len(value)}"
            for index, one in enumerate(value):
                yield from checks(row.kind.of, f"{name}[{index}]", one)
        elif value is None:
            yield f"!{at}.has_{row.name}"
        else:
            if row.optional and row.default is None:
                yield f"{at}.has_{row.name}"
            yield from checks(row.kind, name, value)


def test_golden_messages_mean_the_same_in_c(tmp_path):
    """By the names of the structures' members, which the compiler resolves; not by the codec's own tables."""
    out = ["#define X86_DM_IMPLEMENTATION", '#include "x86_dm.h"', "int main(void)", "{", "int wrong = 0;"]
    count = 0
    for one in GOLDEN["good"]:
        data = bytes.fromhex(one["hex"])
        name = one["type"].replace("-", "_")
        out += ["{", "struct x86_dm_message m; struct x86_dm_failure why;"]
        out += [f"if (x86_dm_unpack(&m, {literal(data)}, {len(data)}, X86_DM_MAX_MESSAGE, &why)) return 2;"]
        conditions = [
            f"m.type == X86_DM_{name.upper()}",
            *members(schema.BY_NAME[one["type"]], f"m.{name}", one["fields"]),
        ]
        count += len(conditions)
        for condition in conditions:
            text = literal(f"{one['what']}: {condition}".encode()[:200])
            out += [f"if (!({condition})) {{ wrong++; puts({text}); }}"]
        out += ["x86_dm_message_free(&m);", "}"]
    out += ["return wrong != 0;", "}"]
    source = tmp_path / "golden.c"
    source.write_text("\n".join(out))
    program = compile_c(tmp_path, source, "-O0", *SANITIZE)
    done = subprocess.run([program], capture_output=True, text=True, env=ENVIRONMENT)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert count > 300


def test_golden_messages_pack_to_the_same_bytes(codec_program):
    for one, (status, _, _, again) in zip(GOLDEN["good"], through_c(codec_program, GOOD), strict=True):
        assert status == "fine", one["what"]
        assert again.hex() == one["hex"], one["what"]


def test_golden_mistakes(codec_program):
    bad = [bytes.fromhex(one["hex"]) for one in GOLDEN["bad"]]
    for one, (status, error, field, _) in zip(GOLDEN["bad"], through_c(codec_program, bad), strict=True):
        assert (status, error, field) == ("unusable", one["error"], one["field"]), one["what"]


# ------------------------------------------------------------------------------------------------ any bytes


def python_says(data):
    """Return the message packed again by the Python codec, None when it refuses."""
    try:
        message = codec.decode(data)
        return message, codec.encode(message)
    except codec.ProtocolError:
        return None


def mutants(random_, count):
    """Yield golden messages with bytes flipped, cut, doubled, or with hostile headers."""
    headers = [
        bytes.fromhex(h)
        for h in ("dd7fffffff", "df7fffffff", "dbffffffff", "c6ffffffff", "c9ffffffff", "cf" + "ff" * 8)
    ]
    for _ in range(count):
        data = bytearray(random_.choice(GOOD))
        for _ in range(random_.choice((1, 1, 1, 2, 5))):
            at = random_.randrange(len(data)) if data else 0
            match random_.randrange(6):
                case 0:
                    data[at : at + 1] = bytes([random_.randrange(256)])
                case 1:
                    data[at : at + 1] = bytes([(data[at] if data else 0) ^ 1 << random_.randrange(8)])
                case 2:
                    del data[at:]
                case 3:
                    data[at : at + 1] = random_.choice(headers)
                case 4:
                    other = random_.choice(GOOD)
                    data[at:at] = other[random_.randrange(len(other)) :][: random_.randrange(1, 20)]
                case 5:
                    del data[at : at + random_.randrange(1, 9)]
        yield bytes(data)


def c_may_be_stricter(message):
    """State values are judged at once, and text with a NUL is refused."""
    return any(
        isinstance(value, dict)
        or any("\0" in text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str))
        or hasattr(value, "regions")
        for value in (getattr(message, row.name) for row in schema.rows(type(message)))
    )


def test_mutated_messages_are_judged_as_in_python(codec_program):
    messages = list(mutants(random.Random(1), 20000))
    accepted = 0
    for data, (status, _, _, again) in zip(messages, through_c(codec_program, messages), strict=True):
        python = python_says(data)
        if status == "fine":
            accepted += 1
            assert python is not None, f"only C accepts {data.hex()}"
            if not c_may_be_stricter(python[0]):  # unknown groups are not kept in C
                assert again == python[1], data.hex()
        else:
            assert status == "unusable"
            if python is not None:
                assert c_may_be_stricter(python[0]), f"only Python accepts {data.hex()}"
    assert 500 < accepted < 15000


def test_every_cut_is_refused(codec_program):
    cuts = [data[:size] for data in GOOD for size in range(0, len(data), 1 + len(data) // 200)]
    assert len(cuts) > 2000
    assert {status for status, *_ in through_c(codec_program, cuts)} == {"unusable"}


def test_hostile_sizes(codec_program):
    deep = b"\x82\xa4type\xa4ping\xa1x" + b"\x91" * 1000 + b"\xc0"
    many = b"\x82\xa4type\xa4ping\xa1x\xdd" + struct.pack(">I", 1000000) + b"\xc0" * 1000000
    large = b"\x82\xa4type\xa4ping\xa1x\xc6" + struct.pack(">I", 1 << 20) + bytes(1 << 20)
    cases = [deep, many, large, b"\xdd\xff\xff\xff\xff", b"\xdf\x80\x00\x00\x00", bytes(100)]
    answers = through_c(codec_program, cases)
    assert [(status, error) for status, error, *_ in answers] == [
        ("unusable", "bad-message"),
        ("unusable", "bad-message"),  # ping.seq is missing; the million is bounded by the bytes that are there
        ("unusable", "too-large"),
        *[("unusable", "bad-message")] * 3,
    ]


def test_what_a_later_version_may_add_is_ignored(codec_program):
    raw = codec.msgpack.unpackb(GOOD[[one["type"] for one in GOLDEN["good"]].index("memory-map")])
    plain = codec.msgpack.packb(raw)
    raw["novelty"] = [1, {"a": [None, -1, 1.5, codec.msgpack.ExtType(5, b"x")]}]
    raw["map"][1][0].append("more")
    raw["map"].append("more")
    emulate = codec.encode(
        schema.Emulate(
            session=1, vcpu=0, epoch=1, seq=1, generation=1, state={"general": [*range(10), 77], "avx": [1, b"x"]}
        )
    )
    (one, two) = through_c(codec_program, [codec.msgpack.packb(raw), emulate])
    assert (one[0], one[3]) == ("fine", plain)
    assert two[0] == "fine"
    assert codec.decode(two[3]).state == {"general": list(range(10))}


@pytest.mark.parametrize("group", GROUPS)
def test_state_values_must_fit(codec_program, group):
    layout = group_layout(group)
    top = [bytes(width // 8) if width > 64 else (1 << width) - 1 for _, width in layout]

    def message(values):
        return codec.encode(schema.Emulate(session=1, vcpu=0, epoch=1, seq=1, generation=1, state={group: values}))

    bad = []
    for index, (_, width) in enumerate(layout):
        wrong = 1 if width > 64 else b"" if width == 64 else 1 << width
        bad.append([*top[:index], wrong, *top[index + 1 :]])
    good, short, *refused = through_c(codec_program, [message(top), message(top[:-1]), *map(message, bad)])
    assert (good[0], good[3]) == ("fine", message(top))
    assert (short[0], short[2]) == ("unusable", f"state.{group}")
    assert [field for _, _, field, _ in refused] == [f"state.{group}.{label}" for label, _ in layout]


# ------------------------------------------------------------------------------------------------ a live daemon


class Daemon:
    """A daemon process."""

    def __init__(self, directory, engine, *options, endpoint=""):
        self.endpoint = endpoint or f"ipc://{directory}/control"
        command = [sys.executable, "-m", "dm.cli", "serve", "--listen", self.endpoint, "--engine", engine, *options]
        path = os.pathsep.join(filter(None, (str(Path(dm.__file__).parents[1]), os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL)

    def end(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(100)


@pytest.fixture(scope="module", params=["python", "native"])
def engine(request):
    if request.param == "native" and not native_status()[0]:
        pytest.skip(native_status()[1])
    return request.param


@pytest.fixture(scope="module")
def endpoint(engine, tmp_path_factory):
    daemon = Daemon(tmp_path_factory.mktemp("d"), engine, "--session-timeout", "8")
    yield daemon.endpoint
    assert daemon.end() == 0


@pytest.mark.parametrize(
    "scenario",
    [
        *("devices", "state-ports", "native", "copies", "answers", "refusals", "kicks", "on-wake", "reconnect"),
        *("duplicates", "idle"),
    ],
)
def test_shim(shim_program, endpoint, scenario):
    done = subprocess.run(
        [shim_program, endpoint, scenario],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=250,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_tcp_with_curve(shim_program, engine, tmp_path):
    (tmp_path / "clients").mkdir()
    (tmp_path / "ram").mkdir()
    (tmp_path / "ram" / "vm").write_bytes((bytes(0x1000) + b"\xe4\x60\xf4" * 2).ljust(1 << 20, b"\0"))
    keys.make_keys(tmp_path / "daemon")
    own = keys.load_keys(keys.make_keys(tmp_path / "clients" / "shim")[1])
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    options = ("--curve-secret-key", tmp_path / "daemon.key_secret", "--curve-clients", tmp_path / "clients")
    daemon = Daemon(tmp_path, engine, *map(str, options), "--memory-path", str(tmp_path / "ram"), endpoint=endpoint)
    try:
        server = keys.load_public(tmp_path / "daemon.key")
        done = subprocess.run(
            [shim_program, endpoint, "curve", server, own.public, own.secret, tmp_path / "ram" / "vm"],
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            timeout=250,
        )
        assert (done.returncode, done.stderr) == (0, "")
    finally:
        assert daemon.end() == 0


def test_nobody_is_there(shim_program, tmp_path):
    done = subprocess.run(
        [shim_program, f"ipc://{tmp_path}/none", "nobody"], capture_output=True, text=True, env=ENVIRONMENT, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_kicked_run_that_does_not_end(shim_program, engine, tmp_path):
    """The run's thread is told that it takes long, while the run stays under way."""
    daemon = Daemon(tmp_path, engine)
    processes = [daemon.process]
    shim = subprocess.Popen(
        [shim_program, daemon.endpoint, "patience"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    processes.append(shim)
    try:
        assert shim.stdout.readline() == "spinning\n"
        pid = daemon.process.pid
        (worker,) = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        stop(worker)
        shim.stdin.write("g")
        shim.stdin.flush()
        line = shim.stdout.readline()
        assert line == "impatient\n", shim.stderr.read() if shim.poll() is not None else line
        os.kill(worker, signal.SIGCONT)
        _, text = shim.communicate(timeout=60)
        assert (shim.returncode, text) == (0, "")
        assert daemon.end() == 0
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()


def test_a_worker_that_dies_a_daemon_that_ends_and_another_one(shim_program, engine, tmp_path):
    first = Daemon(tmp_path, engine, "--session-timeout", "20")
    processes = [first.process]
    shim = subprocess.Popen(
        [shim_program, first.endpoint, "loss"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    processes.append(shim)

    def hears(line):
        said = shim.stdout.readline()
        assert said == f"{line}\n", shim.stderr.read()

    try:
        hears("spinning")
        pid = first.process.pid
        for worker in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(worker), signal.SIGKILL)
        hears("lost")
        hears("spinning")
        assert first.end() == 0
        hears("closed")
        second = Daemon(tmp_path, engine, "--session-timeout", "20")
        processes.append(second.process)
        _, text = shim.communicate("g", timeout=60)
        assert (shim.returncode, text) == (0, "")
        assert second.end() == 0
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for pipe in (shim.stdin, shim.stdout, shim.stderr):
            pipe.close()
