"""What systemd does to a service before it starts it, where no systemd runs: its system call filter and MemoryDenyWriteExecute.

    python -m tests.fakes.sandbox '{"allow": ["read", ...]}' COMMAND ARGUMENT...

libseccomp is asked directly, as systemd itself does; the filter and the memory rule outlive exec, so that the command and its children
live under them.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
from pathlib import Path

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_MDWE = 65
_REFUSE_EXEC_GAIN = 1
_ERRNO = 0x00050000
_ALLOW = 0x7FFF0000


def enter(allow: list[str]) -> None:
    """Allow only these system calls (every other one fails with EPERM), and no memory that is writable and executable.

    Raises:
        OSError: the kernel or libseccomp refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs refused")
    # kernels before 6.3 have no such rule; there systemd uses its filter for it, too
    if libc.prctl(_PR_SET_MDWE, _REFUSE_EXEC_GAIN, 0, 0, 0) != 0 and ctypes.get_errno() != errno.EINVAL:
        raise OSError(ctypes.get_errno(), "memory rule refused")
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(_ERRNO | errno.EPERM)))
    known = 0
    for name in allow:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        # names of other architectures and of younger kernels are below zero
        if number >= 0:
            status = seccomp.seccomp_rule_add(context, ctypes.c_uint32(_ALLOW), number, 0)
            if status != 0:
                raise OSError(-status, f"no rule for {name}")
            known += 1
    if known < 100 or seccomp.seccomp_load(context) != 0:
        raise OSError(ctypes.get_errno(), "filter refused")
    seccomp.seccomp_release(context)


def writes_and_executes() -> bool:
    """Whether this process may still get memory that is writable and executable."""
    import mmap

    try:
        mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except OSError:
        return False
    return True


def kernel_has_memory_rule() -> bool:
    """PR_SET_MDWE came with Linux 6.3."""
    release = Path("/proc/sys/kernel/osrelease").read_text().split(".")
    return (int(release[0]), int(release[1])) >= (6, 3)


if __name__ == "__main__":
    enter(json.loads(sys.argv[1])["allow"])
    os.execvp(sys.argv[2], sys.argv[2:])
