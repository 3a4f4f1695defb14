"""OCI containers, which their callers supervise: records on disk and lifecycle, without an engine.

`records` is all that the cheap verbs need; `creation` and `execution` bring in the planner.
"""
