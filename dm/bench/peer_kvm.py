"""Runs an image of :mod:`dm.bench.image` on KVM: ``python peer_kvm.py IMAGE``; the debug port is standard output.

The least a hypervisor can be (Linux, Documentation/virt/kvm/api.rst): RAM, the image where a PC has its firmware, one
vCPU from reset, a device register at E0000h.  It ends with HLT.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import sys
from pathlib import Path
from typing import Final

_CREATE_VM: Final = 0xAE01
_GET_VCPU_MMAP_SIZE: Final = 0xAE04
_CREATE_VCPU: Final = 0xAE41
_SET_USER_MEMORY_REGION: Final = 0x4020AE46
_SET_TSS_ADDR: Final = 0xAE47
_RUN: Final = 0xAE80

# struct kvm_run: exit_reason at byte 8; what belongs to the reason from byte 32 on.
_EXIT_IO, _EXIT_HLT, _EXIT_MMIO = 2, 5, 6
_IO: Final = struct.Struct("=BBHIQ")  # direction, size, port, count, offset of the data
_MMIO: Final = struct.Struct("=Q8sIB")  # address, data, length, is_write

_MEMORY: Final = 1 << 20
_DEVICE: Final = 0xE0000
_TOP: Final = 1 << 32


def main(path: str) -> int:
    """Run to HLT; returns 1 after saying so when KVM ends the run for another reason."""
    image = Path(path).read_bytes()
    memory = mmap.mmap(-1, _MEMORY)
    memory[-len(image) :] = image
    host = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    vm = fcntl.ioctl(kvm, _CREATE_VM, 0)
    fcntl.ioctl(vm, _SET_TSS_ADDR, 0x70000000)  # three pages that Intel's parts need, out of the way
    rom = _MEMORY - len(image)
    for slot, (guest, size, offset) in enumerate(
        ((0, _DEVICE, 0), (rom, len(image), rom), (_TOP - len(image), len(image), rom))
    ):
        fcntl.ioctl(vm, _SET_USER_MEMORY_REGION, struct.pack("=IIQQQ", slot, 0, guest, size, host + offset))
    vcpu = fcntl.ioctl(vm, _CREATE_VCPU, 0)
    run = mmap.mmap(vcpu, fcntl.ioctl(kvm, _GET_VCPU_MMAP_SIZE, 0))
    register = b"\0"
    while True:
        fcntl.ioctl(vcpu, _RUN, 0)
        (reason,) = struct.unpack_from("=I", run, 8)
        if reason == _EXIT_IO:
            _, size, port, count, offset = _IO.unpack_from(run, 32)
            if port == 0xE9:
                os.write(1, run[offset : offset + size * count])
        elif reason == _EXIT_MMIO:
            _, data, _, is_write = _MMIO.unpack_from(run, 32)
            if is_write:
                register = data[:1]
            else:
                run[40:41] = register
        elif reason == _EXIT_HLT:
            return 0
        else:
            print(f"KVM exit {reason}, suberror {struct.unpack_from('=I', run, 32)[0]}", file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
