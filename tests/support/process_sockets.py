"""Which sockets a process has, as the kernel tells."""

from __future__ import annotations

from pathlib import Path


def sockets_to(pid: int, port: int) -> set[int]:
    """Return the inodes of the sockets of process *pid* that are connected to TCP *port*.

    Two processes that share a socket have the same inode; two that connected have not.
    """
    ours: set[int] = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            ours.add(int(target[8:-1]))
    connected: set[int] = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[2].rpartition(":")[2], 16) == port:
                connected.add(int(fields[9]))
    return ours & connected


def children_of(pid: int) -> set[int]:
    """Return the processes whose parent is *pid*."""
    found: set[int] = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        found.update(int(child) for child in (thread / "children").read_text().split())
    return found


def disjoint(processes: set[int], port: int) -> int:
    """Assert that no two of *processes* share a socket to *port*; return how many there are."""
    seen: dict[int, int] = {}
    for process in processes:
        for inode in sockets_to(process, port):
            assert seen.setdefault(inode, process) == process, f"{process} and {seen[inode]} share"
    return len(seen)
