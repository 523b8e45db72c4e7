"""``x86-dm explain``: why a hypervisor could or could not take a state."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Final

from dm.machine.rules import POLICIES, Failure, Policy, failing
from dm.machine.stretches import Step, summary
from dm.machine.text import from_json

_POLICIES: Final = {str(word): policy for word, policy in POLICIES.items() if policy is not Policy.NEVER}


EXIT_STATUS: Final = "Exit status: 0 when the state can be entered, 1 when not, 2 for bad input."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare options and operands."""
    parser.add_argument(
        "state",
        metavar="STATE.json",
        help="a state (object of register names), or a trace: one object per line with 'state' and 'instruction'; its "
        "last state is checked, and the whole by stretches; - is standard input",
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
    except (ValueError, RecursionError) as error:
        print(f"x86-dm explain: {args.state}: {error}", file=sys.stderr)
        return 2
    policy = _POLICIES[args.policy]
    failures = [(failure, culprit(steps, failure, policy)) for failure in failing(steps[-1].state, policy)]
    whole = summary(steps, policy) if len(steps) > 1 else None
    if args.json:
        report: dict[str, Any] = {"for": args.policy, "enterable": not failures}
        report["failing"] = [_row(*f) for f in failures]
        print(json.dumps(report | ({"trace": whole.json()} if whole else {}), indent=2))
        return 1 if failures else 0
    last = " (the last state)" if whole else ""
    if not failures:
        print(f"{args.policy}: enterable{last}")
    else:
        print(f"{args.policy}: {len(failures)} rule{'s' * (len(failures) > 1)} broken{last}")
        for failure, by in failures:
            print(f"  {failure}" + (f"\n      since: {by}" if by else ""))
    if whole:
        print("\n".join(whole.text(args.policy)))
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
    """Return the instruction since which the rule has been violated throughout, or "" if the trace cannot tell."""
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
