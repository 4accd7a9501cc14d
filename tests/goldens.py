"""Golden text files: a change of meaning shows as a diff. UPDATE_GOLDEN=1 rewrites them."""

import difflib
import os
import pathlib

FOLDER = pathlib.Path(__file__).parent / "golden"


def check_golden(name: str, text: str) -> None:
    """Compares `text` with tests/golden/<name>."""
    path = FOLDER / name
    text = text.rstrip("\n") + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return
    assert path.exists(), f"no golden {name}: run with UPDATE_GOLDEN=1 and review it"
    old = path.read_text()
    if old != text:
        lines = difflib.unified_diff(old.splitlines(), text.splitlines(), "golden", "now", n=1)
        diff = "\n".join(list(lines)[:60])
        raise AssertionError(f"{name} changed; if meant, UPDATE_GOLDEN=1 and review:\n{diff}")
