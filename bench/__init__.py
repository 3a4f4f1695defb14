"""Measurements of Onggi beside docker, podman, runc, crun and bubblewrap, in one run."""
