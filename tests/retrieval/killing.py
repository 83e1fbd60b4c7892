"""Work in a child process that is killed at a chosen moment."""

import os
import signal
from pathlib import Path

import numpy as np


def killed_while(work, moment):
    """Work in a child process that is killed at its `moment`-th durable operation; returns
    whether it came that far. Every write, rename and checkpoint counts, before and after."""
    pid = os.fork()
    if pid == 0:
        try:
            _die_at(moment)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def _die_at(moment):
    passed = 0

    def point():
        nonlocal passed
        passed += 1
        if passed == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying(function):
        def call(*args, **kwargs):
            point()
            result = function(*args, **kwargs)
            point()
            return result

        return call

    os.replace = dying(os.replace)
    os.rename = dying(os.rename)
    os.mkdir = dying(os.mkdir)
    os.unlink = dying(os.unlink)
    Path.rename = dying(Path.rename)
    np.save = dying(np.save)
    np.memmap.flush = dying(np.memmap.flush)
