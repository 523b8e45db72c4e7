def test_serial_initialise_send_status(bench):
    result = bench.interrupt(0x14, ax=0x00E3, dx=0)
    assert result.ah & 0x60 == 0x60
    assert bench.pc.serial.divisor == 12
    for byte in b"ok":
        assert not bench.interrupt(0x14, ax=0x0100 | byte, dx=0).ah & 0x80
    assert bench.sent == b"ok"


def test_serial_receive(bench):
    assert bench.interrupt(0x14, ax=0x0200, dx=0).ah == 0x80
    bench.pc.serial.receive(b"R")
    assert bench.interrupt(0x14, ax=0x0300, dx=0).ah & 1
    result = bench.interrupt(0x14, ax=0x0200, dx=0)
    assert (result.ah, result.al) == (0, ord("R"))


def test_absent_ports_time_out(bench):
    assert bench.interrupt(0x14, ax=0x0141, dx=1).ah & 0x80
    assert bench.interrupt(0x17, ax=0x0041, dx=0).ah & 1
    assert bench.sent == b""


def test_equipment_names_what_is_there(bench, disk_bench):
    word = bench.interrupt(0x11).ax
    assert word & 1, "a diskette drive"
    assert word >> 9 & 7 == 1, "one serial port"
    assert not disk_bench.interrupt(0x11).ax & 1
