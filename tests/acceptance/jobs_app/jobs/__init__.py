"""An event app that does as it is told, for tests: work that takes time, fails, or never ends."""
