"""What a shell with job control does for one program: ``shell.py PROGRAM ARG...`` on its terminal, in the foreground.

It leads a session whose terminal is descriptor 0, and tells on descriptor 3 what becomes of the program: a line
``stopped`` or ``ended STATUS``.  A line on descriptor 4 continues a stopped one in the foreground.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import termios


def main(words: list[str]) -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.closerange(3, 5)
        os.execv(words[0], words)
    while True:
        _, status = os.waitpid(child, os.WUNTRACED)
        os.tcsetpgrp(0, os.getpgrp())
        if not os.WIFSTOPPED(status):
            os.write(3, f"ended {os.waitstatus_to_exitcode(status)}\n".encode())
            return
        os.write(3, b"stopped\n")
        os.read(4, 100)
        os.tcsetpgrp(0, child)
        os.killpg(child, signal.SIGCONT)


if __name__ == "__main__":
    main(sys.argv[1:])
