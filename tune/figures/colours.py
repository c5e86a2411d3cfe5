"""The colours of all figures, which colour-blind readers can tell apart. This module does not load matplotlib."""

from __future__ import annotations

# Okabe and Ito's palette.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#000000",
)
GREY, LIGHT = "#777777", "#EEEEEE"
# Paul Tol's "muted" scheme: one colour for each class that is drawn.
CLASSES = (
    "#332288",
    "#88CCEE",
    "#117733",
    "#DDCC77",
    "#CC6677",
    "#AA4499",
    "#44AA99",
    "#999933",
    "#882255",
    "#777777",
)
