"""Pure mathematics: Wigner symbols of every e3nn generation, orbital orders, direct sum <-> direct
product, rotations."""
