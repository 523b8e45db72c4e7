"""``x86-dm explain``: why a hypervisor could or could not take a state."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from typing import Any, Final

from dm.machine.rules import Failure, Policy, failing
from dm.machine.state import State
from dm.machine.text import from_json

_POLICIES: Final = {policy.name.lower().replace("_", "-"): policy for policy in Policy if policy is not Policy.NEVER}


@dataclass(frozen=True)
class Step:
    """One entry of a trace: the state after an instruction, and the instruction in words ("" where unknown)."""

    state: State
    instruction: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare options and operands."""
    parser.add_argument(
        "state",
        metavar="STATE.json",
        help="a state (object of register names), or a trace: one object per line with 'state' and 'instruction'; - is "
        "standard input",
    )
    parser.add_argument("--for", dest="policy", choices=sorted(_POLICIES), default="vmx", help="who is to run it (vmx)")
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def main(args: argparse.Namespace) -> int:
    """Print every failing rule; returns 0 when the state can be entered, 1 when not, 2 for bad input."""
    try:
        with sys.stdin if args.state == "-" else open(args.state, encoding="utf-8") as file:
            steps = parse(file.read())
    except OSError as error:
        print(f"x86-dm explain: {args.state}: {error.strerror}", file=sys.stderr)
        return 2
    except (ValueError, UnicodeDecodeError) as error:
        print(f"x86-dm explain: {args.state}: {error}", file=sys.stderr)
        return 2
    policy = _POLICIES[args.policy]
    failures = [(failure, culprit(steps, failure, policy)) for failure in failing(steps[-1].state, policy)]
    if args.json:
        print(
            json.dumps(
                {"for": args.policy, "enterable": not failures, "failing": [_row(*f) for f in failures]}, indent=2
            )
        )
    elif not failures:
        print(f"{args.policy}: enterable")
    else:
        print(f"{args.policy}: {len(failures)} rule{'s' * (len(failures) > 1)} broken")
        for failure, by in failures:
            print(f"  {failure}" + (f"\n      since: {by}" if by else ""))
    return 1 if failures else 0


def parse(text: str) -> list[Step]:
    """Return the steps of a trace; a single state is a trace of one.

    Raises:
        ValueError: not JSON, or not a state; names the line of a trace.
    """
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2:
            raise ValueError(f"not JSON: {error}") from None
        return [_step(number, line) for number, line in enumerate(lines, 1)]
    if isinstance(whole, dict) and "state" in whole:
        return [_entry(whole)]
    return [Step(from_json(whole), "")]


def _step(number: int, line: str) -> Step:
    try:
        return _entry(json.loads(line))
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None


def _entry(table: Any) -> Step:
    if not isinstance(table, dict) or "state" not in table:
        raise ValueError("a trace has an object with 'state' and 'instruction' on each line")
    return Step(from_json(table["state"]), str(table.get("instruction", "")))


def culprit(steps: list[Step], failure: Failure, policy: Policy) -> str:
    """Return the instruction since which the rule has been broken without a break, or "" when the trace cannot tell."""
    first = len(steps) - 1
    while first > 0 and any(f.rule is failure.rule for f in failing(steps[first - 1].state, policy)):
        first -= 1
    return steps[first].instruction if first > 0 or len(steps) == 1 else ""


def _row(failure: Failure, by: str) -> dict[str, str]:
    rule = failure.rule
    row = {
        "rule": rule.name,
        "field": rule.field,
        "actual": failure.actual,
        "required": rule.required,
        "section": rule.section,
    }
    return row | ({"instruction": by} if by else {})
