"""Functionals as the manuals of DFT codes and of libxc name them."""

from __future__ import annotations

import pytest

from deeph_gformer.interop.dft.functionals import is_functional


@pytest.mark.parametrize(
    "name",
    ["CA", "PZ", "PW92", "PBE", "revPBE", "RPBE", "WC", "AM05", "PBEsol", "PBEJsJrLO", "BLYP"]
    + ["DRSLL", "LMKLL", "KBM", "C09", "BH", "VV"]  # SIESTA's XC.Authors
    + ["LDA", "LSDA-CA", "LSDA-PW", "GGA-PBE"]  # OpenMX's scf.XcType
    + ["pbe", "pw-lda", "pz-lda", "hse06 0.11", "pbe0", "b3lyp", "am05", "m06-l", "HF", "vwn5"]
    + ["SLA PW PBX PBC", "SCAN", "XC_GGA_X_PBE+XC_GGA_C_PBE", "HSE", "PBE/PBE"]  # ABACUS
    + ["PBE(JsJrLO)", "PBEGcGxHEG", "PW86"]  # SIESTA
    + ["LC_PBE", "LRC_WPBEH", "CAM_PBEH", "SCAN0", "SLAPWPBXPBC"]  # ABACUS
    + ["m06-2x", "m08-hx", "m08-so", "pw91_gga", "vwn-gauss", "b86bpbe", "dfauto scan"]  # FHI-aims
    + ["lc_wpbeh 0.11", "revpbe_vdw"]
    + ["optPBE-vdW", "vdW-DF-cx", "mBEEF-vdW", "oTPSS", "GLLBSC", "LDA_X", "PBE+U"]  # GPAW
    + ["wb97x_d", "wb97m_v", "wb97x-d3", "cam-b3lyp", "b3lypg", "tpssh", "mn15_l", "pbe-d3bj"]
    + ["rsh(0.33, 0.6, -0.4) + pbe", "lrc-wpbeh", "b97_d", "LDA,VWN_RPA"]  # PySCF
    + ["lda,vwn", ".2*hf + .08*slater + .72*b88, .81*lyp + .19*vwn", "revPBE", "vdW-DF2"],
)
def test_names_of_codes(name: str) -> None:
    assert is_functional(name)


@pytest.mark.parametrize(
    "name",
    ["PB", "P", "", " ", "GGA", "GGA-", "GGA-P", "PBE x", "PBF", "0.25", "PB\0", "BLY", "!"]
    + ["_", "PBE_", "PBE_x", "d3", "_vdw", "lc_"],
)
def test_what_is_left_of_a_name(name: str) -> None:
    assert not is_functional(name)
