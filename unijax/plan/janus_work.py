"""The work of a step of Janus. What a row holds is data, of which a plan has none: assumed here."""

import dataclasses
from collections.abc import Mapping

from unijax.data.config import DataConfig
from unijax.data.tasks import may_show
from unijax.plan.work import Part, Trained, Work, layers, plain
from unijax.systems.janus import JanusConfig
from unijax.train.stage import Rule

# Tokens of text of a document beside its image, and how many of them are answers, by what it shows.
TEXT = {"und": (192, 128), "text": (640, 640), "gen": (64, 0)}


@dataclasses.dataclass(frozen=True)
class Rows:
    """What the rows of a step hold, in all.

    Attributes:
      rows: of the step.
      length: tokens of a row.
      slots: image slots by stream; 0 where the stream is off.
      encoded: streams whose images are encoded in the step.
      tokens: that are not padding.
      pairs: (query, key) pairs that are visible.
      images: used slots by stream.
      text_targets, code_targets: positions that feed each head.
    """

    rows: int
    length: int
    slots: dict[str, int]
    encoded: frozenset[str]
    tokens: float
    pairs: float
    images: dict[str, float]
    text_targets: float
    code_targets: float

    @classmethod
    def expected(cls, data: DataConfig, cached: bool) -> "Rows":
        """Full rows of documents with one image or none, drawn by the ratio of the mixture.

        A document to read is an image, 64 tokens of questions and 128 of answers; one to draw 64
        tokens and an image; a text has 640 tokens. Where a row's slots do not suffice for its
        images, the rest is padding.
        """
        streams = {"und": data.und, "gen": data.gen}
        ratios = dict.fromkeys(TEXT, 0.0)
        for group in data.groups:
            tasks = [source.task for source in group.sources]
            of = [s for s in streams if any(may_show(task, s) for task in tasks)]
            shows = group.name if group.name in TEXT else of[0] if of else "text"
            ratios[shows] += group.ratio
        whole = sum(ratios.values())
        share = {kind: ratio / whole for kind, ratio in ratios.items()}
        length = {k: TEXT[k][0] + (streams[k].tokens if streams.get(k) else 0) for k in TEXT}
        documents = data.row_length / sum(share[k] * length[k] for k in TEXT)
        for kind, stream in streams.items():
            if stream is not None and share[kind] > 0:
                documents = min(documents, stream.slots / share[kind])
        count = {kind: documents * share[kind] * data.rows for kind in TEXT}
        return cls(
            rows=data.rows,
            length=data.row_length,
            slots={s: c.slots if c else 0 for s, c in streams.items()},
            encoded=frozenset() if cached else frozenset(s for s, c in streams.items() if c),
            tokens=sum(count[k] * length[k] for k in TEXT),
            pairs=sum(count[k] * length[k] * (length[k] + 1) / 2 for k in TEXT),
            images={s: count[s] for s in streams},
            text_targets=sum(count[k] * TEXT[k][1] for k in TEXT),
            code_targets=count["gen"] * (data.gen.tokens if data.gen else 0),
        )


def janus_work(model: JanusConfig, rules: Mapping[str, Rule], remat: str, rows: Rows) -> Work:
    """Of a step that holds `rows`.

    Raises:
      UserError: if nothing trains.
    """
    trained = Trained(rules)
    idle = ["vqmodel/decoder", "vqmodel/post_quant_conv"]  # codes are made, not pictures
    for stream, encoder, others in (
        ("und", "vision_model", ("aligner",)),
        ("gen", "vqmodel", ("generation_embeddings", "generation_aligner", "generation_head")),
    ):
        idle += [encoder] * (stream not in rows.encoded)
        idle += others if not rows.slots[stream] else ()
    return Work(
        amount=rows.tokens,
        unit="token",
        parts=_parts(model, trained, remat, rows),
        lookups={
            "language_model/embed_tokens/embedding": float(rows.rows * rows.length),
            "generation_embeddings/embedding": float(
                rows.rows * rows.slots["gen"] * model.vq.num_tokens
            ),
        },
        # Codes have no gradient.
        forward_only=("vqmodel",) if "vision_model" in trained else ("vqmodel", "vision_model"),
        idle=tuple(idle),
    )


def _parts(model: JanusConfig, trained: Trained, remat: str, rows: Rows) -> dict[str, Part]:
    """By part of the model.

    A frozen encoder costs its forward pass alone. The kernels of attention make scores again for
    the gradients of queries and again for those of keys: 3.5 forward passes where, all kept, 2
    would do.
    """
    text, vision, vq = model.text, model.vision, model.vq
    width, positions = text.hidden_size, rows.rows * rows.length
    again = 1 if remat == "full" else 0
    per_image = {"und": float(vision.flops_per_image()), "gen": float(vq.encode_flops_per_image())}
    slots = {s: rows.rows * n for s, n in rows.slots.items()}
    und, gen = rows.images["und"] * vision.num_tokens, rows.images["gen"] * vq.num_tokens
    at_slots = slots["und"] * vision.num_tokens, slots["gen"] * vq.num_tokens
    pairs = rows.pairs * float(text.flops_per_pair())
    head = rows.text_targets * 2.0 * width * text.vocab_size
    codes = rows.code_targets * 2.0 * (width + vq.num_embeddings) * width
    aligner = 2.0 * (vision.hidden_size + width) * width
    generation_aligner = 2.0 * (vq.embed_dim + width) * width
    decoder, down = float(text.flops_per_token()), 2.0 * width * text.intermediate_size
    found = {
        "decoder": layers(
            rows.tokens, positions, decoder, text.num_hidden_layers * down, remat,
            backward=2 if "language_model/layers" in trained else 1,
        ),
        "attention": Part(pairs, 3 * pairs, (1 + again + 3.5) * pairs),
        "text head": plain(head, head, "language_model/lm_head" in trained),
        "image head": plain(codes, codes, "generation_head" in trained),
        "adaptors": plain(und * aligner, at_slots[0] * aligner, "aligner" in trained)
        + plain(
            gen * generation_aligner, at_slots[1] * generation_aligner,
            "generation_aligner" in trained,
        ),
    }  # fmt: skip
    if "und" in rows.encoded:
        patches = 2.0 * vision.num_tokens * 3 * vision.patch_size**2 * vision.hidden_size
        fc2 = 2.0 * vision.num_tokens * vision.hidden_size * vision.intermediate_size
        last = patches + vision.num_hidden_layers * fc2
        found["SigLIP"] = layers(
            rows.images["und"], slots["und"], per_image["und"], last, remat,
            backward=2 if "vision_model" in trained else 0,
        )  # fmt: skip
    if "gen" in rows.encoded:
        forward, done = rows.images["gen"] * per_image["gen"], slots["gen"] * per_image["gen"]
        found["VQ"] = Part(forward, forward, done)  # codes have no gradient
    return found
