"""Structures to graphs and back; torch lives here and above."""
