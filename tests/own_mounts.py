"""`own_mounts.py DIRECTORY COMMAND…`: runs the command with mounts of its own; in a chroot, as if its root were a machine's.

A plain chroot cannot make its mounts private, since its / is no mount point. dockerd needs / to be the root of its mount
namespace besides (`docker exec` enters a container by that root), and the control groups in /sys. Files stay at their paths;
what is mounted is seen by the command alone and ends with it. DIRECTORY: an empty one. Each step is one system call: a minimal
Debian brings no programs for them.
"""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

# <sched.h>, <sys/mount.h>, and the number of a system call that glibc has no function for.
CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
SYS_PIVOT_ROOT = 155  # x86-64

LIBC = ctypes.CDLL(None, use_errno=True)


def in_own_mounts(directory: Path, *command: str) -> list[str]:
    """The command line that runs ``command`` so. ``directory``: is made."""
    directory.mkdir()
    return [sys.executable, __file__, str(directory), *command]


def require_mounts(directory: Path) -> None:
    """Skips loudly where nothing can be mounted; with CI=true that is a failure. ``directory``: an existing one."""
    from tests.missing import missing  # what becomes dockerd needs nothing of it

    command = in_own_mounts(directory / "tried", "mount", "-t", "tmpfs", "tmpfs", "/mnt")
    tried = subprocess.run(command, capture_output=True, text=True)
    if tried.returncode:
        said = (tried.stderr.splitlines() or ["?"])[-1]
        message = f"NOT TESTED: nothing can be mounted here, it takes root's rights and Debian's package mount ({said})"
        missing(message)


def call(name: str, *arguments: int | bytes | None) -> None:
    """A function of libc that returns 0; OSError where it does not."""
    if getattr(LIBC, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name}{arguments}: {os.strerror(ctypes.get_errno())}")


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, options: str = "") -> None:
    call("mount", source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), options.encode())


def own_root(directory: str) -> None:
    """Makes this process' root directory the root of a mount namespace of its own; it is the working directory then."""
    call("unshare", CLONE_NEWNS)
    here = os.open("/", os.O_PATH | os.O_DIRECTORY)
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    call("setns", namespace, CLONE_NEWNS)  # leaves the chroot, into the root that the namespace still has
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    os.fchdir(here)
    mount(".", directory.lstrip("/"), flags=MS_BIND | MS_REC)
    os.chdir(directory.lstrip("/"))
    call("syscall", SYS_PIVOT_ROOT, b".", b".")
    call("umount2", b".", MNT_DETACH)  # the former root, which lies above the new one now
    os.chdir("/")


def mount_control_groups(root: str) -> None:
    """Those of version 1 that this process is in, or version 2."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    groups = [group for _, group, _ in (line.split(":", 2) for line in lines) if group and not group.startswith("name=")]
    if not groups:
        mount("cgroup2", root, "cgroup2")
        return
    mount("cgroup", root, "tmpfs", options="mode=755")
    for group in groups:
        os.mkdir(f"{root}/{group}")
        mount("cgroup", f"{root}/{group}", "cgroup", options=group)


if __name__ == "__main__":
    working_directory = os.getcwd()
    own_root(sys.argv[1])
    if not os.listdir("/sys"):
        mount("sysfs", "/sys", "sysfs")
        mount_control_groups("/sys/fs/cgroup")
    os.chdir(working_directory)
    os.execvp(sys.argv[2], sys.argv[2:])
