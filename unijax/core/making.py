"""How a recipe makes an image, as plain data: functions are methods of the recipe, by name.

`sample/` has one program for each kind of maker. Guidance works several prompts for one picture:
the one that was asked for first, then what stands for no condition; `guided` says how many.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Codes:
    """One code after another, each the input of the next; then the pixels of all.

    Attributes:
      role: of its stream.
      tokens: N.
      logits: (params, hidden [B, D]) -> [B, K].
      embed: (params, codes [B]) -> [B, D].
      read: (params, pixels in -1..1 [B, height, width, 3]) -> codes [B, N].
      show: (params, codes [B, N]) -> pixels in -1..1.
      tokenizer: group of the parameters that `read` and `show` use.
      guidance: scale that is taken where none is asked for; 1 is without.
    """

    role: str
    tokens: int
    logits: str
    embed: str
    read: str
    show: str
    tokenizer: str
    guidance: float = 5.0


Maker = Codes
