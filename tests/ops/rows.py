"""Random packed rows, drawn by hypothesis."""

import numpy as np
from hypothesis import strategies as st

from unijax.core.batch import Kind


@st.composite
def packed_rows(draw, rows, length, longest_span=7):
    """`segment, kind, image` `[rows, length]`: documents of spans, then padding."""
    segment, kind, image = (np.zeros((rows, length), np.int32) for _ in range(3))
    for row in range(rows):
        at = document = pictures = 0
        while at < length and draw(st.integers(0, 5)):
            document += 1
            for _ in range(draw(st.integers(1, 4))):
                size = min(draw(st.integers(1, longest_span)), length - at)
                here = slice(at, at + size)
                what = draw(st.sampled_from([Kind.TEXT, Kind.UND, Kind.GEN]))
                segment[row, here], kind[row, here] = document, what
                if what != Kind.TEXT and size:
                    pictures += 1
                    image[row, here] = pictures
                at += size
    return segment, kind, image
