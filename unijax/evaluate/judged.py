"""What was drawn and answered, beside the truth, for people to look at."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A prompt and what was drawn for it. Pictures are uint8 [H, W, 3].

    Attributes:
      real: the picture that the prompt names.
      note: what it is instead, where it is not right.
    """

    prompt: str
    drawn: np.ndarray
    real: np.ndarray
    right: bool
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Answered:
    """A question about a picture, the answer given and the true one; `right` None: not scored."""

    picture: np.ndarray | None
    question: str
    answer: str
    truth: str
    right: bool | None
