"""Templates and tasks against strings written by hand."""

import numpy as np
import pytest

from unijax.core.errors import UserError
from unijax.data.document import ImageRef
from unijax.data.tasks import FIELDS, QUESTIONS, STREAMS, TASKS, Context, first_sentence
from unijax.data.templates import TEMPLATES, Break, Eos, Image, Text, to_text

PRO, JANUS = TEMPLATES["janus_pro"], TEMPLATES["janus"]
EOS = "<EOS>"


def turn(role, content):
    return {"role": role, "content": content}


def images(pieces, role):
    return [piece for piece in pieces if isinstance(piece, Image) and piece.role == role]


def context(template=PRO, p_first=0.0, seed=0) -> Context:
    rng = np.random.default_rng(seed)
    return Context("record", template, rng, lambda raw: ImageRef("record", raw), p_first)


def test_a_prompt_ends_where_the_assistant_goes_on():
    pieces = PRO.render([turn("user", "  draw a cat \n"), turn("assistant", "")])
    assert to_text(pieces, EOS) == "<|User|>: draw a cat\n\n<|Assistant|>:"
    pieces = JANUS.render([turn("user", "draw a cat"), turn("assistant", "  ")])
    assert to_text(pieces, EOS) == "User: draw a cat\n\nAssistant:"


def test_turns_are_parted_by_parity():
    messages = [
        turn("user", "one"), turn("assistant", "two"), turn("user", "three"),
        turn("assistant", "four"),
    ]  # fmt: skip
    assert to_text(PRO.render(messages), EOS) == (
        "<|User|>: one\n\n<|Assistant|>: two<EOS><|User|>: three\n\n<|Assistant|>: four<EOS>"
    )
    # Parity, not the role, chooses the separator.
    out_of_turn = [turn("user", "one"), turn("user", "two"), turn("assistant", "three")]
    assert to_text(PRO.render(out_of_turn), EOS) == (
        "<|User|>: one\n\n<|User|>: two<EOS><|Assistant|>: three"
    )


def test_the_system_text_comes_first_and_counts_no_turn():
    messages = [turn("system", " Be kind. "), turn("user", "hi"), turn("assistant", "hello")]
    assert to_text(JANUS.render(messages), EOS) == ("Be kind.\n\nUser: hi\n\nAssistant: hello<EOS>")
    messages[0]["content"] = ""
    assert to_text(JANUS.render(messages), EOS) == "User: hi\n\nAssistant: hello<EOS>"


def test_the_whole_is_stripped():
    assert to_text(PRO.render([turn("user", "only")]), EOS) == "<|User|>: only"
    assert to_text(PRO.render([turn("user", "")]), EOS) == "<|User|>:"
    assert PRO.render([]) == []


def test_the_assistants_words_and_their_end_are_trained():
    pieces = PRO.render([turn("user", "ask"), turn("assistant", "answer")])
    trained = [p for p in pieces if isinstance(p, (Text, Eos)) and p.trained]
    assert trained == [Text(" ", True), Text("answer", True), Eos(True)]


def test_an_unknown_role_is_refused():
    with pytest.raises(UserError, match="record 3: found role 'human'"):
        PRO.render([turn("human", "hi")], "record 3")


def test_understanding_puts_the_image_first():
    record = {"image": b"i", "questions": [{"question": "what?", "answer": " a cat "}]}
    pieces = TASKS["question"](record, context())
    assert to_text(pieces, EOS) == (
        "<|User|>: <image_placeholder>\nwhat?\n\n<|Assistant|>: a cat<EOS>"
    )
    assert len(images(pieces, "und")) == 1


PICTURE = {
    "id": "x", "image": b"i", "captions": ["a red cat. it sits."], "label": "cat",
    "category": "animals", "keywords": ["red", "pet"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("task", "answer"),
    [("describe", "a red cat. it sits."), ("name", "cat"), ("category", "animals"),
     ("keywords", "red, pet")],
)  # fmt: skip
def test_questions_about_captioned_pictures(task, answer):
    seen = set()
    for seed in range(20):
        text = to_text(TASKS[task](PICTURE, context(seed=seed)), EOS)
        before, after = text.split("\n\n<|Assistant|>: ")
        assert after == answer + EOS
        seen.add(before.removeprefix("<|User|>: <image_placeholder>\n"))
    assert seen == set(QUESTIONS[task])


def test_the_other_tasks():
    def render(task, record, template=PRO):
        return to_text(TASKS[task](record, context(template)), EOS)

    assert render("generate", PICTURE) == (
        "<|User|>: a red cat. it sits.\n\n<|Assistant|>:<image_placeholder>"
    )
    assert render("generate", PICTURE, JANUS) == (
        "User: a red cat. it sits.\n\nAssistant:<image_placeholder>"
    )
    assert render("caption_to_image", PICTURE) == "a red cat. it sits.<image_placeholder>"
    assert render("category_to_image", PICTURE) == "animals<image_placeholder>"
    assert render("image_to_caption", PICTURE) == "<image_placeholder>a red cat. it sits.<EOS>"
    assert render("text", {"text": "one\n\ntwo"}) == "one\n\ntwo<EOS>"
    assert render("caption", PICTURE) == "a red cat. it sits.<EOS>"
    page = {"parts": [{"text": "one"}, {"image": b"i"}, {"text": "two"}, {"text": "three"}]}
    assert render("page", page) == "one<image_placeholder>twothree<EOS>"
    chat = {
        "messages": [
            turn("user", [b"1", " and ", b"2", ": same?"]),
            turn("assistant", "no <image_placeholder>"),
        ],
    }
    pieces = TASKS["chat"](chat, context())
    assert [p.image.raw for p in images(pieces, "und")] == [b"1", b"2"]
    assert Text("no <image_placeholder>", True) in pieces  # the assistant's words are words


def test_the_assistant_draws_where_its_turn_holds_a_picture():
    record = {
        "messages": [
            turn("system", "Be kind."), turn("user", "draw a cat"), turn("assistant", [b"1"]),
            turn("user", [b"2", "\nwith this hat"]), turn("assistant", ["Here:", b"3", " Nice? "]),
        ],
        "drawings": 2,
    }  # fmt: skip
    for task in ("draw", "chat"):
        pieces = TASKS[task](record, context())
        assert to_text(pieces, EOS) == (
            "Be kind.\n\n<|User|>: draw a cat\n\n<|Assistant|>:<image_placeholder><EOS>"
            "<|User|>: <image_placeholder>\nwith this hat\n\n"
            "<|Assistant|>: Here:<image_placeholder> Nice?<EOS>"
        )
        assert [p.image.raw for p in images(pieces, "gen")] == [b"1", b"3"]
        assert [p.image.raw for p in images(pieces, "und")] == [b"2"]
        trained = [p for p in pieces if isinstance(p, (Text, Eos)) and p.trained]
        assert trained == [
            Eos(True), Text(" ", True), Text("Here:", True), Text(" Nice?", True), Eos(True)
        ]  # fmt: skip


def test_a_drawing_alone_begins_as_the_task_generate_does():
    turns = [turn("user", "a red cat. it sits."), turn("assistant", [b"i"])]
    for template in (PRO, JANUS):
        alone = TASKS["generate"](PICTURE, context(template))
        talk = TASKS["draw"]({"messages": turns, "drawings": 1}, context(template))
        assert (talk[:-2], talk[-1]) == (alone[:-1], Eos(True))
        assert images(talk[-2:-1], "gen")
        assert images(alone[-1:], "gen")


def test_a_turn_that_is_not_learned_is_given():
    messages = [turn("user", "a"), turn("assistant", "b") | {"learned": False}]
    pieces = PRO.render([*messages, turn("user", "c"), turn("assistant", "d")])
    trained = [p for p in pieces if isinstance(p, (Text, Eos)) and p.trained]
    assert trained == [Text(" ", True), Text("d", True), Eos(True)]


def test_texts_may_be_cut_at_blank_lines():
    pieces = TASKS["text"]({"text": "a\nb\n\nc\n\n\nd"}, context())
    assert pieces == [
        Text("a\nb\n\n", True), Break(), Text("c\n\n\n", True), Break(), Text("d", True), Eos(True)
    ]  # fmt: skip


def test_a_prompt_that_spells_the_marker_is_text():
    record = PICTURE | {"captions": ["draw <image_placeholder> twice"]}
    pieces = TASKS["generate"](record, context())
    assert sum(isinstance(piece, Image) for piece in pieces) == 1


@pytest.mark.parametrize(
    ("caption", "first"),
    [
        ("One. Two.", "One."), ("No end", "No end"), ("Is it? Yes.", "Is it?"),
        ("At 3.5 m. Then", "At 3.5 m."), ("一。二。", "一。"), ("A.\nB.", "A."), ("One.", "One."),
    ],
)  # fmt: skip
def test_first_sentence(caption, first):
    assert first_sentence(caption) == first


def test_the_first_sentence_alone_is_kept_as_often_as_told():
    texts = [
        to_text(TASKS["caption_to_image"](PICTURE, context(p_first=0.25, seed=seed)), EOS)
        for seed in range(2000)
    ]
    short = sum(text == "a red cat.<image_placeholder>" for text in texts)
    assert abs(short / 2000 - 0.25) < 0.04  # four standard deviations


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_record_without_what_the_task_reads_is_named(task):
    field = FIELDS[task][-1]
    record = {"id": "x", "image": b"i"} if field != "image" else {"id": "x"}
    with pytest.raises(UserError, match=f"record: found no {field}"):
        TASKS[task](record, context())


def test_tables_of_tasks_agree():
    assert set(FIELDS) == set(TASKS)
    of_pictures = {task for task, fields in FIELDS.items() if "image" in fields}
    assert set(STREAMS) == of_pictures | {"page", "draw"}
