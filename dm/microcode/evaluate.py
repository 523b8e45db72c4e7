"""The results of pure operations: the one definition, used to fold constants and followed by both printers."""

from __future__ import annotations

from dm.microcode.ir import MicrocodeError


def signed(value: int, width: int) -> int:
    """Return the two's-complement reading of ``value``."""
    return value - (1 << width) if value >> (width - 1) & 1 else value


def evaluate(op: str, width: int, args: list[int], source: int) -> int:
    """Return the result of a pure operation on constants; ``source`` is the operands' width (see the Value methods).

    Raises:
        MicrocodeError: there is no such operation.
    """
    mask = (1 << width) - 1
    a = args[0]
    b = args[1] if len(args) > 1 else 0
    match op:
        case "add":
            return (a + b) & mask
        case "sub":
            return (a - b) & mask
        case "mul":
            return (a * b) & mask
        case "and":
            return a & b
        case "or":
            return a | b
        case "xor":
            return a ^ b
        case "not":
            return ~a & mask
        case "shl":
            return (a << b) & mask if b < width else 0
        case "shr":
            return a >> b if b < width else 0
        case "sar":
            return (signed(a, width) >> min(b, width - 1)) & mask
        case "udiv":
            return a // b if b else 0
        case "urem":
            return a % b if b else 0
        case "sdiv" | "srem":
            if b == 0:
                return 0
            x, y = signed(a, width), signed(b, width)
            quotient = abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
            return (quotient if op == "sdiv" else x - quotient * y) & mask
        case "eq":
            return int(a == b)
        case "ne":
            return int(a != b)
        case "ult":
            return int(a < b)
        case "ule":
            return int(a <= b)
        case "slt":
            return int(signed(a, source) < signed(b, source))
        case "sle":
            return int(signed(a, source) <= signed(b, source))
        case "zext" | "trunc":
            return a & mask
        case "sext":
            return signed(a, source) & mask
        case "popcount":
            return a.bit_count()
        case "clz":
            return width - a.bit_length()
        case "ctz":
            return (a & -a).bit_length() - 1 if a else width
        case "bswap":
            return int.from_bytes(a.to_bytes(width // 8, "little"), "big")
    raise MicrocodeError(f"unknown operation {op}")
