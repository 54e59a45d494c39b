"""Our own DeepH-E3 engine: the same parameters and numbers as the official network, several times
faster (see network.py)."""
