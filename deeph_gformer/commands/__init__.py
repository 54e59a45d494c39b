"""The sub-commands, one module per area.

Each module has ``VERBS``, a tuple of :class:`~.options.Verb`: name, options, and the function that
is called with them. It imports what is heavy itself and returns the exit code (None is 0). A
:class:`~deeph_gformer.errors.GFormerError` that leaves it becomes one line on standard error and
exit code 2 (see :mod:`deeph_gformer.cli`).
"""
