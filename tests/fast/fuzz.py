"""Run by test_module.py in a process of its own, with a build of dm.fast: ``fuzz.py MODULE used`` or ``... fuzz SEED``.

The latter prints how many damaged messages the codec in C has understood, as the one in Python does, and refused.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from typing import Any


def load_module(path: str) -> None:
    """Put a build in the place of the one in the package."""
    import dm.fast

    spec = importlib.util.spec_from_file_location("dm.fast._fast", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["dm.fast._fast"] = module
    dm.fast._fast = module


def damage(source: random.Random, packed: bytes) -> bytes:
    changed = bytearray(packed)
    for _ in range(source.randrange(3)):
        at = source.randrange(len(changed))
        match source.randrange(4):
            case 0:
                changed[at] = source.randrange(256)
            case 1:
                del changed[at : at + source.randrange(1, 5)]
            case 2:
                changed[at:at] = changed[at : at + source.randrange(20)]
            case 3:
                changed = changed[:at]
        changed = changed or bytearray(1)
    return bytes(changed)


def codecs(source: random.Random) -> tuple[int, int]:
    """Both codecs must agree on what the one in C understands, and on what it writes of odd objects."""
    from dm.protocol import codec, examples, schema

    good = [codec.encode_in_python(example[1]) for example in examples.GOOD]
    understood = refused = 0
    for _ in range(15_000):
        data = damage(source, source.choice(good))
        message = codec.FAST.unpack(data)
        if message is None:
            refused += 1
        else:
            understood += 1
            assert message == codec.decode_in_python(data)
            assert codec.FAST.pack(message) == codec.encode_in_python(message)
    odd: list[Any] = [None, True, -1, 1 << 70, 0.5, "", "\ud800", "x" * 5000, b"", b"y" * 5000, [], [[]], {}, {1: []}]
    odd += [{"a": [1 << 64]}, {"a": [b"z" * 9000]}, {"a": (1,)}, {"a": list(range(300))}, schema.Stop.KICK, object()]
    for _ in range(5_000):
        message = codec.decode_in_python(source.choice(good))
        setattr(message, source.choice(schema.rows(type(message))).name, source.choice(odd))
        packed = codec.FAST.pack(message)
        assert packed is None or packed == codec.encode_in_python(message)
        delattr(message, source.choice(schema.rows(type(message))).name)
        assert codec.FAST.pack(message) is None
    for wrong in (None, 7, bytearray(b"\x81"), b"", "x"):
        assert codec.FAST.unpack(wrong) is None
        assert codec.FAST.pack(wrong) is None
    return understood, refused


def states(source: random.Random) -> None:
    """A state with an odd value is never stored to or read as if it were right."""
    from dm.machine import groups
    from dm.machine.groups import flatten
    from dm.machine.state import FIELDS, Segment, State

    plain = [row.name for row in FIELDS if "." not in row.name]
    odd: list[Any] = [None, -1, 1 << 70, "x", [], [1] * 300, b"", b"z" * 512, object(), [Segment()] * 8, [None] * 8]
    whole = flatten(State.reset())
    for _ in range(8_000):
        state = State.reset()
        name = source.choice([*plain, "seg"])
        if source.random() < 0.2:
            delattr(state, name)
        else:
            setattr(state, name, source.choice(odd))
        found = groups._FAST.changed(state, whole)
        assert found is None or found == {g: v for g, v in flatten(state).items() if v != whole[g]}
        delta: dict[Any, Any] = {group: list(values) for group, values in whole.items()}
        delta[source.choice(list(delta))] = source.choice([*odd, [1] * 5])
        groups._FAST.store(state, delta)
        groups._FAST.store(State.reset(), {source.choice([1, "a", *whole]): source.choice(odd)})


def main() -> None:
    load_module(sys.argv[1])
    from dm import fast

    if sys.argv[2] == "used":
        print("used" if fast.module() is not None else "not used")
        return
    assert fast.module() is not None
    source = random.Random(int(sys.argv[3]))
    counts = codecs(source)
    states(source)
    print(*counts)


if __name__ == "__main__":
    main()
