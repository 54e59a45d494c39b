"""``deeph-gformer report``: one HTML file that tells how good a model is, and why one may think
so."""
