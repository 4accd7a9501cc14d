"""`unijax sample --prompts FILE`: thousands of prompts, in shares, resumable."""

import json
import pathlib
import re
from collections import Counter

from tqdm import tqdm

from unijax.core import storage
from unijax.core.errors import UserError
from unijax.core.files import read_plain
from unijax.sample.logits import Sampling
from unijax.sample.pictures import file_name, png
from unijax.sample.sampler import Sampler


def read_prompts(path: pathlib.Path) -> list[str]:
    """One prompt a line; in a `.jsonl` file the `prompt` of each object. Empty lines are skipped.

    Raises:
      UserError: for a file that cannot be read, a line that is no such object, or no prompt.
    """
    try:
        text = read_plain(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        expected = "a text file in UTF-8, one prompt a line"
        raise UserError(str(path), f"{e}", expected, "Correct --prompts.") from None
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        found.append(line.strip() if path.suffix != ".jsonl" else _prompt(path, number, line))
    if not found:
        raise UserError(str(path), "no prompt", "one a line", "Add one.")
    return found


def _prompt(path: pathlib.Path, number: int, line: str) -> str:
    try:
        value = json.loads(line)["prompt"]
    except (ValueError, TypeError, KeyError, RecursionError):
        value = None
    if not isinstance(value, str) or not value.strip():
        raise UserError(
            f"{path}:{number}",
            line[:80],
            'an object such as {"prompt": "a red fox"}',
            "Correct it.",
        )
    return value.strip()


def share_of(text: str) -> tuple[int, int]:
    """(index, count) of `INDEX/COUNT`.

    Raises:
      UserError: if it is none.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        expected = "INDEX/COUNT, as 0/8 to 7/8"
        raise UserError("--share", repr(text), expected, "Correct it.")
    return int(match[1]), int(match[2])


def draw_file(
    sampler: Sampler,
    prompts: list[str],
    out: str | pathlib.Path,
    n: int,
    guidance: float | None,
    sampling: Sampling,
    seed: int,
    steps: int | None,
    share: tuple[int, int] = (0, 1),
) -> int:
    """Draws n pictures of every prompt of a share into a folder or below an address.

    What is there stays.

    A picture hangs on the seed, the prompt and how often that prompt stood in the file before,
    whatever the shares are. `prompts.jsonl` says which files show what.

    Returns:
      How many pictures were drawn now.
    """
    occurrences: Counter[str] = Counter()
    first = []  # the number of a line's first picture among those of equal prompts
    for prompt in prompts:
        first.append(occurrences[prompt] * n)
        occurrences[prompt] += 1
    names = [[file_name(i, prompt, j) for j in range(n)] for i, prompt in enumerate(prompts)]
    index, count = share
    if index == 0:
        lines = [json.dumps({"prompt": p, "files": f}) for p, f in zip(prompts, names)]
        storage.write_in(out, "prompts.jsonl", ("\n".join(lines) + "\n").encode())
    mine = range(index, len(prompts), count)
    there = storage.names_in(out)
    left = [i for i in mine if not there.issuperset(names[i])]
    some = max(1, sampler.batch // n)
    with tqdm(total=len(mine), initial=len(mine) - len(left), desc="prompts", unit="prompt") as bar:
        for at in range(0, len(left), some):
            part = left[at : at + some]
            made = sampler.made(
                [prompts[i] for i in part], n, guidance, sampling, seed, steps,
                [first[i] for i in part],
            )  # fmt: skip
            for i, pictures in zip(part, sampler.show(made)):
                for name, pixels in zip(names[i], pictures):
                    storage.write_in(out, name, png(pixels))
            bar.update(len(part))
    return len(left) * n
