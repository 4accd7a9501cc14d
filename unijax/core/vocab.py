"""Special token ids as data: read from a tokenizer, never written as literals."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """Ids of the tokens that rendering and sampling need.

    Attributes:
      bos: first token of every document.
      eos: ends an assistant turn and a text document.
      pad: stands for every token of the condition in the unconditional stream. It is an ordinary,
        attended input: padding of rows is `Kind.PAD`, not this id.
      boi: begin of image.
      eoi: end of image.
      image_placeholder: the text id that stands where an understood image goes, in formats that
        need one (exported processors); packed rows address the image instead.
    """

    bos: int
    eos: int
    pad: int
    boi: int
    eoi: int
    image_placeholder: int
