"""Processes that a command starts."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable


def ending_with_parent() -> Callable[[], None] | None:
    """`preexec_fn` of a process that is to end, on Linux, with the one that waits for it.

    Else the run of a killed sweep, of a lost Ray worker, or heareval of a killed run would work on
    beside its repeat, or hold the lock against it.
    """
    if sys.platform != "linux":
        return None
    parent, control = os.getpid(), ctypes.CDLL(None).prctl

    def end_with_parent() -> None:
        control(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG
        if os.getppid() != parent:  # which has ended already
            os._exit(1)

    return end_with_parent
