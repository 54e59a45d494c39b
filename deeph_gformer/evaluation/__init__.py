"""Errors, equivariance, tables and plots."""
