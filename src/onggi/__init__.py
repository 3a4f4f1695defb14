"""Onggi: images, containers and the value of a container start."""

__version__ = "0.1.0"
