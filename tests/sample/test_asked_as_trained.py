"""What a prompt reaches the model as: the ids that the run's own drawing task put there."""

import dataclasses
import functools

import numpy as np
import pytest

from unijax.core.errors import UserError
from unijax.data import tokenizer as tokenizers
from unijax.data.assemble import assemble
from unijax.data.config import rendering
from unijax.data.render import DocumentKey, render
from unijax.data.tasks import PLAIN
from unijax.data.templates import TEMPLATES
from unijax.main import use
from unijax.main.config import load
from unijax.main.run import make_system, resolve
from unijax.sample.interleaved import compose
from unijax.sample.logits import Sampling
from unijax.sample.prompts import question
from unijax.sample.sampler import Sampler

DEMOS = ("janus", "chameleon", "transfusion", "llavafusion", "emu", "metamorph", "metaquery")
PROMPTS = ["a red fox", " a fox. It sits on a mat. ", "狐", "<|User|>: a fox\n\n"]
PICTURE = np.zeros((8, 8, 3), np.uint8)


@functools.cache
def run_of(name: str):
    run = resolve(load(f"{name}_demo"))
    return run, make_system(run), tokenizers.load(run.tokenizer)


def sampler_of(name: str, monkeypatch, plain: bool) -> tuple[Sampler, list]:
    """One that draws nothing, and what it would have worked: prompts and their lengths."""
    (run, system, tokenizer), seen = run_of(name), []
    monkeypatch.setattr(type(system), "for_decoding", lambda self, params: params)
    sampler = Sampler(system, {}, tokenizer, TEMPLATES[run.data.template], plain=plain)

    def make(prompt, lengths, seeds, *how):
        seen.append((prompt, lengths))
        return (np.zeros((len(seeds), 1)),) * 2

    monkeypatch.setattr(sampler, "_make", make)
    return sampler, seen


def trained(name: str, sampler: Sampler, prompt: str, task: str, dropped: bool):
    """The row of a document that the loader renders."""
    layout, tokenizer = sampler.system.layout, sampler.tokenizer
    config = dataclasses.replace(
        rendering(run_of(name)[0].data, layout), p_first_sentence=0.0,
        p_drop_condition=float(dropped), p_drop_images=0.0, p_drop_both=0.0,
    )  # fmt: skip
    record = {"image": PICTURE, "captions": [prompt], "category": prompt, "id": 0}
    document = render(record, task, DocumentKey("source", 0, 0), tokenizer, config)
    return assemble([document], 2048, tokenizer.special, layout)


@pytest.mark.parametrize("task", ["generate", "caption_to_image"])
@pytest.mark.parametrize("name", DEMOS)
def test_a_prompt_in_another_form_than_its_task_trained(name, task, monkeypatch):
    """Every id up to the picture, of what is asked and of what guidance leads away from."""
    sampler, seen = sampler_of(name, monkeypatch, plain=task in PLAIN)
    sampler.made(PROMPTS, 1, guidance=2.0)
    ((asked, lengths),) = seen
    free = lengths[len(PROMPTS) :]
    assert len(free) in (0, len(PROMPTS))  # some are guided by zeros, which need no prompt
    for i, length in enumerate(lengths):
        dropped, prompt = divmod(i, len(PROMPTS))
        row = trained(name, sampler, PROMPTS[prompt], task, bool(dropped))
        found = asked.tokens[i, asked.tokens.shape[1] - length :]
        np.testing.assert_array_equal(found, row.tokens[:length])
        assert not np.any(row.image[:length])
        assert row.image[length], "the picture stands right behind"


def group(name: str, *tasks: str, ratio: float = 1.0, weight: float = 1.0) -> dict:
    sources = [{"name": task, "task": task, "weight": weight} for task in tasks]
    return {"name": name, "ratio": ratio, "sources": sources}


@pytest.mark.parametrize(
    ("groups", "plain"),
    [
        ([group("gen", "caption_to_image"), group("und", "describe", "chat")], True),
        ([group("gen", "category_to_image", "caption_to_image")], True),
        ([group("gen", "caption_to_image", "generate")], False),
        ([group("gen", "caption_to_image", "draw")], False),
        ([group("gen", "generate")], False),
        ([group("gen", "caption_to_image", ratio=0.0), group("text", "text")], False),
        ([group("gen", "caption_to_image", weight=0.0)], False),
        ([], False),
    ],
)
def test_a_runs_own_drawing_task_words_its_prompts(groups, plain):
    assert use._is_plain({"groups": groups}) == plain


@pytest.mark.parametrize("config", ["transfusion", "chameleon", "lmfusion", "emu", "janus"])
def test_shipped_configs_that_train_on_captions_alone_are_asked_so(config):
    arg = {"emu": ":painter", "janus": ":stage1"}.get(config, "")
    data = load(f"{config}{arg}").data.to_dict()
    for of in data["groups"]:
        for source in of["sources"]:
            source.setdefault("weight", 1.0)
    assert use._is_plain(data)


def test_an_answer_with_pictures_in_turns_that_were_never_trained(monkeypatch):
    """Of a run that draws from captions alone: what was said stands without roles."""
    sampler, _ = sampler_of("transfusion", monkeypatch, plain=True)
    documents = []

    def written(asked, *how):
        documents.extend(asked)
        return [[sampler.tokenizer.special.eos]] * len(asked)

    monkeypatch.setattr(sampler, "written", written)
    before = [question("a red fox"), {"role": "assistant", "content": "It sits."}]
    compose(sampler, [[question("a red fox")], [*before, question(" a cat ")]])
    said = [sampler.tokenizer.decode(list(d.spans[0].ids)) for d in documents]
    assert said == ["a red fox", "a red fox\n\nIt sits.\n\na cat"]


@pytest.mark.parametrize(
    ("name", "steps", "codes"),
    [
        ("janus", False, True), ("chameleon", False, True), ("transfusion", True, False),
        ("emu", True, False), ("metamorph", True, False), ("metaquery", True, False),
    ],
)  # fmt: skip
def test_a_choice_that_no_picture_hangs_on_was_ignored(name, steps, codes, monkeypatch):
    sampler, _ = sampler_of(name, monkeypatch, plain=False)
    sampler.check_heard(Sampling(), None)
    for wanted, sampling, number, message in (
        (steps, Sampling(), 3, "steps: found 3; expected none: .* does not denoise"),
        (codes, Sampling(0.5), None, "found temperature 0.5; expected none: .* draws no codes"),
        (codes, Sampling(1.0, 3, 0.9), None, "found top_k 3, top_p 0.9; expected none"),
    ):
        if wanted:
            sampler.check_heard(sampling, number)
            continue
        with pytest.raises(UserError, match=message):
            sampler.check_heard(sampling, number)
