from dm.engine.api import Exit, ExitReason
from dm.protocol import schema
from dm.protocol.schema import Posted
from dm.server.vcpu.report import RunReport


def exit_with(**what):
    return Exit(ExitReason.BUDGET, **what)


def test_consecutive_writes_of_one_size_become_one_record():
    report = RunReport()
    report.add(exit_with(posted=tuple((0xB8000 + 2 * n, bytes([n & 255, 7])) for n in range(2000))))
    posted, pages, flush = report.take()
    assert [(p.gpa, len(p.data), p.size) for p in posted] == [(0xB8000, 4000, 2)]
    assert posted[0].data[:6] == bytes([0, 7, 1, 7, 2, 7])
    assert (pages, flush) == ([], False)
    assert not report.waiting


def test_order_and_sizes_are_kept():
    report = RunReport()
    writes = ((0x10, b"a"), (0x11, b"b"), (0x12, b"cd"), (0x14, b"e"), (0x10, b"f"), (0x11, b"g"))
    report.add(exit_with(posted=writes))
    posted, _, _ = report.take()
    assert posted == [Posted(0x10, b"ab", 1), Posted(0x12, b"cd", 2), Posted(0x14, b"e", 1), Posted(0x10, b"fg", 1)]


def test_a_record_stays_within_4096_bytes():
    report = RunReport()
    report.add(exit_with(posted=tuple((n, b"x") for n in range(5000))))
    assert [len(p.data) for p in report.take()[0]] == [4096, 904]


def test_what_does_not_fit_waits_for_the_next_exchange():
    report = RunReport()
    count = schema.MAX_POSTED + 5
    report.add(exit_with(posted=tuple((16 * n, b"x") for n in range(count)), pages=tuple(range(schema.MAX_PAGES + 2))))
    assert report.full
    first, second = report.take(), report.take()
    assert (len(first[0]), len(second[0])) == (schema.MAX_POSTED, 5)
    assert (len(first[1]), second[1]) == (schema.MAX_PAGES, [schema.MAX_PAGES, schema.MAX_PAGES + 1])
    assert not report.full
    assert not report.waiting


def test_bytes_are_bounded_too():
    report = RunReport()
    for block in range(100):
        report.add(exit_with(posted=tuple((block * 8192 + n, b"x") for n in range(4096))))
    assert report.full
    sizes = []
    while report.waiting:
        sizes.append(sum(len(p.data) for p in report.take()[0]))
    assert sizes == [schema.MAX_DATA, 100 * 4096 - schema.MAX_DATA]
    assert not report.full


def test_pages_are_merged_and_sorted_and_flushes_reported_once():
    report = RunReport()
    report.add(exit_with(pages=(9, 1), steps=3, instructions=2))
    report.add(exit_with(pages=(1, 4), steps=1, instructions=1, tlb_flush=True))
    assert report.take() == ([], [1, 4, 9], True)
    assert report.take() == ([], [], False)
    assert (report.steps, report.instructions) == (4, 3)
