"""How long waiting threads poll: the one home of these times, for :mod:`dm.protocol.waiter` and, in C, waiting.h."""

from __future__ import annotations

from typing import Final

#: Longest time of polling before a sleep, in nanoseconds.  A wait that takes longer ends the habit.
AWAKE_NS: Final = 200_000
#: How long is polled at first, after a wait that was shorter than that.  Each time it was too short the next is twice
#: as long: so a few exchanges between two long waits cost no more than they could save.
FIRST_AWAKE_NS: Final = 50_000
#: After so long between two waits, in nanoseconds, the next one does not poll.
PAUSE_NS: Final = 10_000_000
#: A yield that took this long, in nanoseconds, means that another thread wants this processor; those of ZeroMQ take up
#: to 80 us.
TAKEN_NS: Final = 100_000
#: Back-off before polling again, in nanoseconds: at first, and at most after repeated yields.
REST_NS: Final = 10_000_000
LONGEST_REST_NS: Final = 160_000_000

#: Names and values for C.
MACROS: Final = {
    f"X86_DM__{name}": f"INT64_C({value})"
    for name, value in (
        ("AWAKE_NS", AWAKE_NS),
        ("FIRST_AWAKE_NS", FIRST_AWAKE_NS),
        ("PAUSE_NS", PAUSE_NS),
        ("TAKEN_NS", TAKEN_NS),
        ("REST_NS", REST_NS),
        ("LONGEST_REST_NS", LONGEST_REST_NS),
    )
}
#: The same as options of a compiler.
DEFINES: Final = tuple(f"-D{name}={value}" for name, value in MACROS.items())
