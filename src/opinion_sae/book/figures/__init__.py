"""Every figure of the book, in one style; each function returns a matplotlib Figure.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; each series also has a marker or line style of
its own, so that the figures read in black and white. A chapter imports the module whose figures it shows, and is run
again only if that changes.
"""

from opinion_sae.book.figures import style  # noqa: F401  (what it sets holds for all figures)
