"""Programs that measure Taskstream, each run as ``python -m benchmarks.NAME`` from the checkout; see RESULTS.md.

Nothing is imported here: part of the package runs in environments that have no Taskstream.
"""
