"""Whether an answer is the exact name."""

import re
import unicodedata


def normalise(text: str) -> str:
    """Compatibility forms and cases folded, all but letters and digits to spaces, spaces to one."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[\W_]+", " ", folded).split())


def same_name(answer: str, name: str) -> bool:
    """Exact, but for case, punctuation and spaces. Nothing is no name."""
    return bool(normalise(answer)) and normalise(answer) == normalise(name)
