"""Does a file lie on a disk of this host? `network_kind`: the network file system that it is on.

SQLite counts on locks that hold, and on a change that is seen at once. A network file system gives
neither for sure (https://www.sqlite.org/faq.html#q5), however well it works for one host at a time.

    network_kind(Path("/mnt/share/study.db"))         # "nfs4"; None for a disk of this host

Method. Linux lists its mounts in /proc/self/mountinfo (`proc(5)`). A file's is the one with the
file's device, else the longest mount point above it. Other systems tell nothing: the answer is
None.
"""

import os
import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = frozenset(
    {
        *("9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs2", "glusterfs"),
        *("gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2"),
        *("smb2", "smb3", "smbfs", "virtiofs", "wekafs"),
    }
)
_LOCAL_FUSE = ("fuse.lxcfs", "fuse.ntfs-3g", "fuse.exfat", "fuse.mergerfs", "fuse.fuse-overlayfs")


def network_kind(path: Path) -> str | None:
    """The kind of the network file system that a path is on, or will be on; None for a local one.

    A file that is not there yet is on what the nearest folder above it is on.
    """
    kind = _kind(path)
    if kind in _NETWORK or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE):
        return kind
    return None


def _kind(path: Path) -> str:
    try:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        real = Path(os.path.realpath(path))
        while not real.exists() and real != real.parent:
            real = real.parent
        device = os.stat(real).st_dev
    except OSError:
        return ""
    number = f"{os.major(device)}:{os.minor(device)}"
    best, depth = "", -1
    for line in mounts:
        fields, _, rest = line.partition(" - ")
        parts, kind = fields.split(" "), rest.split(" ")[0]
        if len(parts) < 5:
            continue
        if parts[2] == number:
            return kind
        point = Path(_unescaped(parts[4]))
        if real.is_relative_to(point) and len(point.parts) >= depth:
            best, depth = kind, len(point.parts)
    return best


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
