"""The interface from Python: what the README and the notebook show is run."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import unijax
from tests.long import long
from tests.main.test_cli import TINY
from unijax.core.errors import UserError
from unijax.main import use
from unijax.main.cli import main

ROOT = pathlib.Path(__file__).parents[2]
PICTURE = np.full((16, 16, 3), 200, np.uint8)


@pytest.fixture(scope="module")
def run(whole):
    return unijax.load(whole[0])


def small(text: str) -> str:
    """The code of a document, of the smallest run: of it every step is a second."""
    text = text.replace('"janus_demo"', repr(TINY))
    return re.sub(r"stage.steps=\d+", "stage.steps=2", text)


def test_a_run_draws_and_answers_as_the_command_line_does(run, whole, tmp_path, capsys):
    drawn = run.draw("a red fox", n=2, seed=3)
    words = ["--prompt", "a red fox", "-n", "2", "--seed", "3", "--out", str(tmp_path)]
    assert main(["sample", str(whole[0]), *words]) == 0
    for i, pixels in enumerate(drawn):
        (path,) = tmp_path.glob(f"000-*-{i}.png")
        np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)
    Image.fromarray(PICTURE).save(tmp_path / "p.png")
    capsys.readouterr()
    asked = ["What?", "--image", str(tmp_path / "p.png"), "--max-tokens", "12"]
    assert main(["ask", str(whole[0]), *asked]) == 0
    said = capsys.readouterr().out
    assert run.ask("What?", [tmp_path / "p.png"], max_tokens=12) == said.removesuffix("\n")
    assert run.ask("What?", [PICTURE], max_tokens=12) == said.removesuffix("\n")


def test_a_stream_is_the_answer_piece_by_piece(run):
    turns = [{"role": "user", "content": "Tell me of it."}]
    for sampling in (unijax.api.GREEDY, unijax.api.Sampling(temperature=1.0)):
        (whole,) = run.sampler.answer([turns], 90, sampling, 5)
        pieces = list(run.sampler.stream(turns, 90, sampling, 5))
        assert "".join(pieces) == whole
        assert len(pieces) > 1


def test_every_turn_of_a_conversation_has_pictures(run):
    chat = run.chat()
    first = chat.ask("What?", [PICTURE], max_tokens=4)
    second = chat.ask("And here?", [PICTURE // 2, PICTURE], max_tokens=4)
    roles = [turn["role"] for turn in chat.turns]
    assert roles == ["user", "assistant", "user", "assistant"]
    assert [chat.turns[1]["content"], chat.turns[3]["content"]] == [first, second]
    shown = [p for p in chat.turns[2]["content"] if not isinstance(p, str)]
    assert len(shown) == 2


def talk(run, monkeypatch, typed: list[str]) -> list[list]:
    """Types lines until the end of input; the turns of every answer."""
    lines, seen, stream = iter(typed), [], run.sampler.stream

    def give(prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", give)
    monkeypatch.setattr(
        run.sampler, "stream", lambda turns, *a: seen.append(list(turns)) or stream(turns, *a)
    )
    use.converse(run.sampler, "", [], [], 4, unijax.api.GREEDY, 0)
    return seen


def test_turns_typed_at_the_terminal_show_pictures_and_begin_anew(
    run, tmp_path, capsys, monkeypatch
):
    path = tmp_path / "p.png"
    Image.fromarray(PICTURE).save(path)
    typed = [f"What is it in @{path}?", "@nowhere.png And?", "", use.NEW, "What?"]

    seen = talk(run, monkeypatch, typed)
    assert "@nowhere.png: found no such file" in capsys.readouterr().out
    assert [len(turns) for turns in seen] == [1, 1]
    assert any(isinstance(part, bytes) for part in seen[0][0]["content"])
    assert seen[1][0]["content"] == "What?"


@pytest.mark.parametrize(
    "text",
    [
        "see @{p}\nnow", "a\t@{p}", "(@{p})", "what is @{p}?", '@"{s}" what?', "@'{s}', what?",
        "[@{p}]",
    ],
)  # fmt: skip
def test_a_picture_in_a_question_is_known_however_it_is_written(tmp_path, text):
    """Behind a tab, in brackets, or with a space in its name it was a word."""
    for name in ("p.png", "my fox.png"):
        Image.fromarray(PICTURE).save(tmp_path / name)
    words, pictures = use._apart(text.format(p=tmp_path / "p.png", s=tmp_path / "my fox.png"))
    assert len(pictures) == 1
    assert "@" not in words


def test_words_with_an_at_are_words(tmp_path):
    for text in ("mail me@example.com", "@ 5 o'clock", "@someone said", "a@b.png"):
        assert use._apart(text) == (text, [])
    with pytest.raises(UserError, match=r"@nowhere\.png: found no such file"):
        use._apart("what is @nowhere.png")


def test_a_broken_picture_does_not_end_a_talk(run, tmp_path, capsys, monkeypatch):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    typed = [f"What? @{tmp_path / 'broken.png'}", "Still there?"]

    seen = talk(run, monkeypatch, typed)
    assert "error: " in capsys.readouterr().out
    assert [len(turns) for turns in seen] == [1, 1]


@pytest.mark.parametrize(
    "call",
    [
        lambda run: run.ask("q", images=[np.zeros((2, 16, 16, 3), np.uint8)]),
        lambda run: run.ask("q", images=[np.zeros((16, 16, 3))]),
        lambda run: run.export("o", dtype="int7"),
        lambda run: unijax.finetune(run.path, "mine", "d", skip_bad=5.0),
    ],
)
def test_mistakes_are_told_in_a_line(run, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        call(run)


def test_pictures_may_be_of_pillow_and_one_may_stand_alone(run, tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "p.png")
    want = run.ask("What?", [PICTURE], max_tokens=4)
    for images in (str(tmp_path / "p.png"), PICTURE, [Image.fromarray(PICTURE).convert("RGBA")]):
        assert run.ask("What?", images, max_tokens=4) == want


def test_changes_of_a_config_that_was_made_before_are_made(monkeypatch, tmp_path):
    """They were passed over."""
    made = []
    monkeypatch.setattr("unijax.main.train.train", lambda run, *a: made.append(run))
    monkeypatch.setattr(unijax.api.Run, "__init__", lambda self, place: None)
    unijax.train(unijax.config(TINY), tmp_path, "stage.steps=7")
    assert made[0].stage.steps == 7


def test_no_run_is_told(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        unijax.load(tmp_path)


def test_importing_the_package_loads_no_jax():
    code = "import sys, unijax; print('jax' in sys.modules, callable(unijax.train))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False True\n"


@long
def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    notebook = json.loads((ROOT / "docs" / "first_hour.ipynb").read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for cell in cells:
        exec(compile(small(cell), "first_hour.ipynb", "exec"), names)
    assert names["tuned"].config.chosen
    assert any(pathlib.Path("out").iterdir())


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PICTURE).save("fox.png")
    exec(compile(small(code), "README.md", "exec"), {})
    assert any(pathlib.Path("out").iterdir())
