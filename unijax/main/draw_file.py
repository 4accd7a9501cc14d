"""`unijax sample --prompts FILE`: thousands of prompts, in shares, resumable."""

import dataclasses
import json
import pathlib
import re
from collections import Counter
from typing import Any

from tqdm import tqdm

from unijax.core import storage
from unijax.core.errors import UserError
from unijax.core.files import read_plain
from unijax.core.making import steps_of
from unijax.sample.logits import Sampling
from unijax.sample.pictures import file_name, png
from unijax.sample.sampler import Sampler
from unijax.train.checkpoint import digest_of, read_run

LIST = "prompts.jsonl"  # beside the pictures: what each shows, and all that it hangs on


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


def drawn_from(run_dir: str | pathlib.Path) -> dict[str, Any]:
    """Which checkpoint of which run it is, wherever a copy of it lies."""
    run = read_run(run_dir)
    return {"run": digest_of(run)[:16], "step": run["step"]}


def draw_file(
    sampler: Sampler,
    checkpoint: dict[str, Any],
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

    What is there stays. A picture hangs on the seed, the prompt and how often that prompt stood in
    the file before, whatever the shares are. `LIST` says which files show what, and how they are
    drawn; it is there before the first of them.

    Args:
      checkpoint: as of `drawn_from`.

    Returns:
      How many pictures were drawn now.

    Raises:
      UserError: pictures are there that were drawn otherwise, or as nobody knows.
    """
    occurrences: Counter[str] = Counter()
    first = []  # the number of a line's first picture among those of equal prompts
    for prompt in prompts:
        first.append(occurrences[prompt] * n)
        occurrences[prompt] += 1
    names = [[file_name(i, prompt, j) for j in range(n)] for i, prompt in enumerate(prompts)]
    index, count = share
    maker = sampler.maker
    drawn = checkpoint | {
        "pictures": n,
        "guidance": maker.guidance if guidance is None else guidance,
        "steps": steps_of(maker) if steps is None else steps,
        **dataclasses.asdict(sampling),
        "seed": seed,
        "plain": sampler.plain,
    }
    there = storage.names_in(out)
    _bind(out, [{"prompt": p, "files": f, "drawn": drawn} for p, f in zip(prompts, names)], there)
    mine = range(index, len(prompts), count)
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


def _bind(out: str | pathlib.Path, wanted: list[dict], there: set[str]) -> None:
    """Writes the list, or sees to it that the one which is there is the same.

    All shares of a file write the same one, so that any may be the first.
    """
    content = storage.read_in(out, LIST)
    if content is None:
        strange = sorted(there.intersection(name for line in wanted for name in line["files"]))
        if strange:
            found = f"{strange[0]}, and no {LIST} that says how it was drawn"
            raise _otherwise(out, found, "no pictures of these names")
        text = "".join(json.dumps(line) + "\n" for line in wanted)
        storage.write_in(out, LIST, text.encode())
        return
    try:
        found = [json.loads(line) for line in content.decode().splitlines()]
        was = found[0]["drawn"]
        prompts = [line["prompt"] for line in found]
    except (ValueError, TypeError, LookupError):
        raise _otherwise(
            out, f"a {LIST} that does not say how its pictures were drawn", "one that does"
        ) from None
    now = wanted[0]["drawn"]
    if differ := [name for name in {**was, **now} if was.get(name) != now.get(name)]:
        told = [", ".join(f"{name} {of.get(name)}" for name in differ) for of in (was, now)]
        raise _otherwise(out, f"pictures drawn with {told[0]}", f"{told[1]}, as is asked for now")
    for number, (one, line) in enumerate(zip(prompts, wanted), start=1):
        if one != line["prompt"]:
            expected = f"{line['prompt']!r}, as is asked for now"
            raise _otherwise(out, f"pictures of another prompt {number}, {one!r}", expected)
    if found != wanted:
        expected = f"of {len(wanted)}, as is asked for now"
        raise _otherwise(out, f"pictures of {len(prompts)} prompts", expected)


def _otherwise(out: str | pathlib.Path, found: str, expected: str) -> UserError:
    return UserError(str(out), found, expected, "Choose another --out, or remove what is there.")
