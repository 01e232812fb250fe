"""The worker pool: a supervisor and its worker processes. Imported as ``taskstream_worker``."""
