"""Child processes that never outlive this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO

# Run in the child before the program itself: asks Linux (prctl 1, PR_SET_PDEATHSIG) to kill it when its parent ends,
# then becomes the program. The parent may have ended before that took hold.
_SHIM = (
    "import ctypes,os,signal,sys;"
    "ctypes.CDLL(None).prctl(1,signal.SIGKILL,0,0,0);"
    "os.getppid()==int(sys.argv[1]) or os._exit(1);"
    "os.execv(sys.argv[2],sys.argv[2:])"
)

# Linux means the death of the parent *thread*: children are started from one that lives as long as the process.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nano-child")


def start(
    argv: Sequence[str],
    *,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> subprocess.Popen[bytes]:
    """Starts `argv` (argv[0] a full path) in a session of its own, so that a terminal's Ctrl-C is left to us."""
    command = [sys.executable, "-I", "-S", "-c", _SHIM, str(os.getpid()), *argv]
    return _starter.submit(
        subprocess.Popen,
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env=env,
        cwd=cwd,
        start_new_session=True,
    ).result()
