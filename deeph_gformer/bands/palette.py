"""The colours of all figures: what a Hamiltonian is has one colour, whoever draws it.

Roles are told from labels. The colours are those of Okabe and Ito, which people with colour
blindness can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..errors import ConfigError, printable

__all__ = ["COLOURS", "FURTHER", "STYLES", "Style", "colours_of", "drawable", "role_of"]

Style = Literal["line", "dashed", "dots"]

#: Of each role, and of nothing else in a figure.
COLOURS = {"DFT": "#1a1a1a", "stage 1": "#d55e00", "refined": "#0072b2"}
#: How each role's bands are drawn.
STYLES: dict[str, Style] = {"DFT": "line", "stage 1": "dashed", "refined": "dots"}
#: Of everything else, in this order: projections, directions, a second Hamiltonian of a role.
FURTHER = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#7a7a7a")


def drawable(text: str) -> str:
    """A title or label that Matplotlib can draw: its own formulae (``MoS$_2$``) as they are, what
    is none of them, e.g. the name of a folder, letter by letter.
    """
    from matplotlib.mathtext import MathTextParser

    text = printable(text)
    if "$" not in text:
        return text
    try:
        MathTextParser("path").parse(text)
    except (ValueError, RecursionError):
        return text.replace("$", r"\$")
    return text


def role_of(label: str) -> str | None:
    """The role that a label ends with: ``refined``, or ``0030 refined``; None where it is another.

    A prediction of which nothing else is known counts as one of stage 1.
    """
    if label.endswith("prediction"):
        return "stage 1"
    return next((role for role in COLOURS if label.endswith(role)), None)


def colours_of(labels: Sequence[str], styles: Sequence[Style] = ()) -> list[str]:
    """One colour for each Hamiltonian of a figure: that of its role, once; then further ones.

    Args:
        labels: of the Hamiltonians.
        styles: how they are drawn; the role of a label that does not tell one.

    Raises:
        ConfigError: an unknown style.
    """
    by_style = {style: role for role, style in STYLES.items()}
    for style in styles:
        if style not in by_style:
            raise ConfigError(f"style '{style}' is unknown; there are {', '.join(by_style)}")
    roles = [role_of(label) for label in labels]
    free = [role for role in COLOURS if role not in roles]
    colours, rest, used = [], list(FURTHER), set()
    for number, role in enumerate(roles):
        if role is None:
            wanted = by_style[styles[number]] if styles else (free or [""])[0]
            role = wanted if wanted in free else None
        if role is None or role in used:
            colours.append(rest[0])
            rest = [*rest[1:], rest[0]]
            continue
        used.add(role)
        free = [one for one in free if one != role]
        colours.append(COLOURS[role])
    return colours
