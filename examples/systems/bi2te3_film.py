"""Two quintuple layers of Bi2Te3, cut from the ideal crystal, into film.vasp."""

from ase.spacegroup import crystal

bulk = crystal(
    ["Te", "Te", "Bi"],
    [(0, 0, 0), (0, 0, 0.2095), (0, 0, 0.4001)],
    spacegroup=166,
    cellpar=[4.386, 4.386, 30.497, 90, 90, 120],
)
bulk.positions[:, 2] += 5.0  # a whole quintuple layer first
bulk.wrap()
film = bulk[bulk.positions[:, 2].argsort()[:10]]
film.center(vacuum=7.5, axis=2)
film.write("film.vasp")
