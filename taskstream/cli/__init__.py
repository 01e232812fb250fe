"""The command line: click commands, one module per family, loaded when they are called."""
