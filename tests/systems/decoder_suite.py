"""What every system of packed rows must do: a suite that each inherits (`system_suite`)."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.systems.small import FIRST_WORD, SmallRows, assert_close, words
from tests.systems.system_suite import SystemSuite
from tests.walk import product_flops
from unijax.core import cost, tree
from unijax.core.batch import PackedBatch, Target
from unijax.core.making import Codes
from unijax.core.system import init_shapes
from unijax.data.batch import Cached
from unijax.data.document import Document, ImageRef, ImageSpan, TextSpan
from unijax.sample.image import draw_codes
from unijax.sample.logits import Choice, guide
from unijax.sample.prompts import Prompting, unconditional, up_to_image
from unijax.sample.text import write_ids
from unijax.train.lora import matched
from unijax.train.stage import LoraRule, OptimizerConfig, Rule, StageConfig, match_rules

NEVER = 2**30  # an id that ends nothing


class DecoderSuite(SystemSuite):
    """Subclasses name a small system of rows.

    Attributes:
      edges_in_rows: as `edges`, of what is no encoder.
      examples: packings that are drawn.
      steps: ids of an answer.
      reads_codes: encoders that a step works where their outputs are cached, too: on codes.
      margin: between the best two logits of every choice, so that rounding decides none.
    """

    small: SmallRows
    edges_in_rows = 0.0
    examples = 25
    steps = 6
    reads_codes: tuple[str, ...] = ()
    margin = 1e-4

    # Documents

    @property
    def packings(self) -> st.SearchStrategy:
        """Documents, which of them is meant, and for each, in their order, the row it goes to."""
        word = st.integers(FIRST_WORD, self.small.last_word)
        text = st.lists(st.tuples(word, st.sampled_from([0.0, 0.5, 1.0])), min_size=1)
        pictures = len(self.small.images) * self.small.pictures
        document = st.lists(st.one_of(text, st.integers(0, pictures - 1)), min_size=1, max_size=3)
        row_of = st.lists(st.integers(0, self.small.rows - 1), min_size=5, max_size=5)
        return st.lists(document, min_size=1, max_size=5).flatmap(
            lambda drawn: st.tuples(st.just(drawn), st.integers(0, len(drawn) - 1), row_of)
        )

    def build(self, packing) -> tuple[Document, list[list[Document]]]:
        """The document that is meant, and rows that hold it somewhere among others."""
        drawn, chosen, row_of = packing
        images = [span for spans in self.small.images.values() for span in spans]
        documents = [
            Document(
                f"s/0/{i}",
                tuple(
                    images[span] if isinstance(span, int) else TextSpan(*zip(*span[:5]))
                    for span in spans
                ),
            )
            for i, spans in enumerate(drawn)
        ]
        rows = [
            [document for document, of in zip(documents, row_of) if of == row]
            for row in range(self.small.rows)
        ]
        for row in rows:
            others = [d for d in row if d is not documents[chosen]]
            while sum(map(self.small.size, row)) > self.small.length:
                row.remove(others.pop())
        return documents[chosen], rows

    def every_packing(self, check, examples: int) -> None:
        settings(max_examples=examples, deadline=None)(given(self.packings)(check))()

    # The head

    def test_a_head_that_is_the_table_is_trained_drawn_with_and_counted(self):
        """Whatever else a recipe does with its text head, it does with the table, too."""
        config, batch = self.small.system.config, self.a_batch()
        text = dataclasses.replace(config.text, tie_word_embeddings=True)
        tied = dataclasses.replace(config, text=text)
        system = dataclasses.replace(self.small.system, config=tied)
        params = nn.unbox(init_shapes(system))
        paths = list(tree.flatten(params))
        assert not [path for path in paths if "lm_head" in path]
        for frozen in (frozenset(), frozenset(paths)):
            loss = functools.partial(system.loss, step=jnp.zeros((), int), frozen=frozen)
            sums, _ = jax.eval_shape(loss, params, batch, jax.random.key(0))
            assert sums.keys() == system.weights(batch).keys()
        hidden = jax.ShapeDtypeStruct((1, text.hidden_size), jnp.float32)
        assert jax.eval_shape(system.text_logits, params, hidden).shape == (1, text.vocab_size)
        if isinstance(getattr(system, "maker", None), Codes):
            jax.eval_shape(getattr(system, system.maker.logits), params, hidden)
        for group in {c.group for c in system.costs} - {""}:
            assert any(tree.is_within(path, group) for path in paths), group

    # What packing may not change

    def test_a_document_does_not_depend_on_what_it_was_packed_with_nor_where(self):
        def check(packing):
            document, rows = self.build(packing)
            batch = self.small.batch
            found, found_grads = self.small.of_document(batch(rows), document)
            alone, alone_grads = self.small.of_document(batch([[document]]), document)
            np.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-6)
            if alone:
                assert_close(found_grads, alone_grads)

        self.every_packing(check, self.examples)

    def test_what_is_cached_stands_for_pixels(self):
        small = self.small
        encoders = {how.group for how in small.system.encoded.values()}

        def check(packing):
            _, rows = self.build(packing)
            (loss, _), grads = small.value_and_gradients(small.batch(rows))
            cached = small.value_and_gradients(small.batch(rows, small.caches))
            (found, _), found_grads = cached
            np.testing.assert_allclose(found, loss, rtol=1e-5)
            towers = {group: found_grads.pop(group) for group in encoders & found_grads.keys()}
            alone = [x for group, x in towers.items() if group not in self.reads_codes]
            assert not any(np.any(x) for x in jax.tree.leaves(alone))
            if loss:
                assert_close(found_grads, {g: grads[g] for g in found_grads})

        self.every_packing(check, self.examples * 2 // 5)

    def test_a_batch_of_text_alone_needs_no_images(self):
        """Slots that a config leaves out are not there; empty ones change nothing."""
        small = self.small
        rows = [[Document("t", (words(8, 9, 10, 11),))]]
        batch = small.batch(rows)
        loss = jax.jit(functools.partial(small.loss, frozen=frozenset()))
        found, _ = loss(small.params, batch.replace(images={}), None)
        want, _ = loss(small.params, batch, None)
        assert found.keys() == want.keys() == small.system.weights(batch).keys()
        for name, value in want.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)
        assert sum(found.values()) > 0

    # What is counted

    def amounts(self, rows: list[list[Document]], encoded: bool) -> dict[str, float]:
        """Slowly, from documents."""
        layout, found = self.small.system.layout, {}

        def add(unit, n):
            found[unit] = found.get(unit, 0.0) + n

        for name in layout.slots:
            of = (cost.tokens_of, cost.images_of, *([cost.encoded_of] if encoded else []))
            found |= {unit(name): 0.0 for unit in of}
        for target in Target:
            if target != Target.NONE:
                found[cost.targets(target.name.lower())] = 0.0
        for document in (d for row in rows for d in row):
            ends, seen = [], 0  # of each position: behind the last that it sees
            learned = []  # whether it is a text that the position before it answers with
            for span in ([layout.start] if layout.start else []) + [*document.spans]:
                if isinstance(span, ImageSpan):
                    stream = layout.by_role[span.role]
                    if stream.before:
                        ends.append(len(ends) + 1)
                        learned.append(stream.before.learned)
                    last = len(ends) + stream.tokens
                    whole = stream.kind in self.small.system.sees_whole
                    for _ in range(stream.tokens):
                        ends.append(last if whole else len(ends) + 1)
                        learned.append(False)
                    if stream.after:
                        ends.append(len(ends) + 1)
                        learned.append(stream.after.learned)
                    add(cost.tokens_of(stream.slots), stream.tokens)
                    seen += stream.tokens * whole  # by those before them, too
                    add(cost.images_of(stream.slots), 1)
                    if encoded:
                        add(cost.encoded_of(stream.slots), 1)
                    if stream.target != Target.NONE:
                        first, behind = stream.answers
                        unit = cost.targets(stream.target.name.lower())
                        add(unit, stream.tokens + behind - first)
                    continue
                weights = [0.0] if isinstance(span, str) else span.weights
                for weight in weights:
                    ends.append(len(ends) + 1)
                    learned.append(weight > 0)
            add(cost.TOKENS, len(ends))
            add(cost.CAUSAL, len(ends) - seen)
            add(cost.PAIRS, sum(ends))
            add(cost.targets("text"), sum(learned[1:]))
        return found

    def test_amounts_are_those_of_the_documents(self):
        small, d = self.small, self.small.documents()
        rows = [[d["read"], d["made"], d["both"]], [d["text"]]]
        for cached in (None, small.caches):
            batch = small.batch(rows, cached)
            found = {k: float(x) for k, x in small.system.amounts(batch).items()}
            assert found == self.amounts(rows, encoded=cached is None)
            # As most count: rows without documents, padding in them.
            as_causal = small.system.amounts(batch, as_causal=True)
            as_causal = {k: float(x) for k, x in as_causal.items()}
            all_causal = small.rows * small.length * (small.length + 1) // 2
            assert as_causal == found | {cost.PAIRS: all_causal}
        counts = {k: float(x / n) for k, (x, n) in small.system.counts(batch).items()}
        amounts = self.amounts(rows, encoded=False)
        assert counts["tokens"] == amounts[cost.TOKENS]
        assert counts["documents"] == sum(map(len, rows))
        size = small.rows * small.length
        assert counts["padding"] == pytest.approx(1 - amounts[cost.TOKENS] / size)
        kinds = [target.name.lower() for target in Target if target != Target.NONE]
        learned = sum(amounts[cost.targets(kind)] for kind in kinds)
        assert sum(n for name, n in counts.items() if name.endswith("/targets")) == learned

    # FLOPs

    def worked(self, batch: PackedBatch) -> dict[str, float]:
        """A loop over chunks of answers counts as one (`walk`); attention has all pairs."""
        small = self.small
        tokens = float(small.rows * small.length)
        found = dict.fromkeys((cost.TOKENS, cost.CAUSAL), tokens)
        found[cost.PAIRS] = tokens * small.length
        chunk = min(tokens, float(small.system.config.head_chunk))
        found |= {cost.targets(t.name.lower()): chunk for t in Target if t != Target.NONE}
        for name, slots in batch.images.items():
            images = float(slots.weight.size)
            n = small.streams_of(name)[0].tokens
            found |= {cost.images_of(name): images, cost.tokens_of(name): images * n}
            if slots.pixels is not None:
                found[cost.encoded_of(name)] = images
        return found

    def test_flops_are_those_of_the_program(self):
        """Of all that is no encoder; and of encoders, which pixels need and caches do not."""
        small, rows = self.small, [[*self.small.documents().values()][:2]]
        pixels, cached = small.batch(rows), small.batch(rows, small.caches)
        without = self.costs_of(cached)
        assert self.forward_flops(cached) == pytest.approx(without, rel=self.edges_in_rows)
        encoders = self.forward_flops(pixels) - self.forward_flops(cached)
        assert self.costs_of(pixels) - without == pytest.approx(encoders, rel=self.edges)

    def test_a_frozen_encoder_costs_its_forward_pass_alone(self):
        small = self.small
        encoders = {how.group for how in small.system.encoded.values()}
        trained = {name: p for name, p in small.trained.items() if name not in encoders}
        frozen = small.paths(*small.params.keys() - trained.keys())
        d = small.documents()
        rows = [[d["read"], d["made"]]]
        pixels, cached = small.batch(rows), small.batch(rows, small.caches)

        def products(trained, batch, frozen, gradients=True):
            run = functools.partial(small.objective, frozen=frozen)
            run = jax.grad(run, has_aux=True) if gradients else run
            return product_flops(jax.make_jaxpr(run)(trained, batch).jaxpr)

        forward = self.forward_flops(pixels) - self.forward_flops(cached)
        assert forward > 0
        extra = products(trained, pixels, frozen) - products(trained, cached, frozen)
        assert extra == forward
        for group in encoders & small.trained.keys():  # one that trains costs more
            more = trained | {group: small.params[group]}
            assert products(more, pixels, frozen - small.paths(group)) > products(
                trained, pixels, frozen
            )

    # Sampling

    def hidden(self, batch: PackedBatch) -> jax.Array:
        """Hidden states as a step of training has them, of clean images as prompts have them."""
        images = {
            name: slots if slots.t_max is None else slots.replace(t_max=0 * slots.t_max)
            for name, slots in batch.images.items()
        }
        return _hidden(self.small.system)(self.small.params, batch.replace(images=images))

    def prompts(self) -> list[Document]:
        """Texts and pictures of different length, those to read among them."""
        d, images = self.small.documents(), self.small.images
        first = next(iter(images.values()))
        return [
            Document("text", (words(8, 9, 10),)),
            Document("picture", (words(11), first[0], words(12, 13))),
            Document("pictures", (*d["both"].spans, first[3], words(9))),
        ]

    def test_fine_tuning_finds_what_it_keeps_and_what_it_adapts(self):
        """Rules for one system's parts were those of all: no other could be fine-tuned."""
        system = self.small.system
        paths = [*tree.flatten(init_shapes(system))]
        kept = (*(Rule(pattern, frozen=True) for pattern in system.keeps), Rule(""))
        rules = match_rules(StageConfig("tune", 1, kept, {"main": OptimizerConfig(1.0)}), paths)
        trained = {path for path, rule in rules.items() if not rule.frozen}
        assert trained
        adapted = matched(system, (LoraRule(system.adapts, 2, 2.0),))
        assert adapted
        assert {f"{path}/kernel" for path in adapted} <= trained

    def test_greedy_answers_are_those_of_teacher_forcing(self):
        """From a cache, ids one by one, in one batch and alone."""
        small, system = self.small, self.small.system
        prompting = Prompting(system.layout, small.special)
        params = system.for_decoding(small.params)
        prompts = self.prompts()

        def written(documents):
            seeds = np.zeros(len(documents), np.uint32)
            ids = write_ids(
                system, params, *prompting.batch(documents), jnp.array([NEVER]), seeds, Choice(),
                jnp.int32(self.steps), space=self.steps,
            )  # fmt: skip
            return np.asarray(ids)

        together = written(prompts)
        for prompt, ids in zip(prompts, together):
            np.testing.assert_array_equal(written([prompt])[0], ids)
            document = Document("d", (*prompt.spans, words(*map(int, ids))))
            hidden = self.hidden(small.batch([[document]]))[0]
            end = small.size(document)
            logits = system.text_logits(small.params, hidden[end - self.steps - 1 : end - 1])
            self.check_greedy(ids, logits)
        assert len({tuple(ids) for ids in together}) > 1

    def test_greedy_codes_are_those_of_teacher_forcing(self):
        """From a cache, codes one by one, with guidance and without, in one batch and alone."""
        small, system, maker = self.small, self.small.system, self.small.system.maker
        if not isinstance(maker, Codes):
            return
        layout, special = system.layout, small.special
        prompting = Prompting(layout, special)
        params = system.for_decoding(small.params)
        documents = self.prompts()
        free = [unconditional(document, maker.role, layout, special) for document in documents]

        def drawn(chosen, guidance):
            asked = [documents[i] for i in chosen]
            asked += [free[i] for i in chosen] if guidance is not None else []
            asked = [up_to_image(document, maker.role, layout, special) for document in asked]
            seeds = np.zeros(len(chosen), np.uint32)
            codes = draw_codes(system, params, *prompting.batch(asked), seeds, Choice(), guidance)
            return np.asarray(codes)

        for guidance in (None, jnp.float32(3.0)):
            together = drawn(range(len(documents)), guidance)
            for i, codes in enumerate(together):
                np.testing.assert_array_equal(drawn([i], guidance)[0], codes)
                logits = self.code_logits(documents[i], codes)
                if guidance is not None:
                    logits = guide(logits, self.code_logits(free[i], codes), guidance)
                self.check_greedy(codes, logits)
            assert len({tuple(codes) for codes in together}) > 1

    def code_logits(self, prompt: Document, codes: np.ndarray) -> jax.Array:
        """Of a picture of these codes behind a prompt, as a step of training has them."""
        small, maker = self.small, self.small.system.maker
        stream = small.system.layout.by_role[maker.role]
        made = ImageRef("made", np.zeros((stream.size, stream.size, 3), np.uint8))
        cache = small.caches[stream.slots]

        def lookup(key):
            return codes if key == made.key else cache.lookup(key)

        codes_too = Cached(cache.field, lookup, cache.shape, cache.dtype)
        document = Document("d", (*prompt.spans, ImageSpan(maker.role, made)))
        batch = small.batch([[document]], small.caches | {stream.slots: codes_too})
        end = small.size(document) - (stream.after is not None) - 1  # its last token
        hidden = self.hidden(batch)[0, end - maker.tokens : end]
        return getattr(small.system, maker.logits)(small.params, hidden)

    def check_greedy(self, chosen: np.ndarray, logits: jax.Array) -> None:
        best = np.sort(np.asarray(logits), axis=-1)
        assert (best[:, -1] - best[:, -2]).min() > self.margin
        np.testing.assert_array_equal(chosen, np.argmax(logits, axis=-1))


@functools.cache
def _hidden(system):
    return jax.jit(lambda params, batch: system.states(params, system.embed(params, batch), batch))
