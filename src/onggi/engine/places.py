"""Names of everything one engine makes, derived from the container's id. No I/O but `prepare`."""

from __future__ import annotations

import os

from onggi.engine.layout import Layout


class Places:
    """Directories and cgroup paths of one root."""

    def __init__(self, layout: Layout) -> None:
        self.containers = f"{layout.data}/containers"
        self.volumes = f"{layout.data}/volumes"
        #: On their file system, so that one rename takes one away; no name begins with a dot.
        self.removed_volumes = f"{layout.data}/volumes/.removed"
        self.images = f"{layout.data}/image"
        self.records = f"{layout.data}/records.sqlite"
        self.tasks = f"{layout.run}/tasks"
        #: Where init attaches its root, each in a mount namespace of its own.
        self.root_mountpoint = f"{layout.run}/root"
        self.cgroup_parent = layout.instance

    def prepare(self) -> None:
        """Make the directories. Others may pass through to the mount point, but not look around.

        Raises:
            OSError: a directory cannot be made.
        """
        for path in (self.containers, self.volumes, self.images):
            os.makedirs(path, mode=0o700, exist_ok=True)
        for path in (self.tasks, self.root_mountpoint):
            os.makedirs(path, mode=0o711, exist_ok=True)

    def container(self, container_id: str) -> str:
        """What survives the container's process: its log and its three files."""
        return f"{self.containers}/{container_id}"

    def task(self, container_id: str) -> str:
        """The monitor's directory: socket, state and exit record."""
        return f"{self.tasks}/{container_id}"

    def cgroup(self, container_id: str) -> str:
        """The cgroup, relative to each hierarchy's mount."""
        return f"{self.cgroup_parent}/{container_id}"

    def volume(self, name: str) -> str:
        """A named volume's directory."""
        return f"{self.volumes}/{name}/_data"


def log_name(container_id: str) -> str:
    """The log's file name, as docker's json-file driver calls it."""
    return f"{container_id}-json.log"
