"""The steps of a prediction, for one process or several, edges in chunks.

:mod:`deeph_gformer.pipeline` calls them.
"""
