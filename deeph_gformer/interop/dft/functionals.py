"""Names of exchange and correlation, as DFT codes and libxc write them."""

from __future__ import annotations

import re

__all__ = ["is_functional"]

#: What says a family only, or belongs to a longer name.
_FAMILIES = frozenset("lda lsda gga mgga hybrid hyb xc vdw".split())
_NAMES = frozenset(
    # LDA: Ceperley-Alder, Perdew-Zunger, Perdew-Wang, Vosko-Wilk-Nusair, Slater
    "ca pz pw pw92 pwlda vwn vwn3 vwn5 svwn svwn5 sla slater wigner lda lsda "
    # GGA; PBX, PBC and the like are parts of them in Quantum ESPRESSO's files
    "pbe pbesol pbes revpbe rpbe xpbe pbeint pbejsjrlo pbejshf pbegxgrpbe psx psc pbx pbc "
    "pw91 p86 bp bp86 blyp b88 b86 b86b lyp olyp optx wc am05 hcth htbs sogga "
    "ggx ggc rpb rvp "
    # meta-GGA and hybrids
    "tpss tpssloc revtpss scan rscan r2scan r2scanl mbj tb09 m06 m06l m06hx m11l l "
    "pbe0 pbesol0 hse hse03 hse06 b3lyp b1lyp bhlyp x3lyp camb3lyp lc wpbe wpbeh lcwpbe "
    "hf exx m062x m08hx m08so m11 "
    # van der Waals
    "df1 df2 df vdwdf vdwdf2 drsll lmkll kbm c09 bh vv vv10 optb88 optb86b rvv10 beef".split()
)
_LIBXC = re.compile(r"(xc_)?(hyb_)?(lda|gga|mgga)_(x|c|xc|k)_\w+|libxc\w*", re.IGNORECASE)


def is_functional(text: str) -> bool:
    """Whether every word of a name is known, and one of them names more than a family.

    Args:
        text: e.g. ``PBE``, ``GGA-PBE``, ``lda,vwn``, ``SLA PW PBX PBC``, ``hse06 0.11`` or
            ``XC_GGA_X_PBE+XC_GGA_C_PBE``.
    """
    words = [word for word in re.split(r"[\s,;:+*/()\-]+", text) if word]
    named = [word for word in words if not re.fullmatch(r"[\d.]+(e\d+)?", word)]
    known = [bool(_LIBXC.fullmatch(w)) or w.lower() in _NAMES | _FAMILIES for w in named]
    more = [w for w in named if w.lower() not in _FAMILIES - {"lda", "lsda"}]
    return bool(more) and all(known)
