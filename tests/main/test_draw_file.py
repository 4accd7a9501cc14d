"""Many prompts into one folder, again and again: no picture under words that it does not show."""

import json

import numpy as np
import pytest
from PIL import Image

from unijax.core import exit_codes
from unijax.core.errors import UserError
from unijax.core.making import InPlace
from unijax.main.cli import main
from unijax.main.draw_file import LIST, draw_file
from unijax.sample.logits import Sampling
from unijax.sample.sampler import Sampler

CHECKPOINT = {"run": "ab12", "step": 4}
LINES = ["a photo of a small red fox sitting in the green grass", "狐", "a house", "a house"]
HOW = {"n": 2, "guidance": None, "sampling": Sampling(), "seed": 0, "steps": None}


class Drawn(Sampler):
    """Draws what it is told with as one colour: another picture for whatever differs."""

    batch = 4
    maker = InPlace("gen", 1, (1, 1, 1), "", "", "", "", "", "", "", steps=10, guidance=5.0)

    def __init__(self, plain):
        self.plain = plain

    def made(self, prompts, n, guidance, sampling, seed, steps, first):
        told = [(prompt, at, guidance, sampling, seed, steps) for prompt, at in zip(prompts, first)]
        return np.array([[abs(hash((one, j))) % 251 for j in range(n)] for one in told], np.uint8)

    def show(self, made):
        return np.broadcast_to(made[..., None, None, None], (*made.shape, 2, 2, 3))


def drawn(out, prompts=tuple(LINES), checkpoint=CHECKPOINT, share=(0, 1), plain=False, **how):
    out.mkdir(exist_ok=True)
    return draw_file(Drawn(plain), checkpoint, list(prompts), out, *(HOW | how).values(), share)


def contents(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, "found pictures drawn with seed 0; expected seed 5, as is asked for now"),
        ({"guidance": 1.0}, "drawn with guidance 5.0; expected guidance 1.0"),
        ({"steps": 3}, "drawn with steps 10; expected steps 3"),
        ({"n": 1}, "drawn with pictures 2; expected pictures 1"),
        ({"plain": True}, "drawn with plain False; expected plain True"),
        ({"sampling": Sampling(0.5, top_k=3)}, "drawn with temperature 1.0, top_k 0; expected"),
        ({"checkpoint": {"run": "ab12", "step": 8}}, "drawn with step 4; expected step 8"),
        ({"checkpoint": {"run": "cd34", "step": 4}}, "drawn with run ab12; expected run cd34"),
        ({"prompts": [LINES[0].replace("grass", "snow"), *LINES[1:]]}, "another prompt 1, "),
        ({"prompts": [LINES[0], "犬", *LINES[2:]]}, "another prompt 2, '狐'; expected '犬'"),
        ({"prompts": LINES[:2]}, "pictures of 4 prompts; expected of 2"),
        ({"prompts": [*LINES, "a cat"]}, "pictures of 4 prompts; expected of 5"),
    ],
)
@pytest.mark.parametrize("share", [(0, 1), (1, 2)])
def test_pictures_relabelled_where_what_they_hang_on_has_changed(tmp_path, change, message, share):
    assert drawn(tmp_path / "out") == 8
    before = contents(tmp_path / "out")
    with pytest.raises(UserError) as error:
        drawn(tmp_path / "out", share=share, **change)
    assert message in str(error.value)
    assert contents(tmp_path / "out") == before


def test_shares_in_any_order_and_again_are_one_drawing(tmp_path):
    assert drawn(tmp_path / "whole") == 8
    assert drawn(tmp_path / "parts", share=(1, 2)) == 4
    lines = (tmp_path / "parts" / LIST).read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == LINES, "whoever is first lists all"
    assert drawn(tmp_path / "parts", share=(0, 2)) == 4
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    (tmp_path / "parts" / "001-1.png").unlink()
    # What the system takes by itself is the same when it is said.
    assert drawn(tmp_path / "parts", guidance=5.0, steps=10) == 2
    assert drawn(tmp_path / "parts") == 0


def test_pictures_of_nobody_knows_what(tmp_path):
    """Of `sample --prompt`, or of a list of before: no words may be put to them."""
    drawn(tmp_path / "out")
    old = [{"prompt": p, "files": [f"{i}.png"]} for i, p in enumerate(LINES)]
    for content in ("\n".join(map(json.dumps, old)), "", "{", "[1]\n"):
        (tmp_path / "out" / LIST).write_text(content)
        with pytest.raises(UserError, match="does not say how its pictures were drawn"):
            drawn(tmp_path / "out")
    (tmp_path / "out" / LIST).unlink()
    with pytest.raises(UserError, match=r"found 000-a-photo.*-0.png, and no prompts.jsonl"):
        drawn(tmp_path / "out")


def test_one_prompt_drawn_over_those_of_a_list(whole, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a fox\n")
    out = tmp_path / "out"
    words = ["sample", str(whole[0]), "-n", "1", "--out", str(out)]
    assert main([*words, "--prompts", str(tmp_path / "prompts.txt")]) == 0
    before = contents(out)
    assert f"listed in {out}/{LIST}" in capsys.readouterr().out
    assert main([*words, "--prompt", "a fox", "--seed", "1"]) == exit_codes.MISTAKE
    assert "pictures that its prompts.jsonl tells of" in capsys.readouterr().err
    assert contents(out) == before
    Image.open(out / "000-a-fox-0.png").verify()
