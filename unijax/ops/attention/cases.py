"""Rows that the models of this project attend over: the table that tests, compile-check and bench
share."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """One shape of attention and its mask.

    Attributes:
      tokens: queries of a row; keys too, except that `cached` keys more stand before the queries.
      mean: tokens of a document on average; None: all positions see all.
      image: tokens of each image; 0: text only.
      whole: images see themselves whole.
    """

    tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    mean: int | None = None
    image: int = 0
    whole: bool = False
    cached: int = 0
    rows: int = 1

    @property
    def keys(self) -> int:
        return self.cached + self.tokens

    def small(self, tokens: int) -> "Case":
        """One row of the same with at most so many tokens, lengths in proportion, and few heads."""
        by = min(1.0, tokens / self.tokens)
        group = self.heads // self.kv_heads
        return dataclasses.replace(
            self,
            rows=1,
            tokens=min(self.tokens, tokens),
            heads=group if group > 1 else 2,
            kv_heads=1 if group > 1 else 2,
            mean=self.mean and max(2, round(self.mean * by)),
            image=self.image and max(2, round(self.image * by)),
            cached=round(self.cached * by),
        )


CASES = {
    "Janus 1B": Case(4096, 16, 16, 128, mean=716, image=576),
    "Janus 1B, long rows": Case(8192, 16, 16, 128, mean=716, image=576),
    "Janus 7B": Case(4096, 32, 32, 128, mean=716, image=576),
    "Janus 7B, long rows": Case(8192, 32, 32, 128, mean=716, image=576),
    "whole images": Case(4096, 16, 16, 128, mean=716, image=256, whole=True),
    "grouped heads": Case(4096, 32, 8, 128, mean=716, image=576),
    "Chameleon 34B": Case(4096, 64, 8, 128, mean=1164, image=1024),
    "Qwen2.5 7B": Case(4096, 28, 4, 128, mean=716, image=256),
    "Qwen2 0.5B": Case(4096, 14, 2, 64, mean=716, image=256),
    "Transfusion 0.16B": Case(4096, 12, 12, 64, mean=716, image=256, whole=True),
    "demo decoder": Case(512, 6, 6, 32, mean=75, image=64),
    "micro decoder": Case(512, 4, 4, 16, mean=75, image=64),
    "plain causal": Case(4096, 16, 16, 128, mean=4096),
    "image on a cached prefix": Case(576, 16, 16, 128, cached=1024),
    "SigLIP-L at 384": Case(576, 16, 16, 64, rows=4),
    "SigLIP-L at 384, packed": Case(2304, 16, 16, 64, mean=576, image=576, whole=True),
    "SigLIP-So400m at 384": Case(729, 16, 16, 72, rows=4),
    "demo tower": Case(64, 4, 4, 32, rows=16),
    "EVA-01 g at 224": Case(257, 16, 16, 88, rows=4),
    "EVA-CLIP E at 224": Case(257, 16, 16, 112, rows=4),
    "U-Net of SD 1.5, finest level": Case(4096, 8, 8, 40),
    "U-Net of SD 1.5, next level": Case(1024, 8, 8, 80, rows=4),
}


def case_intervals(case: Case, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """`kv_start, kv_end`, int32 `[rows, tokens]`: documents of an image after a text, or before it.

    Lengths of texts vary by a half around what `mean` leaves for them; the last document that does
    not fit is left out, and what is left of the row is padding.
    """
    rng = np.random.default_rng(seed)
    here = np.arange(case.tokens, dtype=np.int32)
    start, end = np.zeros((2, case.rows, case.tokens), np.int32)
    for row_start, row_end in zip(start, end):
        if case.mean is None or case.mean >= case.tokens:
            row_end[:] = case.keys if case.mean is None else case.cached + here + 1
            continue
        at = 0
        while True:
            text = case.mean - case.image
            text = int(rng.integers(text // 2, text * 3 // 2 + 1)) if text else 0
            size = text + case.image
            if at + size > case.tokens:
                break
            span = slice(at, at + size)
            row_start[span], row_end[span] = at, here[span] + 1
            if case.whole and case.image:
                first = at + (text if rng.integers(2) else 0)
                row_end[first : first + case.image] = first + case.image
            at += size
        row_start[at:] = row_end[at:] = at
    return start, end
