"""Special tokens are looked up over all files of a foreign tokenizer; a null never wins."""

import json

import pytest

from unijax.core.errors import UserError
from unijax.data import hf_tokens

VOCABULARY = {
    "<s>", "</s>", "<pad>", "<boi>", "<eoi>", "<img>", "<other>", "<｜▁pad▁｜>", "<begin_of_image>",
    "<end_of_image>", "<image_placeholder>", "a",
}  # fmt: skip
WHOLE = {
    "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "boi_token": "<boi>",
    "eoi_token": "<eoi>", "image_token": "<img>",
}  # fmt: skip
PLACES = ("tokenizer_config.json", "special_tokens_map.json")


def put(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def names(folder, vocabulary=VOCABULARY):
    return hf_tokens.read(folder, vocabulary).names


def test_pictures_of_llava_next_have_no_marks(tmp_path):
    """Its tokenizer is Llama 3's with a token for pictures; Llama 3's alone is asked for all."""
    named = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<pad>"}
    own = {*named.values(), "<|start_header_id|>", "<|end_header_id|>"}
    put(tmp_path, tokenizer_config=named)
    assert names(tmp_path, own | {"<image>"}) == {
        "bos": "<|begin_of_text|>", "eos": "<|eot_id|>", "pad": "<pad>",
        "image_placeholder": "<image>",
    }  # fmt: skip
    with pytest.raises(UserError, match="no boi_token, eoi_token, image_token in"):
        names(tmp_path, own)


@pytest.mark.parametrize("nothing", [None, "", {"content": None}])
@pytest.mark.parametrize("key", ["bos_token", "eos_token", "pad_token"])
def test_a_null_in_one_file_leaves_the_other_its_say(tmp_path, key, nothing):
    role = key.removesuffix("_token")
    for config, table in (
        (WHOLE | {key: nothing}, {key: WHOLE[key]}),
        ({key: WHOLE[key]}, WHOLE | {key: nothing}),
        (WHOLE | {key: nothing, "added_tokens_decoder": {}}, {key: WHOLE[key]}),
    ):
        put(tmp_path, tokenizer_config=config, special_tokens_map=table)
        assert names(tmp_path)[role] == WHOLE[key]


def test_the_released_janus_pro_has_its_padding_in_the_table(tmp_path):
    # tokenizer_config.json: "pad_token": null
    put(
        tmp_path,
        tokenizer_config={"bos_token": "<s>", "eos_token": "</s>", "pad_token": None},
        special_tokens_map={"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<｜▁pad▁｜>"},
        processor_config={"image_tag": "<image_placeholder>"},
    )
    assert names(tmp_path) == {
        "bos": "<s>", "eos": "</s>", "pad": "<｜▁pad▁｜>", "boi": "<begin_of_image>",
        "eoi": "<end_of_image>", "image_placeholder": "<image_placeholder>",
    }  # fmt: skip


def test_a_token_may_be_written_out_anywhere(tmp_path):
    spelled = {k: {"content": v, "lstrip": False} for k, v in WHOLE.items()}
    put(tmp_path, special_tokens_map=spelled)
    assert names(tmp_path)["eos"] == "</s>"
    ours = {k: WHOLE[k] for k in ("bos_token", "eos_token", "pad_token")}
    image = {k: v for k, v in WHOLE.items() if k not in ours}
    for key in ("extra_special_tokens", "model_specific_special_tokens"):
        put(tmp_path, tokenizer_config=ours | {key: image}, special_tokens_map={})
        assert names(tmp_path)["boi"] == "<boi>"


def test_the_order_of_the_files(tmp_path):
    other = WHOLE | {"pad_token": "<other>"}
    # As transformers: the table is read where the config does not list the added tokens.
    put(tmp_path, tokenizer_config=WHOLE, special_tokens_map=other)
    assert names(tmp_path)["pad"] == "<other>"
    put(tmp_path, tokenizer_config=WHOLE | {"added_tokens_decoder": {}}, special_tokens_map=other)
    assert names(tmp_path)["pad"] == "<pad>"
    # The tags of deepseek-ai's processor come after both, its defaults after all.
    two = {"bos_token": "<s>", "eos_token": "</s>"}
    put(
        tmp_path, tokenizer_config=two, special_tokens_map={}, processor_config={"pad_tag": "<pad>"}
    )
    assert names(tmp_path)["pad"] == "<pad>"
    put(tmp_path, processor_config={"pad_tag": None})
    assert names(tmp_path)["pad"] == "<｜▁pad▁｜>"
    # The first release of Janus-1.3B has none: its code took the end of sequence.
    assert names(tmp_path, VOCABULARY - {"<｜▁pad▁｜>", "<pad>"})["pad"] == "</s>"


def test_tokens_that_no_file_names_are_known_by_their_released_names(tmp_path):
    put(tmp_path, tokenizer_config=dict.fromkeys(WHOLE))
    released = {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"}
    assert names(tmp_path, VOCABULARY | released) == {
        "bos": "<｜begin▁of▁sentence｜>", "eos": "<｜end▁of▁sentence｜>", "pad": "<｜▁pad▁｜>",
        "boi": "<begin_of_image>", "eoi": "<end_of_image>",
        "image_placeholder": "<image_placeholder>",
    }  # fmt: skip


def test_what_is_missing_is_said_of_the_files_that_are_there(tmp_path):
    put(tmp_path, tokenizer_config={"bos_token": "<s>"}, special_tokens_map={"pad_token": None})
    with pytest.raises(UserError) as error:
        names(tmp_path, {"<s>"})
    assert str(error.value).startswith(
        f"{tmp_path}: found no eos_token, pad_token, boi_token, eoi_token, image_token in "
        "tokenizer_config.json, special_tokens_map.json; expected"
    )


def test_a_named_token_that_the_tokenizer_lacks_is_told_with_its_file(tmp_path):
    put(tmp_path, tokenizer_config=WHOLE, processor_config={"image_start_tag": "<boi>"})
    with pytest.raises(UserError, match=r"tokenizer_config.json: found '<boi>', which the tok"):
        names(tmp_path, VOCABULARY - {"<boi>"})


@pytest.mark.parametrize("wrong", [5, True, ["<s>"], {"content": 5}, {"content": ["<s>"]}])
def test_what_is_no_token_is_told_with_its_place(tmp_path, wrong):
    put(tmp_path, tokenizer_config=WHOLE | {"eos_token": wrong})
    with pytest.raises(UserError, match=r"tokenizer_config.json: eos_token: found"):
        names(tmp_path)


def test_ids_beyond_a_vocabulary_come_from_the_files_of_added_tokens(tmp_path):
    bare = VOCABULARY - {"<boi>", "<eoi>", "<other>"}
    decoder = {
        "40": {"content": "<eoi>", "special": True},
        "41": {"content": "x", "special": False},
    }
    put(
        tmp_path,
        tokenizer_config=WHOLE | {"added_tokens_decoder": decoder},
        added_tokens={"<boi>": 39},
        tokenizer={"added_tokens": [{"content": "<other>", "id": 42, "special": True}]},
    )
    tokens = hf_tokens.read(tmp_path, bare).tokens
    assert {t: i for t, i in tokens.items() if i is not None} == {
        "<boi>": 39, "<eoi>": 40, "<other>": 42
    }  # fmt: skip
    assert "x" not in tokens


def test_listed_tokens_that_the_tokenizer_lacks_are_text(tmp_path):
    put(tmp_path, tokenizer_config=WHOLE, special_tokens_map={
        "additional_special_tokens": ["<other>", "<nowhere>", {"content": "<pad>"}, "a"]
    })  # fmt: skip
    tokens = hf_tokens.read(tmp_path, VOCABULARY).tokens
    assert "<other>" in tokens
    assert not {"<nowhere>", "a"} & tokens.keys()
