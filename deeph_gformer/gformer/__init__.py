"""GFormer, the non-linear 3D graph Transformer of stage 2: one file per equation of the paper.

==============  ================================================
embedding.py    initial node and edge features
invariants.py   Eq. 3, the SO(3)-invariant node feature
block.py        Eq. 2 and 6, one encoder group
attention.py    Eq. 4 and 5, multi-head attention
model.py        Eq. 7, the correction in the direct-sum state
gated.py        our exactly equivariant head (``arch: equivariant``)
==============  ================================================
"""
