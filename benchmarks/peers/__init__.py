"""Taskstream beside other task queues: the same scenarios, one machine, one interleaved run.

    python -m benchmarks.peers setup|list|run|limits|report|targets

What runs inside a peer's environment (client, probe, bodies, adapters) imports the standard library and that peer only.
"""
