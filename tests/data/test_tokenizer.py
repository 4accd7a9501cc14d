"""Tokenizers: what text may become, round trips, special ids as data, errors by their text."""

import contextlib
import json
import os
import pathlib
import random
import re
import shutil

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2 as model_pb2

from tests.data.conftest import NAMES, ROLES
from unijax.core.errors import UserError
from unijax.core.paths import assets_dir
from unijax.data import tokenizer as tokenizer_lib
from unijax.data.render import to_spans
from unijax.data.special_tokens import SpecialTokens, write
from unijax.data.templates import TEMPLATES, to_text

ADDED = ("ö", "ordinary")  # added tokens that are text, as DeepSeek's letters are
SLOW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def json_dir(tmp_path_factory):
    """A byte-level BPE tokenizer.json; some special tokens in the file, some only in the list."""
    directory = tmp_path_factory.mktemp("json")
    base = tokenizers.Tokenizer(tokenizers.models.BPE())
    base.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    base.train_from_iterator(["a cat sits on the mat <s> </s>"] * 10, trainer)
    base.add_special_tokens([NAMES["bos"], NAMES["eos"], "<|grounding|>", *ROLES])
    base.add_tokens([*ADDED, NAMES["pad"]])  # pad: added, not marked special
    base.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{NAMES['bos']} $A",
        special_tokens=[(NAMES["bos"], base.token_to_id(NAMES["bos"]))],
    )
    base.save(str(directory / "tokenizer.json"))
    tokens = dict.fromkeys(NAMES.values())
    tokens |= {NAMES["boi"]: 1016, NAMES["eoi"]: 1093, NAMES["image_placeholder"]: 1081}
    write(directory / "special_tokens.json", SpecialTokens(NAMES, tokens))
    return directory


@pytest.fixture(scope="module")
def user_defined_dir(tmp_path_factory):
    """A sentencepiece model whose marks are pieces that text does become, left to itself: one that
    normalises (full-width letters too) and puts a space in front."""
    import sentencepiece

    directory = tmp_path_factory.mktemp("user_defined")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a cat sits on the mat"] * 20),
        model_prefix=str(directory / "tokenizer"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        user_defined_symbols=[NAMES["boi"], NAMES["eoi"], NAMES["image_placeholder"], *ROLES],
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    names = NAMES | {"bos": "<s>", "eos": "</s>", "pad": "<pad>"}
    write(directory / "special_tokens.json", SpecialTokens(names, dict.fromkeys(ROLES)))
    return directory


@pytest.fixture(scope="module", params=["sentencepiece", "user defined", "json"])
def any_tokenizer(request, tokenizer_dir, json_dir, user_defined_dir):
    directory = {"sentencepiece": tokenizer_dir, "json": json_dir}.get(
        request.param, user_defined_dir
    )
    return tokenizer_lib.load(directory)


def spelled(tokenizer) -> st.SearchStrategy[str]:
    """Text that spells special tokens, whole, in part, overlapping, in full-width letters."""
    literals = list(tokenizer.tokens)
    wide = ["".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in t) for t in literals]
    pieces = st.one_of(
        st.sampled_from([*literals, *wide]),
        st.sampled_from(
            [text for t in literals for text in (t[:-1], t[1:], t[0], t[: len(t) // 2])]
        ),
        st.text(max_size=5),
        st.sampled_from(["a cat", "ö", "ordinary", "\n", " ", "<", "|", "｜"]),
    )
    return st.lists(pieces, max_size=8).map("".join)


@SLOW
@given(data=st.data())
def test_text_never_becomes_a_special_id(any_tokenizer, data):
    text = data.draw(spelled(any_tokenizer))
    special = set(any_tokenizer.tokens.values())
    ids = any_tokenizer.encode(text)
    assert special.isdisjoint(ids)
    assert all(0 <= i < any_tokenizer.vocab_size for i in ids)


def test_every_special_token_spelled_alone_is_ordinary_text(any_tokenizer):
    special = set(any_tokenizer.tokens.values())
    for token in any_tokenizer.tokens:
        ids = any_tokenizer.encode(token)
        assert ids
        assert special.isdisjoint(ids)


def test_the_cut_is_what_keeps_user_defined_pieces_away(user_defined_dir):
    tokenizer = tokenizer_lib.load(user_defined_dir)
    raw = tokenizer._backend.encode(f"a {NAMES['boi']} b")
    assert tokenizer.special.boi in raw  # the library itself would let it through


@SLOW
@given(data=st.data())
def test_text_survives_the_round_trip(tokenizer_dir, json_dir, data):
    for directory in (tokenizer_dir, json_dir):
        tokenizer = tokenizer_lib.load(directory)
        text = data.draw(spelled(tokenizer)).replace("▁", "")  # sentencepiece writes a space so
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ordinary_added_tokens_stay_whole(json_dir):
    tokenizer = tokenizer_lib.load(json_dir)
    for token in ADDED:
        assert [tokenizer.piece(i) for i in tokenizer.encode(token)] == [token]


def test_ids_come_from_the_file_or_the_list(json_dir, tokenizer):
    from_json = tokenizer_lib.load(json_dir)
    file = tokenizers.Tokenizer.from_file(str(json_dir / "tokenizer.json"))
    assert from_json.special.bos == file.token_to_id(NAMES["bos"])
    assert (from_json.special.boi, from_json.special.eoi) == (1016, 1093)
    assert from_json.vocab_size == 1094
    assert from_json.tokens["<|grounding|>"] == file.token_to_id("<|grounding|>")
    assert len({*vars(tokenizer.special).values()} - {None}) == 6
    assert set(ROLES) < set(tokenizer.tokens)


def test_decode_passes_over_special_and_unknown_ids(any_tokenizer):
    ids = any_tokenizer.encode("a cat")
    mixed = [any_tokenizer.special.bos, *ids, any_tokenizer.special.eoi, 10**6]
    assert any_tokenizer.decode(mixed) == any_tokenizer.decode(ids)
    assert any_tokenizer.piece(any_tokenizer.special.boi) == NAMES["boi"]
    assert any_tokenizer.piece(10**6) == "<1000000>"


@SLOW
@given(
    content=st.lists(st.sampled_from(["a cat", " ", "on", "\n", "the mat: ", "ö", "é"])).map(
        "".join
    )
)
def test_a_prompt_is_encoded_as_the_library_encodes_the_template(json_dir, content):
    """Text between special tokens is one piece to the library, and so it is to us."""
    tokenizer = tokenizer_lib.load(json_dir)
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": ""},
    ]
    pieces = TEMPLATES["janus_pro"].render(messages)
    (span,) = to_spans(pieces, tokenizer)
    library = tokenizers.Tokenizer.from_file(str(json_dir / "tokenizer.json"))
    assert list(span.ids) == library.encode(to_text(pieces, ""), add_special_tokens=False).ids


def test_a_prompt_and_its_answer_are_encoded_apart_as_together(tokenizer):
    """No space is put before a text nor taken from it."""
    assert tokenizer.decode(tokenizer.encode(" a cat")) == " a cat"
    assert tokenizer.decode(tokenizer.encode("a:") + tokenizer.encode(" cat")) == "a: cat"


def test_a_model_with_a_space_in_front_is_read_without(user_defined_dir):
    tokenizer = tokenizer_lib.load(user_defined_dir)
    assert tokenizer.decode(tokenizer.encode("cat")) == "cat"
    assert tokenizer.decode(tokenizer.encode("  cat")) == "  cat"


def test_save_and_load(any_tokenizer, tmp_path):
    any_tokenizer.save(tmp_path / "saved")
    again = tokenizer_lib.load(tmp_path / "saved")
    assert again.special == any_tokenizer.special
    assert again.tokens == any_tokenizer.tokens
    assert again.vocab_size == any_tokenizer.vocab_size
    text = "a cat <s> ö\n"
    assert again.encode(text) == any_tokenizer.encode(text)


def test_a_hugging_face_directory_needs_no_list(json_dir, tmp_path):
    content = json.loads((json_dir / "tokenizer.json").read_text())
    last = max(token["id"] for token in content["added_tokens"])
    for offset, name in enumerate(("boi", "eoi", "image_placeholder"), start=1):
        token = {
            "id": last + offset,
            "content": NAMES[name],
            **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
            "special": True,
        }
        content["added_tokens"].append(token)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    config = {
        "bos_token": {"content": NAMES["bos"]},
        "eos_token": NAMES["eos"],
        "pad_token": NAMES["pad"],
        "extra_special_tokens": {
            "boi_token": NAMES["boi"],
            "eoi_token": NAMES["eoi"],
            "image_token": NAMES["image_placeholder"],
        },
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = tokenizer_lib.load(tmp_path)
    assert tokenizer.special.boi == last + 1
    assert tokenizer.tokens[NAMES["pad"]] not in tokenizer.encode(NAMES["pad"])


def test_the_shipped_tokenizer():
    tokenizer = tokenizer_lib.load("assets/tokenizer")
    assert tokenizer.vocab_size == 4096
    assert set(ROLES) < set(tokenizer.tokens)
    text = "two hamburgers to the left of a palm tree\n日本 <s>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(" dog face")) == 2


DEEPSEEK = pathlib.Path(os.environ.get("UNIJAX_DEEPSEEK_TOKENIZER", "/nonexistent"))


@pytest.mark.skipif(
    not DEEPSEEK.is_file(),
    reason="set UNIJAX_DEEPSEEK_TOKENIZER to the tokenizer.json of deepseek-tokenizer 0.1.0",
)
def test_deepseeks_tokenizer_with_the_special_tokens_of_janus_pro():
    listed = "assets/tokenizer/janus_pro/special_tokens.json"
    tokenizer = tokenizer_lib.load(DEEPSEEK, listed)
    assert tokenizer.encode("User:") == [5726, 25]
    special = tokenizer.special
    assert (special.bos, special.eos, special.pad) == (100000, 100001, 100002)
    assert (special.boi, special.image_placeholder, special.eoi) == (100016, 100581, 100593)
    tokenizer_lib.check_vocab(tokenizer, 102400)
    for token in tokenizer.tokens:
        text = f"say {token}, and again{token}"
        ids = tokenizer.encode(text)
        assert set(tokenizer.tokens.values()).isdisjoint(ids)
        assert tokenizer.decode(ids) == text


def _message(call) -> str:
    with pytest.raises(UserError) as error:
        call()
    return str(error.value)


def test_errors_name_what_is_wrong(json_dir, tokenizer_dir, tokenizer, tmp_path):
    assert "no such file" in _message(lambda: tokenizer_lib.load(tmp_path))
    assert "no such file" in _message(lambda: tokenizer_lib.load(tmp_path / "none.json"))
    check = _message(lambda: tokenizer_lib.check_vocab(tokenizer, 100))
    assert "ids up to 329" in check
    assert "vocab_size, 100" in check
    tokenizer_lib.check_vocab(tokenizer, 330)

    broken = tmp_path / "broken"
    broken.mkdir()
    whole = (json_dir / "tokenizer.json").read_bytes()
    (broken / "tokenizer.json").write_bytes(whole)
    lacking = _message(lambda: tokenizer_lib.load(broken))
    assert "no boi_token, eoi_token, image_token in any file beside the tokenizer" in lacking
    (broken / "tokenizer_config.json").write_text("{")
    assert "tokenizer_config.json: found Expecting" in _message(lambda: tokenizer_lib.load(broken))
    (broken / "tokenizer.json").write_text("{")
    assert "tokenizer.json: found Expecting" in _message(lambda: tokenizer_lib.load(broken))
    write(broken / "special_tokens.json", SpecialTokens(NAMES, {}))
    none = broken / "none.json"
    assert "found no none.json" in _message(
        lambda: tokenizer_lib.load(broken / "tokenizer.json", none)
    )
    assert "a Hugging Face tokenizer.json" in _message(lambda: tokenizer_lib.load(broken))

    (broken / "tokenizer.json").unlink()
    (broken / "tokenizer.model").write_bytes((tokenizer_dir / "tokenizer.model").read_bytes()[:999])
    assert "a sentencepiece model" in _message(lambda: tokenizer_lib.load(broken))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("[]", "a list"),
        ("{", "Expecting"),
        ({"names": {k: v for k, v in NAMES.items() if k != "eos"}}, "no token for eos"),
        ({"names": NAMES | {"bol": "x"}}, "names bol"),
        ({"names": NAMES, "tokens": {NAMES["boi"]: "7"}}, "id '7'"),
        ({"names": NAMES, "tokens": {NAMES["boi"]: 7, NAMES["eoi"]: 7}}, "one id for two tokens"),
        ({"names": NAMES, "tokens": {"x": 2000}}, "special token 'x'"),
        ({"names": NAMES, "tokens": {NAMES["bos"]: 3}}, f"for {NAMES['bos']!r}"),
        ({"names": NAMES, "tokens": {}}, f"no token {NAMES['boi']!r}"),
        ({"names": NAMES, "tokens": {NAMES["boi"]: 260}}, "id 260 taken by"),
    ],
)
def test_errors_of_the_list(json_dir, tmp_path, content, found):
    path = tmp_path / "special_tokens.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert found in _message(lambda: tokenizer_lib.load(json_dir / "tokenizer.json", path))


def test_a_tokenizer_whose_saved_copy_could_not_be_read_is_refused_at_once(tokenizer_dir, tmp_path):
    """A run trained to its end, and then `ask` and `export` refused what it had copied."""
    proto = model_pb2.ModelProto()
    proto.ParseFromString((tokenizer_dir / "tokenizer.model").read_bytes())
    single = next(p for p in proto.pieces if len(p.piece) == 1 and p.piece.isalpha())
    single.type = single.CONTROL
    shutil.copytree(tokenizer_dir, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.model").write_bytes(proto.SerializeToString())
    found = re.escape(f"special token '{single.piece}'; expected at least two characters")
    with pytest.raises(UserError, match=found):
        tokenizer_lib.load(tmp_path)


def _reads_or_tells(directory: pathlib.Path) -> None:
    with contextlib.suppress(UserError):
        tokenizer_lib.load(directory)


def test_a_damaged_model_is_read_or_told(tmp_path):
    """Of 1,300 damaged tokenizers 21 were tracebacks: pieces of no UTF-8 among them."""
    shutil.copytree(assets_dir() / "tokenizer", tmp_path / "t")
    for name in ("tokenizer.model", "special_tokens.json"):
        whole = (tmp_path / "t" / name).read_bytes()
        for seed in range(60):
            chance, content = random.Random(seed), bytearray(whole)
            for _ in range(chance.choice([1, 4, 32])):
                content[chance.randrange(len(content))] = chance.randrange(256)
            cut = chance.choice([len(content), chance.randrange(len(content))])
            (tmp_path / "t" / name).write_bytes(content[:cut])
            _reads_or_tells(tmp_path / "t")
        (tmp_path / "t" / name).write_bytes(whole)


def _places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else items:
        yield from _places(inner, (*path, key))


ODD = (None, -1, 2**70, 1.5, "x", "", [], {}, [[]])


def test_a_tokenizer_json_with_anything_anywhere_is_read_or_told(tmp_path, capfd):
    """The library panics where an id is out of range, which no `except Exception` catches."""
    library = tokenizers.Tokenizer(
        tokenizers.models.BPE({"a": 0, "b": 1, "ab": 2, "</s>": 3}, [("a", "b")])
    )
    library.add_special_tokens(["</s>"])
    write(tmp_path / "special_tokens.json", SpecialTokens({"eos": "</s>"}, {"</s>": None}))
    whole = json.loads(library.to_str())
    for path in list(_places(whole))[1:]:
        for odd in ODD:
            content = json.loads(json.dumps(whole))
            place = content
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = odd
            (tmp_path / "tokenizer.json").write_text(json.dumps(content))
            _reads_or_tells(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    assert tokenizer_lib.load(tmp_path).encode("ab") == [2]
