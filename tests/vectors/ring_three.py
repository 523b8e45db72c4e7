"""Files of the ring-3 sets, made by hand."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import msgpack

from dm.vectors import hwamd

# index, base, limit, B/D, contents, read_exec_only, G, not present
LDT = [
    [1, 0x30000, 0xFFFF, 0, 2, 0, 0, 0],
    [2, 0x30000, 0x1FFFF, 1, 2, 1, 0, 0],
    [3, 0x1000, 0xFF, 0, 0, 0, 0, 0],
    [4, 0, 31, 1, 1, 1, 1, 0],
    [6, 0x1234, 0x4321, 1, 0, 0, 0, 1],
]
ES, CS16, CS32, SS = 0, 15, 23, 31


def row(**columns: Any) -> list[Any]:
    values: dict[str, Any] = {
        "code32": 1, "bytes": b"\x40", "gpr": [1, 2, 3, 4, 5, 6, 7, 8], "seg": [ES, CS32, SS, 39, 0, 0], "eip": 0x100,
        "eflags": 0x97, "patches": [[0x1008, b"xy"]], "ldt": 0, "final_gpr": {0: 2}, "final_seg": {},
        "final_eip": 0x101, "final_eflags": 6, "mem_writes": [[0x20, b"w"]], "exception": None, "undef_flags": 0x10,
    }  # fmt: skip
    return list((values | columns).values())


def write(tmp_path: Path, *rows: list[Any], ldts: Any = (LDT,), **table: Any) -> Path:
    whole = {
        "op": "40", "gpr": list(hwamd.GPR), "seg": list(hwamd.SEG), "fields": list(hwamd.FIELDS), "tests": list(rows)
    }  # fmt: skip
    path = tmp_path / "40.mp.gz"
    path.write_bytes(gzip.compress(msgpack.packb(whole | table)))
    (tmp_path / "ldts.mp.gz").write_bytes(gzip.compress(msgpack.packb(list(ldts))))
    return path
