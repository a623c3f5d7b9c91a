"""A device's own sensors: each source yields readings, one kind a file, found by its entry point `msrt.sources`.

A source is an async iterator of flat or shaped numpy arrays; the watcher (`watch.py`) shapes them for the model, runs
it and posts durable events.
"""
