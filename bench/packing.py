"""What packing wastes on documents of the sizes that Janus trains on.

    python bench/packing.py

Questions about images of 576 tokens, texts, and prompts with an image to draw, mixed by `ratio`, in
rows of 4096 tokens. Prints the share of padding in the closed rows.
"""

import numpy as np

from unijax.data.document import Size
from unijax.data.pack import Packer

ROW = Size(4096, (7, 7))  # and slots of images to understand, to draw
RATIOS = ((2, 3, 5), (5, 1, 4))  # questions, texts, pictures to draw
OPEN_ROWS = (1, 32)


def janus_like(count: int, ratio: tuple[int, ...], seed: int = 0) -> list[Size]:
    """Sizes of questions about images, texts and prompts with images of 576 tokens."""
    rng = np.random.default_rng(seed)
    made = []
    for kind in rng.choice(3, count, p=np.array(ratio) / sum(ratio)):
        if kind == 0:
            images = 1 + int(rng.random() < 0.1)
            made.append(Size(1 + 578 * images + int(rng.integers(20, 300)), (images, 0)))
        elif kind == 1:
            length = int(np.clip(rng.lognormal(5.5, 1.0), 16, ROW.tokens))
            made.append(Size(length, (0, 0)))
        else:
            made.append(Size(1 + 578 + int(rng.integers(8, 120)), (0, 1)))
    return made


def waste(ratio: tuple[int, ...], open_rows: int, count: int = 6000) -> tuple[float, int]:
    """The share of padding, and the number of rows that it is of."""
    packer = Packer(ROW, open_rows)
    closed = [row for size in janus_like(count, ratio) for row in packer.add(size, size)]
    used = sum(size.tokens for row in closed for size in row)
    return 1 - used / (ROW.tokens * len(closed)), len(closed)


if __name__ == "__main__":
    for ratio in RATIOS:
        for open_rows in OPEN_ROWS:
            share, rows = waste(ratio, open_rows)
            mix = ":".join(map(str, ratio))
            print(f"mix {mix}, {open_rows:2} open rows: {share:.1%} padding of {rows} rows")
