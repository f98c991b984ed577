"""Random wrong use of layers, files and the command line; only documented errors may come of it."""
