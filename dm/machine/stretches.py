"""The stretches of a trace in which a hypervisor could not have run the guest itself, and why."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dm.machine.rules import Policy, failing
from dm.machine.state import State


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of a trace: the state after an instruction, and the instruction in words ("" where unknown)."""

    state: State
    instruction: str


@dataclass(frozen=True, slots=True)
class Stretch:
    """States ``first`` to ``last`` of a trace, numbered from 0, none of which can be entered.

    ``began`` is the instruction that produced the first of them, ``ended`` the one that produced the state after
    them; "" where the trace begins or ends with the stretch.  ``rules`` names those that fail somewhere in it.
    """

    first: int
    last: int
    began: str
    ended: str
    rules: tuple[str, ...]

    @property
    def length(self) -> int:
        """How many states it has: as many instructions have to be emulated."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Summary:
    """All stretches of a trace of ``states`` states, and for each rule (stretches, states) in which it fails."""

    states: int
    stretches: tuple[Stretch, ...]
    rules: dict[str, tuple[int, int]]

    @property
    def outside(self) -> int:
        """How many states cannot be entered."""
        return sum(stretch.length for stretch in self.stretches)

    def text(self, policy: str, most: int = 20) -> list[str]:
        """Return it as lines, with the ``most`` longest stretches in the order of the trace."""
        if not self.stretches:
            return [f"trace of {self.states} states: {policy} can enter each of them"]
        lengths = [stretch.length for stretch in self.stretches]
        lines = [
            f"trace of {self.states} states: {policy} cannot enter {self.outside} of them, in {len(lengths)} "
            f"stretch{'es' * (len(lengths) > 1)} of about {statistics.median_low(lengths)} (longest {max(lengths)})"
        ]
        lines += [
            f"  {rule}: {states} states in {stretches} stretch{'es' * (stretches > 1)}"
            for rule, (stretches, states) in sorted(self.rules.items(), key=lambda item: (-item[1][1], item[0]))
        ]
        longest = sorted(self.stretches, key=lambda stretch: -stretch.length)[:most]
        for stretch in sorted(longest, key=lambda stretch: stretch.first):
            lines.append(f"  {stretch.first} to {stretch.last} ({stretch.length}): {', '.join(stretch.rules)}")
            lines.append(f"      from {stretch.began or 'the start'} to {stretch.ended or 'the end'}")
        if len(longest) < len(self.stretches):
            lines.append(f"  the other {len(self.stretches) - len(longest)} are shorter; --json lists all")
        return lines

    def json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "states": self.states,
            "not_enterable": self.outside,
            "rules": {name: {"stretches": n, "states": states} for name, (n, states) in self.rules.items()},
            "stretches": [
                {"first": s.first, "last": s.last, "began": s.began, "ended": s.ended, "rules": list(s.rules)}
                for s in self.stretches
            ],
        }


def summary(steps: Sequence[Step], policy: Policy) -> Summary:
    """Judge every state of a trace."""
    stretches: list[Stretch] = []
    counts: dict[str, list[int]] = {}
    first, rules = 0, dict[str, None]()
    for number, step in enumerate(steps):
        broken = [failure.rule.name for failure in failing(step.state, policy)]
        if broken and not rules:
            first = number
        for name in broken:
            count = counts.setdefault(name, [0, 0])
            count[0] += name not in rules
            count[1] += 1
            rules[name] = None
        if not broken and rules:
            stretches.append(_stretch(steps, first, number - 1, rules))
            rules = {}
    if rules:
        stretches.append(_stretch(steps, first, len(steps) - 1, rules))
    return Summary(len(steps), tuple(stretches), {name: (n, states) for name, (n, states) in counts.items()})


def _stretch(steps: Sequence[Step], first: int, last: int, rules: dict[str, None]) -> Stretch:
    ended = steps[last + 1].instruction if last + 1 < len(steps) else ""
    return Stretch(first, last, steps[first].instruction if first else "", ended, tuple(rules))
