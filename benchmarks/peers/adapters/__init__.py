"""One module for each task queue: what the driver has to know of it, and the app that runs in its own environment."""
