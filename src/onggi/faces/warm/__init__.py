"""The warm process: carries out commands in forked children, so that nobody waits for Python.

What it and the front (C) say to each other is in front/README.md.
"""
