"""Conversations in the forms of the field: what each is read as, what is said, what is refused."""

import base64
import json

import pytest

from tests.data.conftest import LAYOUT, small_config
from unijax.core.errors import UserError
from unijax.data.config import GroupConfig, SourceConfig
from unijax.data.loader import Loader
from unijax.data.user import open_jsonl, open_mixed, open_own

ASK, SAY = {"role": "user", "content": "<image>\nwhat?"}, {"role": "assistant", "content": "a cat"}
HUMAN, GPT = {"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a cat"}


def read(folder, line) -> dict:
    """The record of a line; its pictures as the letters of their files."""
    path = folder / "data.jsonl"
    path.write_text(json.dumps(line))
    (record,) = open_jsonl(path)
    letters = {(folder / f"{name}.png").read_bytes(): name for name in "abc"}

    def shown(content):
        if isinstance(content, str):
            return content
        return [p if isinstance(p, str) else {"see": letters[p()]} for p in content]

    record["messages"] = [m | {"content": shown(m["content"])} for m in record["messages"]]
    return record


def turns(record) -> list:
    return [(m["role"], m["content"]) for m in record["messages"]]


SEEN = [("user", [{"see": "a"}, "\nwhat?"]), ("assistant", "a cat")]
DATA = "data:image/png;base64,"


def url(folder) -> str:
    return DATA + base64.b64encode((folder / "a.png").read_bytes()).decode()


@pytest.mark.parametrize(
    "line",
    [
        {"id": 33471, "image": "a.png", "conversations": [HUMAN, GPT], "model": "x"},
        {"image": ["a.png"], "conversations": [HUMAN, GPT]},
        {"images": "a.png", "conversations": [HUMAN, GPT]},
        {"messages": [ASK, SAY], "images": ["a.png"]},
        {"messages": [ASK, SAY], "images": [{"path": "a.png", "bytes": None}]},
        {"messages": [ASK, SAY], "image": "a.png"},
        {"messages": [ASK | {"name": "bob"}, SAY | {"loss": True}], "images": "a.png", "tools": []},
        {"messages": [ASK | {"images": ["a.png"]}, SAY]},
        {"messages": [ASK | {"role": "User"}, SAY | {"role": "<|Assistant|>"}], "image": "a.png"},
        {"messages": [{"role": "system", "content": " "}, ASK, SAY], "images": ["a.png"]},
        {"system": "", "messages": [ASK, SAY], "images": ["a.png"]},
        {"conversation": [{"human": ASK["content"], "assistant": "a cat"}], "images": ["a.png"]},
        {"query": ASK["content"], "response": "a cat", "images": ["a.png"], "history": []},
        {"instruction": "<image>", "input": "what?", "output": "a cat", "images": ["a.png"]},
        {"texts": [{"user": "what?", "assistant": "a cat", "source": "x"}], "images": ["a.png"]},
        {"messages": [ASK | {"content": "what?"}, SAY], "images": ["a.png"]},
        {"messages": [ASK | {"content": [{"type": "image"}, {"type": "text", "text": "what?"}]},
                      SAY], "images": ["a.png"]},
        {"messages": [ASK | {"content": [{"type": "image", "image": "a.png"},
                                         {"type": "text", "text": "what?"}]}, SAY]},
        {"messages": [ASK | {"content": [{"type": "image_url", "image_url": {"url": "a.png"}},
                                         {"type": "text", "text": "what?"}]},
                      SAY | {"content": [{"type": "text", "text": "a cat"}]}]},
        {"messages": [ASK | {"content": [{"type": "input_image", "image_url": "a.png"},
                                         {"type": "input_text", "text": "what?"}]}, SAY]},
        {"messages": [ASK | {"content": [{"image": "a.png"}, {"text": "what?"}]}, SAY]},
        {"messages": [ASK | {"content": [{"image": "a.png"}, {"text": "what?"}]}, SAY],
         "images": ["a.png"]},
    ],
)  # fmt: skip
def test_every_form_of_the_field_is_the_same_conversation(folder, line):
    record = read(folder, line)
    assert turns(record) == SEEN
    assert "drawings" not in record


def test_a_picture_may_be_a_data_uri_or_a_file_url(folder):
    for reference in (url(folder), (folder / "a.png").as_uri()):
        part = {"type": "image_url", "image_url": {"url": reference}}
        content = [part, {"type": "text", "text": "what?"}]
        assert turns(read(folder, {"messages": [ASK | {"content": content}, SAY]})) == SEEN
    anthropic = {"type": "image", "source": {"type": "base64", "data": url(folder)[len(DATA) :]}}
    line = {"messages": [ASK | {"content": [anthropic, {"type": "text", "text": "what?"}]}, SAY]}
    assert turns(read(folder, line)) == SEEN


def test_parts_are_joined_as_the_template_of_the_hub_joins_them(folder):
    content = [
        {"type": "text", "text": "one"}, {"type": "text", "text": "two"},
        {"type": "image", "image": "b.png"}, {"type": "image", "image": "c.png"},
    ]  # fmt: skip
    (asked, _) = turns(read(folder, {"messages": [ASK | {"content": content}, SAY]}))
    assert asked == ("user", ["one two\n", {"see": "b"}, "\n\n", {"see": "c"}])


def test_numbers_stay_as_they_are_written(folder):
    turns_ = '[{"role": "user", "content": 1}, {"role": "assistant", "content": 3.10}]'
    lines = [
        '{"id": 7, "messages": %s}' % turns_,  # noqa: UP031
        '{"id": 8.0, "image": "a.png", "question": "how many?", "answer": 2}',
    ]
    path = folder / "data.jsonl"
    path.write_text("\n".join(lines))
    talk, question = open_jsonl(path)
    assert (talk["id"], question["id"]) == ("7", "8.0")
    assert turns(talk) == [("user", "1"), ("assistant", "3.10")]
    assert question["questions"] == [{"question": "how many?", "answer": "2"}]


def test_nulls_are_as_if_they_were_not_there(folder):
    path = folder / "data.jsonl"
    path.write_text('{"image": "a.png", "caption": "x", "text": null, "label": NaN, "id": null}')
    (record,) = open_jsonl(path)
    assert record["captions"] == ["x"]
    assert not {"text", "label"} & record.keys()
    assert record["id"] == f"{path}:1"


DRAWN = [
    {"role": "user", "content": "draw a cat"},
    {"role": "assistant", "content": "<image>"},
    {"role": "user", "content": "<image>\nwith this hat"},
    {"role": "assistant", "content": "Here:<image>Nice?"},
]
IMAGES = ["a.png", "b.png", "c.png"]


def test_a_picture_in_the_assistants_turn_is_drawn(folder):
    record = read(folder, {"messages": DRAWN, "images": IMAGES})
    assert turns(record) == [
        ("user", "draw a cat"), ("assistant", [{"see": "a"}]),
        ("user", [{"see": "b"}, "\nwith this hat"]),
        ("assistant", ["Here:", {"see": "c"}, "Nice?"]),
    ]  # fmt: skip
    assert record["drawings"] == 2
    shown = [ASK | {"content": "draw"}, {"role": "assistant", "images": ["a.png"]}]
    assert turns(read(folder, {"messages": shown}))[1] == ("assistant", [{"see": "a"}])
    shown[1]["content"] = "Here:"
    assert turns(read(folder, {"messages": shown}))[1] == ("assistant", ["Here:\n", {"see": "a"}])
    parts = [ASK | {"content": "draw"}, SAY | {"content": [{"type": "image", "image": "a.png"}]}]
    assert read(folder, {"messages": parts})["drawings"] == 1
    llava = [{"from": "human", "value": "draw"}, {"from": "gpt", "value": "<image>"}]
    assert read(folder, {"conversations": llava, "image": "a.png"})["drawings"] == 1


def test_the_assistants_words_are_words_where_the_pictures_are_the_users(folder):
    line = {"messages": [ASK, SAY | {"content": "an <image> tag"}], "images": ["a.png"]}
    assert turns(read(folder, line)) == [SEEN[0], ("assistant", "an <image> tag")]
    line = {"messages": [ASK | {"content": "which tag?"}, SAY | {"content": "it is <image>."}]}
    assert turns(read(folder, line)) == [("user", "which tag?"), ("assistant", "it is <image>.")]


@pytest.mark.parametrize("more", [{}, {"img": "a.png"}, {"output_images": ["a.png"]}])
def test_a_drawing_without_its_picture_is_told(folder, more):
    """It was learned as the word."""
    line = {"messages": [ASK | {"content": "draw red"}, SAY | {"content": "<image>"}], **more}
    with pytest.raises(UserError, match="found 0 images and 1 markers"):
        read(folder, line)


@pytest.mark.parametrize(
    "words",
    [
        "Picture 1: <img>a.png</img> what?",
        "<|vision_start|><|image_pad|><|vision_end|>what?",
        "<|image_1|> what?",
    ],
)
def test_another_models_markers_without_a_picture_are_told(folder, words):
    for line in (
        {"messages": [ASK | {"content": words}, SAY]},
        {"conversations": [HUMAN | {"value": words}, GPT]},
    ):
        with pytest.raises(UserError, match="found no picture, and the words"):
            read(folder, line)
    tag = [ASK | {"content": "What is the <img> tag?"}, SAY]
    assert turns(read(folder, {"messages": tag}))[0] == ("user", "What is the <img> tag?")


def test_a_part_that_numbers_its_picture_is_that_picture_not_the_next(folder):
    def part(i):
        return {"type": "image", "index": i, "text": None}

    edit = {"type": "text", "text": "as this one", "index": None}
    said = [ASK | {"content": [part(1), edit]}, SAY | {"content": [part(0)]}]
    record = read(folder, {"messages": said, "images": ["a.png", "b.png"]})
    assert turns(record) == [
        ("user", [{"see": "b"}, "\nas this one"]), ("assistant", [{"see": "a"}])
    ]  # fmt: skip
    said[1]["content"] = [part(1)]
    said += [ASK | {"content": [part(0), edit]}, SAY]
    record = read(folder, {"messages": said, "images": ["a.png", "b.png"]})
    assert [x["see"] for _, c in turns(record) for x in c if isinstance(x, dict)] == ["b", "b", "a"]


def test_a_turn_of_no_weight_is_given_not_learned(folder):
    more = [ASK | {"content": "sure?"}, SAY | {"content": "yes", "weight": 1}]
    for key, value in (("weight", 0), ("loss", False), ("train", False)):
        line = {"messages": [ASK, SAY | {key: value}, *more], "images": ["a.png"]}
        learned = [m.get("learned", True) for m in read(folder, line)["messages"]]
        assert learned == [True, False, True, True]


def test_a_picture_of_millions_of_escapes_is_refused(folder):
    """15 million of `%41` took 10 s, and 40 bytes each."""
    path = folder / "data.jsonl"
    path.write_text(json.dumps({"image": "data:," + "%41" * 2**20 + "%41", "caption": "x"}))
    with pytest.raises(UserError, match="1048577 characters written as %, at most 1048576"):
        open_own(path)


def test_a_conversation_of_a_hundred_thousand_turns_is_told_in_a_line(folder):
    path = folder / "data.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "x"}] * 1000}))
    with pytest.raises(UserError, match="user, user and 980 more; expected user and assistant"):
        open_own(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"conversations": [HUMAN, GPT]}, "found 0 images and 1 markers"),
        ({"imgae": "a.png", "conversations": [HUMAN, GPT]}, "Did you mean 'image'?"),
        ({"image": "a.png", "conversation": "x"}, "found conversation: 'x'; expected a list of"),
        ({"conversatons": [HUMAN, GPT]}, "found the key 'conversatons'"),
        ({"image": "no.png", "conversations": [HUMAN, GPT]}, "found no picture 'no.png'"),
        ({"image": "a.png", "conversations": [HUMAN]}, "found roles user; expected"),
        ({"image": "a.png", "conversations": [GPT, HUMAN]}, "found roles assistant, user"),
        ({"conversations": [{"from": "human", "value": "x"}, GPT, GPT]}, "roles user, assistant"),
        ({"conversations": [{"from": "human", "value": ""}, GPT]}, "an empty turn of the user"),
        ({"conversations": [HUMAN, GPT | {"value": None}]}, "found a turn with 'from'"),
        ({"conversations": [HUMAN, {"from": "gpt", "vlaue": "x"}]}, "Did you mean 'value'?"),
        ({"conversations": [HUMAN, "x"]}, "found 'x'; expected turns"),
        ({"messages": [ASK, SAY], "conversations": [HUMAN, GPT]}, "both 'messages' and"),
        ({"messages": [ASK, SAY], "images": ["a.png", "b.png"]}, "2 images and 1 markers"),
        ({"messages": [ASK | {"content": [{"image": "a.png"}]}, SAY], "images": ["b.png"]},
         "found 1 images and 0 markers"),
        ({"messages": [ASK, SAY], "images": ["a.png"], "videos": ["a.mp4"]}, "found 'videos'"),
        ({"messages": [ASK | {"content": [{"type": "video", "video": "x"}]}, SAY]}, "as a part"),
        ({"messages": [ASK | {"content": [{"type": "image", "image": "https://x.org/a"}]}, SAY]},
         "found a picture elsewhere, 'https://x.org/a'; expected a file"),
        ({"messages": [ASK | {"content": [{"image": DATA + "!!"}]}, SAY]}, "a damaged data: URI"),
        ({"messages": [ASK | {"content": True}, SAY]}, "found True as the content of a turn"),
        ({"messages": [ASK, {"role": "tool", "content": "x"}]}, "found the role 'tool'"),
        ({"messages": [ASK, SAY | {"loss": 0.5}], "images": ["a.png"]}, "loss: '0.5' of a turn"),
        ({"messages": [ASK, SAY | {"loss": False}], "images": ["a.png"]}, "no turn that is learn"),
        ({"messages": [ASK | {"content": "draw"}, SAY | {"content": "<image>", "weight": 0},
                       ASK | {"content": "ok?"}, SAY], "images": ["a.png"]},
         "a picture in a turn of the assistant that is not learned"),
        ({"conversatons": [HUMAN, GPT]}, "Did you mean 'conversations'?"),
        ({"messages": [ASK | {"content": [{"type": "image", "index": 1}]}, SAY],
          "images": ["a.png"]}, "1 images, and parts that are the images [1]"),
        ({"messages": [ASK | {"content": [{"type": "image", "index": 1}]}, SAY],
          "images": ["a.png", "b.png"]}, "2 images, and parts that are the images [1]"),
        *[({"image": "a.png", "conversations": [HUMAN | {"value": f"{words} what?"}, GPT]},
           f"a picture without a marker, and the words '{found}'")
          for words, found in (("<IMAGE>",) * 2, ("<|image_pad|>",) * 2, ("<image_1>",) * 2,
                               ("Picture 1: <img>a.png</img>", "<img>"), ("[IMG]",) * 2,
                               ("<ImageHere>",) * 2)],
        ({"messages": [{"role": "system", "content": [{"image": "a.png"}]}, ASK | {"content": "x"},
                       SAY]}, "a picture in the system message"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_conversation_is_told_with_file_and_line(folder, line, message):
    path = folder / "data.jsonl"
    path.write_text('{"text": "x"}\n' + json.dumps(line))
    with pytest.raises(UserError) as error:
        open_jsonl(path)
    assert str(error.value).startswith(f"{path}:2: found ")
    assert message in str(error.value)
    assert len(str(error.value)) < 1000


def test_a_number_of_thousands_of_digits_is_told_with_its_line(folder):
    path = folder / "data.jsonl"
    for key in ("text", "meta"):
        for number in ("1" * 5001, "0." + "1" * 4999):
            path.write_text('{"text": "x"}\n{"KEY": 1}'.replace("KEY", key).replace("1", number))
            with pytest.raises(UserError, match=r"data\.jsonl:2: found a number of 5001 digits"):
                open_jsonl(path)


def test_what_was_read_as_what_is_said_in_one_line(folder, capsys):
    path = folder / "llava.json"
    line = {"id": 1, "image": "a.png", "conversations": [HUMAN, GPT], "model": "x", "source": "y"}
    path.write_text(json.dumps([line, line | {"id": 2}]))
    open_mixed(path)
    open_mixed(path)
    assert capsys.readouterr().err == (
        f"{path}: 2 records; 2 from 'conversations'; 2 from a JSON array; human is the user; gpt "
        "is the assistant; <image> is the next picture; not read: 'model', 'source'\n"
    )
    (folder / "own.jsonl").write_text('{"image": "a.png", "caption": "a cat"}')
    open_mixed(folder / "own.jsonl")
    assert capsys.readouterr().err == ""


def test_a_file_of_drawing_and_talking_feeds_the_groups_it_belongs_to(folder, tokenizer):
    path = folder / "data.jsonl"
    lines = [{"messages": DRAWN, "images": IMAGES}, {"messages": [ASK, SAY], "images": ["a.png"]}]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert open_mixed(path).facts.tasks() == [(0, ["draw"]), (1, ["chat"])]
    groups = (
        GroupConfig("und", 1.0, (SourceConfig("talk", "chat", "mixed", str(path)),)),
        GroupConfig("gen", 1.0, (SourceConfig("draw", "draw", "mixed", str(path)),)),
    )
    loader = Loader(small_config(groups=groups, p_drop_condition=0.0), LAYOUT, tokenizer)
    batch = next(loader)
    assert {name.split("/")[0] for name in loader.info.names.values()} == {"talk", "draw"}
    assert batch.images["gen"].weight.sum() >= 2
    assert batch.images["und"].weight.sum() >= 2


@pytest.mark.parametrize(
    "line",
    [
        {"prompt": "what?", "completion": "a cat"},
        {"prompt": "what?", "response": "a cat"},
        {"instruction": "what?", "response": "a cat", "context": ""},
        {"system_prompt": "", "question": "what?", "response": "a cat"},
        {"input": "what?", "output": "a cat"},
        {"question": "what?", "answer": "a cat"},
        {"prompt": [{"role": "user", "content": "what?"}], "completion": [SAY]},
        {"conversations": [GPT, {"from": "human", "value": "what?"}, GPT]},
        {"conversations": [{"from": "human", "value": "what?"}, GPT, HUMAN | {"value": "and?"}]},
    ],
)
def test_a_question_and_its_answer_by_every_usual_name(folder, line):
    assert turns(read(folder, line)) == [("user", "what?"), ("assistant", "a cat")]


def test_what_was_cut_off_a_conversation_is_said(folder, capsys):
    asked = {"from": "human", "value": "what?"}
    lines = [{"conversations": [GPT, asked, GPT]}, {"conversations": [asked, GPT, asked]}]
    path = folder / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    assert len(open_jsonl(path)) == 2
    said = capsys.readouterr().err
    assert "what the assistant says before the first question is left out (1)" in said
    assert "a last question without an answer is left out (1)" in said


def test_a_picture_beside_prompt_and_response_is_seen(folder):
    line = {"prompt": "what?", "response": "a cat", "image": "a.png"}
    assert turns(read(folder, line)) == SEEN
    line = {"prompt": [ASK], "completion": [SAY], "images": ["a.png"]}
    assert turns(read(folder, line)) == SEEN


@pytest.mark.parametrize(
    "names",
    [
        ("input_image", "edit_prompt", "edited_image"),
        ("original_image", "edit_prompt", "edited_image"),
        ("source_img", "instruction", "target_img"),
        ("source_image", "instruction", "target_image"),
        ("input_image", "edit", "output_image"),
        ("source", "prompt", "target"),
    ],
)
def test_an_edit_is_a_picture_shown_and_one_drawn(folder, names):
    line = dict(zip(names, ("a.png", "bluer", "b.png"))) | {"mask_img": "c.png", "turn": 1}
    record = read(folder, line)
    assert turns(record) == [
        ("user", [{"see": "a"}, "\nbluer"]), ("assistant", [{"see": "b"}])
    ]  # fmt: skip
    assert record["drawings"] == 1


def test_an_answer_of_true_is_the_word(folder, capsys):
    path = folder / "data.jsonl"
    pairs = [{"question": "black?", "answer": False}]
    line = {"image": "a.png", "question": "red?", "answer": True, "questions": pairs}
    path.write_text(json.dumps(line))
    (record,) = open_jsonl(path)
    assert [pair["answer"] for pair in record["questions"]] == ["true", "false"]
    assert "an answer of true or false is that word" in capsys.readouterr().err


def test_a_marker_amidst_the_assistants_words_does_not_take_the_users_only_picture(folder):
    asked, say = ASK | {"content": "what tag?"}, "It says <image> at the top."
    line = {"messages": [asked, SAY | {"content": say}], "images": ["a.png"]}
    with pytest.raises(UserError, match=r"one picture, and <image> amidst the assistant's words"):
        read(folder, line)
    for say in ("Here it is: <image>", "Here:\n<image>\nNice?"):
        line["messages"][1] = SAY | {"content": say}
        assert read(folder, line)["drawings"] == 1


@pytest.mark.parametrize("answer", ["1", "B", "b", "a dog", 1])
@pytest.mark.parametrize("key", ["choices", "options"])
def test_of_several_choices_the_answer_is_the_chosen_one(folder, key, answer):
    """The number alone was taught."""
    line = {"image": "a.png", "question": "what?", key: ["a cat", "a dog"], "answer": answer}
    path = folder / "data.jsonl"
    path.write_text(json.dumps(line))
    (record,) = open_jsonl(path)
    pair = {"question": "what?\nA. a cat\nB. a dog", "answer": "a dog"}
    assert record["questions"] == [pair]
    path.write_text(json.dumps(line | {"answer": "7"}))
    with pytest.raises(UserError, match="the answer '7' to 2 "):
        open_jsonl(path)


def test_of_several_answers_the_most_common_one_is_taken(folder):
    path = folder / "data.jsonl"
    answers = [{"answer": "cat"}, {"answer": "a dog"}, {"answer": "a dog"}]
    path.write_text(json.dumps({"image": "a.png", "question": "what?", "answers": answers}))
    assert open_jsonl(path)[0]["questions"] == [{"question": "what?", "answer": "a dog"}]


def test_paths_of_pictures_that_are_there_are_no_words(folder):
    edit = {"instruction": "bluer", "input": "a.png", "output": "b.png"}
    want = [("user", [{"see": "a"}, "\nbluer"]), ("assistant", [{"see": "b"}])]
    assert turns(read(folder, edit)) == want
    draw = {"instruction": "a cat", "output": "b.png"}
    assert turns(read(folder, draw)) == [("user", "a cat"), ("assistant", [{"see": "b"}])]
    named = {"instruction": "which file?", "output": "nowhere.png"}
    assert turns(read(folder, named)) == [("user", "which file?"), ("assistant", "nowhere.png")]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ({"input_image": ["a.png"], "edit": "x", "output_image": "b.png"}, "a"),
        ({"src_img": "a.png", "edited_prompt_list": ["x", "y"], "edited_img": "b.png"}, "a"),
        ({"input_prompt": "x", "input_image": ["a.png", "c.png"], "output_image": "b.png"}, "ac"),
        ({"edit": "x", "image_file": "a.png", "edited_file": "b.png", "input": "i", "output": "o"},
         "a"),
        ({"input_prompt": "x", "output_image": "b.png"}, ""),
    ],
)  # fmt: skip
def test_edits_and_drawings_as_other_sets_have_them(folder, line, shown):
    asked, drawn = turns(read(folder, line))
    said = asked[1] if shown else [asked[1]]
    assert [part["see"] for part in said if isinstance(part, dict)] == list(shown)
    assert said[-1].strip() == "x"
    assert drawn == ("assistant", [{"see": "b"}])


@pytest.mark.parametrize(
    "packed",
    [
        json.dumps([HUMAN, GPT]),
        {"from": ["human", "gpt"], "value": [HUMAN["value"], GPT["value"]]},
    ],
)
def test_conversations_as_tables_pack_them(folder, packed):
    assert turns(read(folder, {"image": "a.png", "conversations": packed})) == SEEN


def test_turns_of_input_and_output_and_lists_of_which_one_stands_at_each_place(folder):
    talk = [{"system": "s", "input": "what?", "output": "a cat"}]
    line = {"conversation": talk}
    assert turns(read(folder, line))[-2:] == [("user", "what?"), ("assistant", "a cat")]
    path = folder / "data.jsonl"
    path.write_text(json.dumps({"images": [None, "a.png"], "texts": ["x", None]}))
    words, picture = open_jsonl(path)[0]["parts"]
    assert (words, callable(picture["image"])) == ({"text": "x"}, True)


def test_a_system_message_that_gives_way_is_said(folder, capsys):
    first = {"role": "system", "content": "be brief"}
    line = {"system": "be kind", "messages": [first, ASK | {"content": "what?"}, SAY]}
    assert turns(read(folder, line))[0] == ("system", "be brief")
    assert "'system' gives way to the system message" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["tags", "instructions"])
def test_no_key_is_taken_for_a_slip_of_another(folder, key):
    path = folder / "data.jsonl"
    path.write_text(json.dumps({key: "x", "image": "a.png", "caption": "y"}))
    with pytest.raises(UserError, match="Put other things under 'meta'"):
        open_jsonl(path)
