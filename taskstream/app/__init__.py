"""What an app's author imports: tasks (``core``, ``task``, ``result``) and the event apps' API."""
