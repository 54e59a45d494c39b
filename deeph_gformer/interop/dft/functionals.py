"""Names of exchange and correlation, as DFT codes and libxc write them."""

from __future__ import annotations

import re

__all__ = ["is_functional"]

#: What says a family only, or belongs to a longer name.
_FAMILIES = frozenset(
    "lda lsda gga mgga hybrid hyb xc vdw dfauto lc lrc cam camy rsh u cx gauss rpa l so hx 2x "
    "d d2 d3 d3bj d3zero d4 v 3c".split()
)
_NAMES = frozenset(
    # LDA: Ceperley-Alder, Perdew-Zunger, Perdew-Wang, Vosko-Wilk-Nusair, Slater
    "ca pz pw pw92 pwlda vwn vwn3 vwn5 svwn svwn5 sla slater wigner lda lsda "
    # GGA; PBX, PBC and the like are parts of them in Quantum ESPRESSO's files
    "pbe pbesol pbes revpbe rpbe xpbe pbeint pbejsjrlo pbejsjrheg pbegcgxlo pbegcgxheg "
    "jsjrlo jsjrheg gcgxlo gcgxheg slapwpbxpbc psx psc pbx pbc "
    "pw86 pw91 p86 bp bp86 blyp b88 b86 b86b b86bpbe lyp olyp optx wc am05 hcth htbs sogga b97 "
    "ggx ggc rpb rvp "
    # meta-GGA
    "tpss otpss tpssloc revtpss scan rscan r2scan r2scanl mbj tb09 gllbsc gllbscm "
    "m06 m06l m11 m11l mn12 mn12l mn15 mn15l b97m "
    # hybrids, also with a range
    "pbe0 pbesol0 revpbe0 scan0 tpss0 tpssh hse hse03 hse06 b3lyp b3lypg b3lyp5 b3p86 b3pw91 b1lyp "
    "o3lyp x3lyp bhlyp bhandhlyp camb3lyp wpbe wpbeh lcwpbe pbeh wb97 wb97x wb97m pw6b95 xyg3 "
    "hf exx m062x m06hx m08 m08hx m08so muller power wp22 cwp22 "
    # van der Waals
    "df1 df2 df vdwdf vdwdf2 drsll lmkll kbm c09 bh vv vv10 optpbe optb88 optb86b rvv10 "
    "beef mbeef".split()
)
_LIBXC = re.compile(r"(xc_)?(hyb_)?(lda|gga|mgga)_(x|c|xc|k)(_\w+)?|libxc\w*", re.IGNORECASE)


def is_functional(text: str) -> bool:
    """Whether every word of a name is known, and one of them names more than a family.

    Args:
        text: e.g. ``PBE``, ``GGA-PBE``, ``lda,vwn``, ``SLA PW PBX PBC``, ``hse06 0.11`` or
            ``XC_GGA_X_PBE+XC_GGA_C_PBE``.
    """
    words = [word for word in re.split(r"[\s,;:+*/()\-]+", text) if word]
    parts = [[w] if _LIBXC.fullmatch(w) else w.lower().split("_") for w in words]
    named = [w for part in parts for w in part if not re.fullmatch(r"[\d.]+(e\d+)?", w)]
    known = [bool(_LIBXC.fullmatch(w)) or w in _NAMES | _FAMILIES for w in named]
    more = [w for w in named if w not in _FAMILIES - {"lda", "lsda"}]
    return bool(more) and all(known)
