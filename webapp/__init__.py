"""The Flask app: events, tasks, control and state over HTTP. Imported as ``taskstream_webapp``."""
