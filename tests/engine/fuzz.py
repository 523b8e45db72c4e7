"""Run by test_sanitizers.py in a process of its own: the native engine built with sanitizers, under random worlds.

``fuzz.py MODULE worlds SECONDS SEED`` or ``fuzz.py MODULE vectors DIRECTORY SHARE SEED``; prints what it has done.
"""

from __future__ import annotations

import importlib.util
import random
import sys
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "oracle"))


def load_module(path: str) -> None:
    """Put the sanitized extension in the place of the one in the package."""
    import dm.engine

    spec = importlib.util.spec_from_file_location("dm.engine._native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dm.engine._native"] = module
    spec.loader.exec_module(module)
    dm.engine._native = module  # type: ignore[attr-defined]
    usable, why = dm.engine.native_status()
    assert usable, why
    assert dm.engine._native.__file__ == path


def run_worlds(seconds: float, seed: int) -> None:
    """Random worlds in random pieces, and states and maps that change in mid-instruction."""
    import worlds
    from worlds import CONFIGS, Machine, World

    from dm.engine import create
    from dm.engine.api import QUESTIONS, Until

    engines = {config: create("native", cpu) for config, cpu in CONFIGS.items()}
    reasons: Counter[str] = Counter()
    end = time.monotonic() + seconds
    count = steps = 0
    while time.monotonic() < end:
        world = World.random(seed + count)
        print(f"world {seed + count}", file=sys.stderr, flush=True)  # what runs when a report ends the process
        r = random.Random(~world.seed)
        built = worlds.build(world)
        if r.random() < 0.05:
            engines[built.config].close()
            engines[built.config] = create("native", CONFIGS[built.config])
        machine = Machine("native", world, engine=engines[built.config], built=built)
        options = {"until": r.choice(list(Until)), "window": r.random() < 0.2, "progress": r.random() < 0.5}
        if r.random() < 0.05:
            options |= {"mmio": worlds.DEVICE + r.getrandbits(12), "code": r.randbytes(r.randrange(16))}
        for _ in range(r.choice((4, 12, 30))):
            result = machine.run(r.choice((0, 1, 2, 9, 100, 3000)), **options)
            reasons[result.reason] += 1
            if r.random() < 0.1:
                r.choice((machine.remap, machine.engine.kick, machine.engine.get_state))()
            if result.reason in QUESTIONS and r.random() < 0.05:
                machine.engine.set_state(machine.engine.get_state())
                continue
            machine.settle(result)
            if machine.ended is not None:
                if r.random() < 0.5:
                    break
                state = machine.engine.get_state()  # go on somewhere else in the same memory
                state.rip = worlds.CODE + r.getrandbits(6)
                state.activity, state.inject_type = 0, 255
                machine.engine.set_state(state)
                machine.ended = None
        steps += machine.steps
        count += 1
    for engine in engines.values():
        engine.close()
    print(f"{count} worlds from seed {seed}, {steps} steps, {dict(reasons)}")
    assert count > 10
    assert len(reasons) > 6


def run_vectors(directory: Path, share: float, seed: int) -> None:
    """A share of the recorded vectors in ``directory``; fails when one differs."""
    from dm.engine import create
    from dm.vectors.formats import find_files
    from dm.vectors.runner import run_file

    passed = failed = 0
    for path in find_files([directory]):
        print(f"vectors {path.name}", file=sys.stderr, flush=True)
        result = run_file(path, lambda config: create("native", config), share, seed)
        passed, failed = passed + result.passed, failed + result.failed
    print(f"{passed} vectors of {directory.name} passed, {failed} failed, seed {seed}")
    assert passed
    assert not failed


if __name__ == "__main__":
    load_module(sys.argv[1])
    if sys.argv[2] == "worlds":
        run_worlds(float(sys.argv[3]), int(sys.argv[4]))
    else:
        run_vectors(Path(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
