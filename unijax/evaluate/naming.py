"""Whether an answer is the exact name."""

import re


def normalise(text: str) -> str:
    """Lower case, punctuation to spaces, runs of spaces to one."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


def same_name(answer: str, name: str) -> bool:
    """Exact, but for case, punctuation and spaces."""
    return normalise(answer) == normalise(name)
