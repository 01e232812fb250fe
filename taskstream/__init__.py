"""Taskstream: a task queue and event apps on Redis streams."""
