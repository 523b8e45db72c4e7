"""The small PC's firmware: IBM PC/AT BIOS services, answered by the shim.

Every service's entry point lies in a page whose fetches end the daemon's run (:mod:`dm.shim.bios.rom`); the service
edits the state and guest memory, and the guest's own IRET, executed by the daemon, returns to the caller.
"""
