"""Special token ids as data: read from a tokenizer, never written as literals."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """Ids of the tokens that rendering and sampling need; None for those that there are not.

    Which ones a system needs its layout says (`core.stream.Layout.special`).

    Attributes:
      eos: ends an assistant turn and a text document.
      bos: first token of every document.
      pad: stands for every token of the condition in the unconditional stream. It is an ordinary,
        attended input: padding of rows is `Kind.PAD`, not this id.
      boi: begin of image.
      eoi: end of image.
      image_placeholder: the text id that stands where an understood image goes, in formats that
        need one (exported processors); packed rows address the image instead.
      vision_start, vision_end: beside an image that is read, where that has marks of its own.
    """

    eos: int
    bos: int | None = None
    pad: int | None = None
    boi: int | None = None
    eoi: int | None = None
    image_placeholder: int | None = None
    vision_start: int | None = None
    vision_end: int | None = None
