"""Cgroups by way of systemd: a transient scope for each container. Imported only when asked for."""
