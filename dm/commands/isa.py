"""``x86-dm isa``: the opcode map with the tests of every form, the disassembler, the check of both against objdump."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, Final

from dm.isa.features import MODELS
from dm.isa.map import coverage, objdump
from dm.isa.map.coverage import FormTests, form_name
from dm.isa.map.disassembler import listing
from dm.isa.map.forms import MAPS, Row

_MOST_ERRORS = 40


EXIT_STATUS: Final = (
    "Exit status: 0, 1 when --check finds a disagreement that is not reviewed or --missing a form, 2 for bad input."
)


def _address(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: an address from 0 to 0xffffffff is needed") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare options and operands."""
    parser.add_argument(
        "code", metavar="HEX", nargs="*", help="bytes to disassemble; without any, every form with its modes and tests"
    )
    parser.add_argument("--bits", type=int, choices=(16, 32), default=16, help="code size of HEX (16)")
    parser.add_argument("--address", type=_address, default=0, metavar="EIP", help="where HEX is")
    parser.add_argument("--check", action="store_true", help="compare map and disassembler with binutils' objdump")
    parser.add_argument("--missing", action="store_true", help="list forms that no test executes; 1 if there are any")
    parser.add_argument("--json", action="store_true", help="print JSON objects, one for each form or instruction")
    parser.add_argument("--verbose", action="store_true", help="with --check: list every disagreement, reviewed or not")


def main(args: argparse.Namespace) -> int:
    """Carry out the arguments; 1 when --check or --missing finds something, 2 for bad input."""
    if args.check:
        return _check(args.verbose)
    if not args.code:
        return _list(list(coverage.survey(coverage.load())), args.missing, args.json)
    if not 0 <= args.address < 1 << 32:
        print(f"x86-dm isa: --address is {args.address:#x}, 0 to 0xffffffff is needed", file=sys.stderr)
        return 2
    if args.missing:
        print("x86-dm isa: --missing lists forms: give no HEX with it", file=sys.stderr)
        return 2
    try:
        code = bytes.fromhex("".join(args.code))
    except ValueError:
        print(f"x86-dm isa: {' '.join(args.code)!r} is not hexadecimal: two digits for each byte", file=sys.stderr)
        return 2
    at = args.address
    for line in listing(code, args.bits == 32, at):
        if args.json:
            print(json.dumps({"address": at & 0xFFFFFFFF, "bytes": line.code.hex(), "text": line.text}))
        else:
            print(f"{at & 0xFFFFFFFF:8x}  {line.code.hex():<30}  {line.text}")
        at += len(line.code)
    return 0


#: What a row's ``since`` means, apart from features that CPUID announces.
_PARTS = {number: name for name, number in MODELS.items()} | {4: "80486", 5: "pentium"}


def _list(forms: list[FormTests], missing: bool, as_json: bool) -> int:
    untested = [form for form in forms if not form.tests]
    shown = untested if missing else forms
    if as_json:
        for form in shown:
            print(json.dumps(describe(form)))
    else:
        for line in describe_rows(shown):
            print(line)
        rows = len({form.row for form in forms})
        print(f"{len(forms)} forms of {rows} rows, {len(untested)} without an executed test")
    return int(missing and bool(untested))


def opcode(row: Row) -> str:
    """Return a row's opcode: mandatory prefix, bytes, ``+r`` or the ModRM byte's fixed part."""
    escapes = re.findall("VEX|..", MAPS[row.map])
    parts = ["VEX" * row.vex, row.prefix, *escapes[row.vex :], f"{row.opcode:02X}" + "+r" * row.plus]
    if row.third >= 0:
        parts.append(f"{row.third:02X}")
    elif row.mod:
        parts.append(f"/{row.reg}" if row.reg >= 0 else "/r")
    return " ".join(filter(None, parts))


def describe(form: FormTests) -> dict[str, Any]:
    """Return a form as ``--json`` shows it."""
    row, variant = form.row, form.variant
    return {
        "opcode": opcode(row),
        "mnemonic": row.names[variant.osize == 32],
        "operands": list(row.operands),
        "form": form_name(variant, row),
        "since": _PARTS[row.since],
        "feature": row.feature or None,
        "implemented": coverage.implemented(row),
        "modes": list(form.modes),
        "tests": [f"tests/{test}.py" for test in form.tests],
    }


def describe_rows(forms: Iterable[FormTests]) -> Iterator[str]:
    """Return the lines of the listing: each row, and below it its forms, those with the same tests in one line."""
    for row, group in groupby(forms, lambda form: form.row):
        since = f"cpuid:{row.feature}" if row.feature else _PARTS[row.since]
        refused = "" if coverage.implemented(row) else "  not executed: exit unsupported"
        names = "/".join(dict.fromkeys(row.names))
        yield f"{opcode(row):<13} {names:<15} {','.join(row.operands):<11} {since}{refused}"
        same: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
        for form in group:
            same.setdefault((form.tests, form.modes), []).append(form_name(form.variant, row))
        for (tests, modes), forms_of in same.items():
            yield f"    {' '.join(forms_of)}"
            yield f"        modes: {' '.join(modes) or 'none'}; tests: {' '.join(tests) or 'NONE'}"


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
