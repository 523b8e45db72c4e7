"""The page cache of RAM carried in messages: what is kept, what is sent, in any order."""

import random

import pytest

from dm.engine import api
from dm.protocol import schema
from dm.protocol.schema import PageRange, Patch
from dm.server.memory.pages import PAGE, WINDOW, CopiedBlock, PageCache, differences
from dm.shim.pages import Kept


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"abc", b"abc", []),
        (b"abc", b"abd", [(2, 3)]),
        (b"abcdef", b"xbcdyz", [(0, 1), (4, 6)]),
        (b"\0\0", b"\n\0", [(0, 1)]),
    ],
)
def test_differences(old, new, expected):
    assert list(differences(old, new)) == expected


def cache(pages=64, kind=api.RegionKind.RAM):
    block = CopiedBlock(7, pages * PAGE)
    made = PageCache()
    made.add(block)
    region = api.Region(0x100000, pages * PAGE, kind, block.memory, 0)
    made.use([(region, block)])
    return made, block, region


def test_windows_are_brought_in_and_cut_where_pages_are_there():
    made, block, region = cache()
    want = made.want(0x100000 + 0x5123, write=False)
    assert (want.block, want.offset, want.size) == (block, 0, WINDOW)
    block.fill(0x3000, bytes(PAGE))
    block.fill(0x9000, bytes(PAGE))
    want = made.want(0x100000 + 0x5123, write=False)
    assert (want.offset, want.size) == (0x4000, 0x5000)
    made.fill(want, bytes(range(256)) * 80)
    assert [(part.gpa, part.size) for part in block.parts(region)] == [(0x103000, 0x7000)]
    assert made.want(0x100000 + 0x5123, write=True).size == 0
    assert made.want(0xFFFFF, write=False) is None
    assert made.want(0x140000, write=False) is None


def test_writes_to_rom_are_not_its_business():
    made, _, _ = cache(kind=api.RegionKind.ROM)
    assert made.want(0x100000, write=True) is None
    assert made.want(0x100000, write=False) is not None


def test_firmware_is_wanted_until_it_is_there():
    made, _, _ = cache(pages=2, kind=api.RegionKind.FIRMWARE)
    want = made.firmware()
    assert want.size == 2 * PAGE
    made.fill(want, bytes(2 * PAGE))
    assert made.firmware() is None


def test_a_page_that_was_never_here_has_no_changes():
    made, block, _ = cache()
    block.memory[0] = 1
    assert made.collect({(7, 0)}) == ([], 0, set())


def test_changes_are_sent_until_they_are_known_to_be_applied():
    made, block, region = cache()
    block.fill(0, bytes(PAGE))
    block.memory[5], block.memory[9] = 1, 2
    places = made.places(api.MemoryMap(1, (region,)), [0x100])
    assert places == {(7, 0)}
    patches, version, left = made.collect(places)
    assert (patches, version, left) == ([Patch(7, 5, b"\x01"), Patch(7, 9, b"\x02")], 1, set())
    block.memory[6] = 3
    patches, version, _ = made.collect(made.dirty())
    assert (patches, version) == ([Patch(7, 5, b"\x01\x03"), Patch(7, 9, b"\x02")], 2)
    made.applied(2)
    assert made.dirty() == set()
    assert made.collect({(7, 0)}) == ([], 0, set())
    block.memory[5] = 0
    made.applied(1)  # late news of an older one changes nothing
    assert made.collect(made.dirty())[0] == [Patch(7, 5, b"\x00")]


def test_a_refetched_page_keeps_what_is_under_way():
    made, block, _ = cache()
    block.fill(0, bytes(PAGE))
    block.memory[5] = 1
    made.collect({(7, 0)})  # sent, not known to be applied
    block.memory[6] = 2  # not sent
    assert made.drop([PageRange(7, 0, 1), PageRange(8, 0, 1), PageRange(7, 1 << 40, 1 << 40)])
    assert not block.has(0)
    page = bytearray(PAGE)
    page[7] = 9
    made.fill(made.want(0x100000, write=False), bytes(page) + bytes(WINDOW - PAGE))
    assert block.memory[4:9] == b"\0\x01\x02\x09\0"
    assert made.collect({(7, 0)})[0] == [Patch(7, 5, b"\x01\x02")]


def test_a_message_is_filled_by_whole_pages():
    made, block, _ = cache()
    for n in range(40):
        block.fill(n * PAGE, bytes(PAGE))
        block.memory[n * PAGE : (n + 1) * PAGE] = b"\x55" * PAGE
    patches, version, left = made.collect({(7, n * PAGE) for n in range(40)})
    assert (sum(len(p.data) for p in patches), version) == (schema.MAX_PATCH_DATA, 1)
    assert len(left) == 40 - schema.MAX_PATCH_DATA // PAGE


def test_a_page_of_single_bytes_fits():
    made, block, _ = cache()
    block.fill(0, bytes(PAGE))
    block.memory[0:PAGE] = b"\x01\x00" * (PAGE // 2)
    patches, _, left = made.collect({(7, 0)})
    assert (len(patches), left) == (PAGE // 2, set())
    assert len(patches) <= schema.MAX_PATCHES


@pytest.mark.parametrize("seed", range(20))
def test_both_sides_agree_in_the_end(seed):
    """Random writes on both sides (to bytes of their own), messages that overtake one another: nothing is lost."""
    rng = random.Random(seed)
    made, block, _ = cache(pages=2)
    ram = bytearray(2 * PAGE)
    kept = Kept(ram)
    under_way, applied, done = [], 0, set()
    guest, device = {}, {}
    for _ in range(400):
        match rng.randrange(6):
            case 0 | 1:  # the guest writes an even byte
                at = 2 * rng.randrange(PAGE)
                if block.has(at):
                    guest[at] = block.memory[at] = rng.randrange(256)
            case 2:  # a device writes an odd one
                at = 2 * rng.randrange(PAGE) + 1
                device[at] = ram[at] = rng.randrange(256)
            case 3:  # an exchange leaves
                patches, version, _ = made.collect(made.dirty())
                if version:
                    under_way.append((patches, version))
            case 4 if under_way:  # one arrives, whichever
                patches, version = under_way.pop(rng.randrange(len(under_way)))
                for patch in patches:
                    kept.patch(patch.offset, patch.data, version)
                done.add(version)
                while applied + 1 in done:
                    applied += 1
            case 5:  # the shim answers a question: what is applied, what has changed, and pages when asked
                known = applied
                made.drop(kept.changed(7))
                want = made.want(0x100000 + rng.randrange(2 * PAGE), write=False)
                if want.size:
                    data = kept.read(want.offset, want.size)
                    made.applied(known)
                    made.fill(want, data)
    for patches, version in [*under_way, made.collect(made.dirty())[:2]]:
        for patch in patches:
            kept.patch(patch.offset, patch.data, version)
    for at, value in {**guest, **device}.items():
        assert ram[at] == value, hex(at)


def test_a_shim_that_never_says_what_it_has_applied_costs_no_memory():
    made, block, _ = cache()
    made.fill(made.want(0x100000, write=True), bytes(WINDOW))
    kept = bytearray(WINDOW)
    for n in range(3 * schema.MAX_VCPUS):
        block.memory[n % WINDOW] = n % 255 + 1
        patches, version, left = made.collect([(7, n % WINDOW // PAGE * PAGE)])
        assert not left
        for patch in patches:
            kept[patch.offset : patch.offset + len(patch.data)] = patch.data
    assert len(made._flight) == 2 * schema.MAX_VCPUS
    assert kept == block.memory[:WINDOW]
    made.applied(version)
    assert not made._flight
    patches, last, _ = made.collect([(7, 0)])
    for patch in patches:
        kept[patch.offset : patch.offset + len(patch.data)] = patch.data
    assert kept == block.memory[:WINDOW]
    made.applied(last)
    assert made.collect([(7, 0)])[0] == []


def test_a_page_below_every_region_is_nobodys():
    made, _, region = cache()
    assert made.places(api.MemoryMap(1, (region,)), [0]) == set()
    assert made.places(api.MemoryMap(2, ()), [0x100]) == set()
