"""On-site levels from a linear electrostatic model: what networks of few structures miss.

An atom's levels follow the electrostatic potential of all others, which does not decay in layers
whose cells move alike. Two networks that look at neighbours learn it by heart; a linear function
of the potentials of bond dipoles has few parameters and is better on structures that nobody saw.

* :mod:`.waves`: potentials of dipoles (Ewald; slabs, chains and molecules without images);
* :mod:`.features`: what an atom's levels are a linear function of;
* :mod:`.levels`: levels of H, the model, and H with other levels;
* :mod:`.reach`: how far a structure is from those of the fit;
* :mod:`.fit`: the model of a training set, in closed form.
"""

from .features import Radial, Surroundings, onsite_features
from .fit import Fit, Known, fit_levels, with_share
from .levels import LevelModel, shell_levels, with_levels

__all__ = [
    "Fit",
    "Known",
    "LevelModel",
    "Radial",
    "Surroundings",
    "fit_levels",
    "onsite_features",
    "shell_levels",
    "with_levels",
    "with_share",
]
