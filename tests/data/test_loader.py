"""The stream of rows and the loader: mixture, processes, resuming, cached values."""

import dataclasses
import json
from collections import Counter
from fractions import Fraction

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.conftest import GEN, LAYOUT, RECORDS, UND, small_config, stream
from tests.long import LONG
from unijax.core.batch import Kind, Target
from unijax.core.stream import Layout
from unijax.data import images
from unijax.data.batch import Cached
from unijax.data.config import GroupConfig, SourceConfig
from unijax.data.document import document_size
from unijax.data.loader import Loader, fixed_batches
from unijax.data.sources import Order, open_records


def names(row) -> list[str]:
    return [placed.document.name for placed in row]


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize("unit", ["samples", "tokens"])
def test_any_prefix_of_the_documents_is_within_one_document_of_the_ratio(tokenizer, unit):
    rows = stream(tokenizer, unit=unit)
    ratio = {"und": Fraction(2, 10), "text": Fraction(3, 10), "gen": Fraction(5, 10)}
    within = {"text": Fraction(2, 10), "pages": Fraction(1, 10)}  # of the group's 3/10
    counts, by_source, longest = Counter(), Counter(), 0
    for _ in range(300):
        parts = rows.next_document()
        tokens = sum(document_size(placed.document, LAYOUT).tokens for placed in parts)
        cost = 1 if unit == "samples" else tokens
        longest = max(longest, cost)
        counts[rows.group_of(parts[0].source)] += cost
        by_source[parts[0].source] += cost
        for group, share in ratio.items():
            assert abs(counts[group] - share * counts.total()) <= longest
        for source, share in within.items():
            assert abs(by_source[source] - share / ratio["text"] * counts["text"]) <= longest


def test_every_epoch_shows_every_record_once_in_an_order_of_its_own(tokenizer):
    rows = stream(tokenizer)
    seen = Counter()
    order = []
    for _ in range(200):
        for placed in rows.next_document():
            seen[placed.document.name] += 1
            if placed.source == "draw":
                order.append(tuple(map(int, placed.document.name.split("/")[1:])))
    assert set(seen.values()) == {1}
    length = len(RECORDS["draw"])
    epochs = [[i for e, i in order if e == epoch] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(length))
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("length", [1, 7, 4096, 5000])
def test_order_is_a_permutation_in_every_epoch(length):
    order = Order("name", length, seed=3)
    first = [order[i] for i in range(length)]
    assert sorted(first) == [(0, i) for i in range(length)]
    if length > 1:
        second = [order[length + i][1] for i in range(length)]
        assert sorted(second) == list(range(length))
        assert second != [index for _, index in first]
        other = Order("name", length, seed=4)
        assert [other[i] for i in range(length)] != first


def test_rows_are_a_function_of_seed_data_and_config(tokenizer):
    first, second = stream(tokenizer), stream(tokenizer)
    rows = [names(next(first)) for _ in range(20)]
    assert rows == [names(next(second)) for _ in range(20)]
    other = stream(tokenizer, seed=1)
    assert rows != [names(next(other)) for _ in range(20)]


@pytest.mark.parametrize("processes", [2, 4])
def test_every_number_of_processes_sees_the_same_global_rows(tokenizer, processes):
    whole = Loader(small_config(), LAYOUT, tokenizer, RECORDS)
    parts = [
        Loader(small_config(), LAYOUT, tokenizer, RECORDS, None, p, processes)
        for p in range(processes)
    ]
    for _ in range(3):
        batch = next(whole)
        pieces = [next(part) for part in parts]
        together = jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)
        assert_same(batch, together)
        for part in parts:
            assert part.info == whole.info


def test_a_process_decodes_its_own_rows_alone(tokenizer):
    read = []

    def lazily(record):
        def content():
            read.append(record["id"])
            return record["image"]

        return record | {"image": content}

    records = RECORDS | {name: [lazily(r) for r in RECORDS[name]] for name in ("ask", "draw")}
    config = small_config()
    loaders = [Loader(config, LAYOUT, tokenizer, records, None, process, 2) for process in range(2)]
    counts = []
    for loader in loaders:
        read.clear()
        batch = next(loader)
        counts.append(len(read))
        shown = int(sum(slots.weight.sum() for slots in batch.images.values()))
        pages = sum("pages" in name for name in loader.info.names.values())
        assert shown - pages <= counts[-1] <= shown


@pytest.mark.parametrize("changes", [
    {}, {"unit": "tokens"}, {"overlong": "split", "row_length": 48}, {"open_rows": 1},
    {"prefetch": 3},
])  # fmt: skip
def test_resuming_gives_the_same_remaining_batches(tokenizer, changes):
    config = small_config(**changes)
    straight = Loader(config, LAYOUT, tokenizer, RECORDS)
    batches = [next(straight) for _ in range(6)]
    straight.close()
    for consumed in (0, 1, 4):
        stopped = Loader(config, LAYOUT, tokenizer, RECORDS)
        for _ in range(consumed):
            next(stopped)
        state = json.loads(json.dumps(stopped.get_state()))
        stopped.close()
        resumed = Loader(config, LAYOUT, tokenizer, RECORDS)
        resumed.set_state(state)
        assert resumed.get_state() == state
        for expected in batches[consumed:]:
            assert_same(next(resumed), expected)
        resumed.close()


@pytest.fixture(scope="module")
def straight(tokenizer):
    """Batches of one process that never stopped, and their documents."""
    loader = Loader(small_config(), LAYOUT, tokenizer, RECORDS)
    batches = [(next(loader), loader.documents) for _ in range(12)]
    loader.close()
    return batches


@settings(
    max_examples=30 if LONG else 6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(lives=st.lists(st.tuples(st.sampled_from([1, 2, 4]), st.integers(0, 3)), max_size=4))
def test_restarted_with_any_number_of_processes_the_rows_go_on_where_they_were(
    tokenizer, straight, lives
):
    """Each life has so many processes and batches, and begins with the state that one of the
    processes before it saved."""
    state, given = None, 0
    for processes, batches in lives:
        loaders = [
            Loader(small_config(), LAYOUT, tokenizer, RECORDS, None, p, processes)
            for p in range(processes)
        ]
        for loader in loaders:
            if state is not None:
                loader.set_state(state)
        for _ in range(batches):
            pieces = [next(loader) for loader in loaders]
            expected, documents = straight[given]
            assert_same(jax.tree.map(lambda *parts: np.concatenate(parts), *pieces), expected)
            assert all(loader.documents == documents for loader in loaders)
            given += 1
        states = [json.loads(json.dumps(loader.get_state())) for loader in loaders]
        assert all(other == states[0] for other in states)
        state = states[-1]
        for loader in loaders:
            loader.close()


def test_batches_have_the_shapes_and_contents_of_the_contract(tokenizer):
    config = small_config()
    loader = Loader(config, LAYOUT, tokenizer, RECORDS)
    batch = next(loader)
    b, t = config.rows, config.row_length
    for name in ("tokens", "kind", "segment", "position", "image", "target_kind", "target"):
        assert getattr(batch, name).shape == (b, t)
        assert getattr(batch, name).dtype == np.int32
    assert batch.weight.dtype == np.float32
    assert batch.uid.dtype == np.uint32
    assert list(batch.images) == ["und", "gen"]
    for stream_ in (UND, GEN):
        slots, count = batch.images[stream_.slots], config.slots[stream_.slots]
        assert slots.pixels.shape == (b, count, stream_.size, stream_.size, 3)
        assert slots.pixels.dtype == np.uint8
        assert slots.seed.dtype == np.uint32
        used = (batch.kind == stream_.kind).sum(axis=1) // stream_.tokens
        np.testing.assert_array_equal(slots.weight.sum(axis=1), used)
        assert not slots.pixels[slots.weight == 0].any()
        assert not slots.seed[slots.weight == 0].any()
        addresses = batch.tokens[batch.kind == stream_.kind]
        assert addresses.max() < count * stream_.tokens
    assert set(batch.uid[batch.kind != Kind.PAD]) == set(loader.info.names)


def test_slots_hold_the_pictures_that_tokens_address(tokenizer):
    config = small_config()
    loader = Loader(config, LAYOUT, tokenizer, RECORDS)
    for _ in range(3):
        batch = next(loader)
        for row, uid in zip(*np.unique(np.stack(np.nonzero(batch.kind == Kind.GEN)), axis=1)):
            uid = batch.uid[row, uid]
            source, _, index = loader.info.names[uid].split("/")
            pixels = images.decode(RECORDS[source][int(index)]["image"], "", 10**6)
            expected = images.for_generation(pixels, GEN.size)
            here = (batch.uid[row] == uid) & (batch.kind[row] == Kind.GEN)
            slot = batch.tokens[row][here][0] // GEN.tokens
            np.testing.assert_array_equal(batch.images["gen"].pixels[row, slot], expected)


def test_roles_that_share_slots_keep_their_own_preparation_and_noise(tokenizer):
    """A clean image to read beside noised ones to make, in one array, each as its stream says."""
    und = dataclasses.replace(UND, slots="images", kind=Kind.GEN, t_max=0.5, tokens=GEN.tokens)
    noise = {"target": Target.NOISE, "answers": (0, 0)}
    layout = Layout((und, dataclasses.replace(GEN, slots="images", **noise)))
    loader = Loader(small_config(slots={"images": 5}), layout, tokenizer, RECORDS)
    prepare = {"ask": images.for_understanding, "draw": images.for_generation}
    limits = {"ask": 0.5, "draw": 1.0}
    seen = Counter()
    for _ in range(3):
        batch = next(loader)
        (slots,) = batch.images.values()
        firsts = (batch.kind == Kind.GEN) & (batch.tokens % GEN.tokens == 0)
        assert firsts.sum() == slots.weight.sum()
        assert not slots.t_max[slots.weight == 0].any()
        for row, at in zip(*np.nonzero(firsts)):
            source, _, index = loader.info.names[batch.uid[row, at]].split("/")
            if source not in prepare:
                continue
            slot = batch.tokens[row, at] // GEN.tokens
            pixels = images.decode(RECORDS[source][int(index)]["image"], "", 10**6)
            np.testing.assert_array_equal(slots.pixels[row, slot], prepare[source](pixels, 16))
            assert slots.t_max[row, slot] == limits[source]
            seen[source] += 1
    assert min(seen["ask"], seen["draw"]) > 3


def test_slots_without_noise_have_no_limit_of_it(tokenizer):
    batch = next(Loader(small_config(), LAYOUT, tokenizer, RECORDS))
    assert [slots.t_max for slots in batch.images.values()] == [None, None]


def test_metrics_are_the_realised_shares(tokenizer):
    config = small_config()
    loader = Loader(config, LAYOUT, tokenizer, RECORDS)
    totals = Counter()
    for _ in range(8):
        batch = next(loader)
        metrics = loader.info.metrics
        assert metrics["padding_share"] == pytest.approx((batch.kind == Kind.PAD).mean())
        tokens = sum(metrics[f"{group}_tokens"] for group in ("und", "text", "gen"))
        assert tokens == (batch.kind != Kind.PAD).sum()
        documents = sum(metrics[f"{group}_documents"] for group in ("und", "text", "gen"))
        assert documents == sum(row.max() for row in batch.segment)
        for group in ("und", "text", "gen"):
            totals[group] += metrics[f"{group}_documents"]
            share = metrics[f"{group}_documents"] / documents
            assert metrics[f"{group}_document_share"] == pytest.approx(share)
            share = metrics[f"{group}_tokens"] / tokens
            assert metrics[f"{group}_token_share"] == pytest.approx(share)
    for group, ratio in (("und", 0.2), ("text", 0.3), ("gen", 0.5)):
        assert abs(totals[group] / totals.total() - ratio) < 0.1


def test_repeated_tokens_are_all_but_those_of_a_record_s_first_time(tokenizer):
    loader = Loader(small_config(), LAYOUT, tokenizer, RECORDS)
    seen, repeated, first_steps = {}, 0, []
    for _ in range(30):
        batch = next(loader)
        for uid, name in loader.info.names.items():
            source, epoch, index = name.split("/")
            tokens = (batch.uid[batch.kind != Kind.PAD] == uid).sum()
            times = seen.setdefault((source, index), {})
            assert int(epoch) not in times
            times[int(epoch)] = tokens
        repeated += loader.info.metrics["repeated_tokens"]
        first_steps.append(repeated)
    assert first_steps[0] == 0 < first_steps[-1]
    # Rows close out of order: the first time may still stand in an open row.
    assert repeated == sum(sum(t.values()) - t.get(0, 0) for t in seen.values())
    assert sum(0 not in t for t in seen.values()) <= 3


def test_cached_values_stand_for_pixels(tokenizer):
    config = small_config()
    n = GEN.tokens

    def codes(key):
        return np.full(n, int(key[:4], 16), np.int32)

    def features(key):
        return np.full((UND.tokens, 5), int(key[:2], 16), np.float32)

    cached = {
        "gen": Cached("codes", codes, (n,), np.int32),
        "und": Cached("features", features, (UND.tokens, 5), np.float32),
    }
    plain, fast = (
        Loader(config, LAYOUT, tokenizer, RECORDS),
        Loader(config, LAYOUT, tokenizer, RECORDS, cached),
    )
    for _ in range(3):
        left, right = next(plain), next(fast)
        assert_same(left.replace(images={}), right.replace(images={}))
        for name, slots in left.images.items():
            np.testing.assert_array_equal(slots.weight, right.images[name].weight)
            assert right.images[name].pixels is None
        shown, codes_ = left.images["gen"].pixels, right.images["gen"].codes
        assert codes_.shape == (*shown.shape[:2], n)
        found = right.images["und"].features
        assert found.shape == (*left.images["und"].weight.shape, UND.tokens, 5)
        same = shown.reshape(-1, shown[0, 0].size)
        keys = codes_[..., 0].reshape(-1)
        for i in range(len(keys)):
            for j in range(i):
                assert (keys[i] == keys[j]) == (same[i] == same[j]).all()


def test_scenes_are_arrays(tokenizer):
    scene = np.full((8, 8, 3), 77, np.uint8)
    records = RECORDS | {"draw": [r | {"image": scene} for r in RECORDS["draw"]]}
    batch = next(Loader(small_config(), LAYOUT, tokenizer, records))
    gen = batch.images["gen"]
    assert (gen.pixels[gen.weight == 1] == 77).all()


def test_held_out_batches_never_change_and_have_no_chance_in_them(tokenizer):
    config = small_config(p_drop_condition=1.0, p_first_sentence=1.0)
    first = fixed_batches(config, LAYOUT, tokenizer, 3, RECORDS)
    second = fixed_batches(config, LAYOUT, tokenizer, 3, RECORDS)
    for left, right in zip(first, second, strict=True):
        assert_same(left, right)
        assert tokenizer.special.pad not in left.tokens[left.kind == Kind.TEXT]
    dropped = next(Loader(config, LAYOUT, tokenizer, RECORDS))
    assert tokenizer.special.pad in dropped.tokens[dropped.kind == Kind.TEXT]


def test_sources_come_and_go_with_the_steps(tokenizer):
    groups = (
        GroupConfig("gen", 1.0, (
            SourceConfig("early", "category_to_image", until_step=5),
            SourceConfig("late", "generate", from_step=5),
            SourceConfig("always", "caption_to_image"),
        )),
    )  # fmt: skip
    config = small_config(groups=groups, open_rows=1)
    records = dict.fromkeys(("early", "late", "always"), RECORDS["draw"])
    loader = Loader(config, LAYOUT, tokenizer, records)
    drawn = []
    for step in range(10):
        if step == 7:
            state = loader.get_state()
        batch = next(loader)
        drawn.append(Counter(name.split("/")[0] for name in loader.info.names.values()))
    assert all("late" not in counts for counts in drawn[:5])
    assert all("early" not in counts for counts in drawn[6:])
    # A source that comes late does not make up for what it missed.
    for counts in (sum(drawn[:5], Counter()), sum(drawn[6:], Counter())):
        other = counts.total() - counts["always"]
        assert abs(counts["always"] - other) <= 3
    resumed = Loader(config, LAYOUT, tokenizer, records)
    resumed.set_state(state)
    for _ in range(3):
        last = next(resumed)
    assert_same(last, batch)


def test_a_source_is_narrowed_to_categories_and_a_limit(tmp_path):
    lines = [{"id": str(i), "text": "x", "category": "ab"[i % 2]} for i in range(40)]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def ids(**changes):
        records = open_records(SourceConfig("s", "text", "jsonl", str(path), **changes), 0)
        return [records[i]["id"] for i in range(len(records))]

    assert ids() == [str(i) for i in range(40)]
    assert ids(categories=("b",)) == [str(i) for i in range(1, 40, 2)]
    few = ids(limit=7)
    assert len(few) == 7
    assert few == sorted(few, key=int)
    assert few != [str(i) for i in range(7)]
    assert set(few) < set(ids(limit=12))  # a larger limit adds to the choice
    # A choice by id: other records do not change which of these are taken.
    both = ids(categories=("a",), limit=5)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[::2]))
    assert ids(limit=5) == both


def test_a_stream_without_images_has_no_slots(tokenizer):
    groups = (GroupConfig("text", 1.0, (SourceConfig("text", "text"),)),)
    config = dataclasses.replace(small_config(), groups=groups, slots={})
    batch = next(Loader(config, LAYOUT, tokenizer, RECORDS))
    assert batch.images == {}
    assert set(np.unique(batch.target_kind)) == {Target.NONE, Target.TEXT}
