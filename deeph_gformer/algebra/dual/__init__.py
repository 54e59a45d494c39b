"""Forward-mode differentiation along several directions at once."""

from . import rules as rules  # fills the table of rules
from .number import Dual, derivatives_along

__all__ = ["Dual", "derivatives_along"]
