"""What recipes ask of the data: what a layout says of its streams, and what none can ask."""

import pytest

from unijax.core.batch import Kind, Target
from unijax.core.errors import UserError
from unijax.core.stream import Layout, Mark, Stream
from unijax.core.vocab import SpecialIds

UND = Stream("und", "und", Kind.UND, 4, 16, "pad")
GEN = Stream("gen", "gen", Kind.GEN, 9, 16, target=Target.CODE)


def stream(**how) -> Stream:
    return Stream("gen", "gen", **({"kind": Kind.GEN, "tokens": 4, "size": 16} | how))


def test_marks_count_towards_the_length():
    assert UND.length == 6
    assert stream(before=None).length == 5
    assert stream(before=None, after=None).length == 4


def test_a_layout_finds_its_streams():
    shared = Stream("edit", "und", Kind.UND, 4, 16, before=Mark("boe"), after=None)
    layout = Layout((UND, GEN, shared))
    assert layout.by_role == {"und": UND, "gen": GEN, "edit": shared}
    assert layout.slots == ("und", "gen")
    assert layout.of_slots("und") == UND
    assert layout.special == ("bos", "boi", "eoi", "boe", "pad")
    assert layout.begins == 1
    assert layout == Layout((UND, GEN, shared))
    assert hash(layout) == hash(Layout((UND, GEN, shared)))


def test_a_layout_of_text_alone():
    layout = Layout(start=None)
    assert (layout.slots, layout.special, layout.begins) == ((), (), 0)


def test_a_tokenizer_may_lack_what_no_row_contains():
    layout = Layout((stream(target=Target.CODE, after=None, unconditional="empty"),), start=None)
    layout.check(SpecialIds(eos=2, boi=3))
    with pytest.raises(UserError) as error:
        Layout((UND, GEN)).check(SpecialIds(eos=2, boi=3))
    assert str(error.value) == (
        "special_tokens.json: found no token for bos, eoi, pad; expected one for each of bos, boi, "
        "eoi, pad, which rows of this system contain. Name them in that file, beside the tokenizer."
    )


def test_noise_is_of_the_slots_that_one_role_noises():
    noise = {"target": Target.NOISE, "answers": (0, 0)}
    read = Stream("und", "gen", Kind.GEN, 4, 16)
    layout = Layout((read, stream(**noise)))
    assert layout.has_noise("gen")
    assert not Layout((UND, GEN)).has_noise("gen")


@pytest.mark.parametrize(
    "how",
    [
        {"resize": "crop"},
        {"unconditional": "zero"},
        {"target": Target.CODE, "before": None},  # nothing of it stands before its first token
        {"target": Target.CODE, "answers": (-2, -1)},
        {"target": Target.CODE, "answers": (-1, 0)},  # what comes next is no token of the image
        {"target": Target.FEATURE, "answers": (3, -1)},  # no position at all
        {"target": Target.NOISE, "answers": (-1, -1)},  # the mark has no noise
        {"target": Target.NOISE, "answers": (0, 1)},
        # The last token would answer with its noise and with what stands behind it.
        {"target": Target.NOISE, "answers": (0, 0), "after": Mark("eoi", learned=True)},
        {"target": Target.NOISE, "answers": (0, 0), "after": None},
    ],
)
def test_streams_whose_positions_have_no_answer_or_two(how):
    with pytest.raises(AssertionError):
        stream(**how)


def test_streams_that_only_read_need_no_marks():
    assert stream(before=None, after=None).target == Target.NONE


def test_roles_stand_once_and_agree_where_they_share_slots():
    with pytest.raises(AssertionError):
        Layout((UND, UND))
    for how in ({"tokens": 5}, {"size": 8}):
        other = Stream("gen", "und", **({"kind": Kind.GEN, "tokens": 4, "size": 16} | how))
        with pytest.raises(AssertionError):
            Layout((UND, other))


def test_a_mark_may_ask_for_its_id():
    """And is the same mark to whoever tells streams of rows apart."""
    layout = Layout((stream(before=Mark("boi", id=7)),))
    layout.check(SpecialIds(eos=1, bos=0, pad=2, boi=7, eoi=8))
    with pytest.raises(UserError, match="boi with the id 6; expected 7, which this system has"):
        layout.check(SpecialIds(eos=1, bos=0, pad=2, boi=6, eoi=8))
    assert repr(layout) == repr(Layout((stream(before=Mark("boi")),)))
