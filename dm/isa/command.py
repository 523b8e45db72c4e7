"""``x86-dm isa``: the opcode map with its forms, the disassembler, and the check of both against objdump."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from dm.isa import objdump
from dm.isa.catalogue import DESCRIPTIONS
from dm.isa.decode import variants
from dm.isa.disassembler import listing
from dm.isa.forms import ROWS, Row
from dm.isa.insn import Variant, expand
from dm.microcode.verify import effects

_MOST_ERRORS = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare options and operands."""
    parser.add_argument("code", metavar="HEX", nargs="*", help="bytes to disassemble; without any the map is listed")
    parser.add_argument("--bits", type=int, choices=(16, 32), default=16, help="code size of HEX (16)")
    parser.add_argument("--address", type=lambda text: int(text, 0), default=0, metavar="EIP", help="where HEX is")
    parser.add_argument("--check", action="store_true", help="compare map and disassembler with binutils' objdump")
    parser.add_argument("--verbose", action="store_true", help="with --check: list every disagreement, reviewed or not")


def main(args: argparse.Namespace) -> int:
    """Do what the arguments say; 1 when --check finds an unreviewed disagreement, 2 for bad input."""
    if args.check:
        return _check(args.verbose)
    if not args.code:
        print("\n".join(describe_map()))
        return 0
    if not 0 <= args.address < 1 << 32:
        print(f"x86-dm isa: --address is {args.address:#x}, 0 to 0xffffffff is needed", file=sys.stderr)
        return 2
    try:
        code = bytes.fromhex("".join(args.code))
    except ValueError:
        print(f"x86-dm isa: {' '.join(args.code)!r} is not hexadecimal: two digits for each byte", file=sys.stderr)
        return 2
    at = args.address
    for line in listing(code, args.bits == 32, at):
        print(f"{at & 0xFFFFFFFF:8x}  {line.code.hex():<30}  {line.text}")
        at += len(line.code)
    return 0


def form_name(variant: Variant, row: Row) -> str:
    """Return a form's short name: operand size, ``m`` and address size for a memory operand, LOCK, REP."""
    name = str(variant.osize)
    if variant.memory:
        name += f"m{variant.asize}"
    elif row.addressed:
        name += f"a{variant.asize}"
    return name + "+lock" * variant.lock + f"+{variant.rep}" * bool(variant.rep)


def describe_map() -> Iterator[str]:
    """Return the lines of the listing: each row with its attributes and forms, then totals.

    A form with ``*`` runs as a transaction: a fault or a question may come after it has changed something.
    """
    forms = transactions = described = 0
    for row in ROWS:
        names = []
        known = row.mnemonic in DESCRIPTIONS
        described += known
        for variant in variants(row):
            late = known and effects(expand(row, variant, "form")).late_abort
            forms += 1
            transactions += late
            names.append(form_name(variant, row) + "*" * late)
        note = "" if known else "  (not described)"
        yield f"{row.text:<32}{' '.join(sorted(row.attributes)):<16}{' '.join(names)}{note}"
    yield f"{len(ROWS)} rows, {described} described; {forms} forms, {transactions} of them transactions (*)"


def _check(verbose: bool) -> int:
    status = 0
    for code32 in (False, True):
        try:
            result = objdump.compare(objdump.cases(), code32)
        except (FileNotFoundError, RuntimeError) as error:
            print(f"x86-dm isa: {error}", file=sys.stderr)
            return 2
        agreed = result.compared - sum(result.reviewed.values()) - len(result.errors)
        print(f"{32 if code32 else 16}-bit code: {result.compared} instructions compared, {agreed} agree")
        for reason, count in result.reviewed.most_common():
            print(f"  {count:6} differ, reviewed: {reason}")
            for example in result.examples[reason] if verbose else result.examples[reason][:1]:
                print(f"         {example}")
        for example in result.errors[: None if verbose else _MOST_ERRORS]:
            print(f"  NOT REVIEWED: {example}")
        if len(result.errors) > _MOST_ERRORS and not verbose:
            print(f"  and {len(result.errors) - _MOST_ERRORS} more (--verbose lists them)")
        status |= bool(result.errors)
    return status
