"""Fermi levels and the gauge in info.json: a level is that of one Hamiltonian."""

from __future__ import annotations

import pytest

from deeph_gformer.errors import ConfigError
from deeph_gformer.io.gauge import predicted_info, require_level, stated_level

DFT = {"isspinful": False, "fermi_level": 0.78}


def test_dft_level_is_not_the_predictions() -> None:
    assert stated_level(DFT, "hamiltonian") == (0.78, "raw", "")
    level, gauge, why = stated_level(DFT, "prediction")
    assert level is None and gauge == "unknown" and "DFT" in why
    with pytest.raises(ConfigError, match=r"f\.h5: info\.json states no Fermi level of this"):
        require_level(DFT, "prediction", "f.h5")


def test_old_outputs_with_a_copied_level_are_refused() -> None:
    """What refine wrote before: DFT's level beside a prediction in another gauge."""
    info = {**DFT, "deeph_gformer": {"version": "0.1.0", "gauge": "standard"}}
    assert stated_level(info, "prediction")[:2] == (None, "standard")
    assert stated_level(info, "hamiltonian").energy_eV == 0.78


@pytest.mark.parametrize("name", ["fermi_level", "fermi_energy_eV"])
def test_folder_of_a_prediction(name: str) -> None:
    old = {name: 0.78}
    info = predicted_info(old, name, "standard", 6.23, "counted", beside_dft=False)
    assert info[name] == 6.23 and info["gauge"] == "standard"
    assert stated_level(info, "prediction") == (6.23, "standard", "")
    assert stated_level(info, "hamiltonian").energy_eV is None  # a copied DFT file is not its
    unknown = predicted_info(info, name, "standard", None, "no S", beside_dft=False)
    assert unknown.get(name) is None and (name in unknown) == (name != "fermi_level")
    assert stated_level(unknown, "prediction") == (None, "standard", "no S")


def test_folder_of_both() -> None:
    info = predicted_info(DFT, "fermi_level", "standard", 6.23, "counted", beside_dft=True)
    assert stated_level(info, "hamiltonian") == (0.78, "raw", "")
    assert stated_level(info, "prediction") == (6.23, "standard", "")
    assert "gauge" not in info  # of DFT's H: that of the code


def test_users_own_level_is_kept_by_name() -> None:
    info = predicted_info(DFT, "fermi_level", "raw", None, "no S", beside_dft=False, in_place=True)
    assert info["deeph_gformer"]["dft_fermi_level"] == 0.78 and "fermi_level" not in info


@pytest.mark.parametrize("value", [True, "0.3", float("nan"), None])
def test_level_that_is_no_number(value: object) -> None:
    assert stated_level({"fermi_level": value}, "hamiltonian").energy_eV is None
