"""transformers' side: `python -m bench.janus_peer FOLDER SECTION`, asked by bench/janus.py.

Written as its user would: the exported model as it loads, default attention, torch's fused AdamW,
frozen encoders without gradients, all cores. It is handed tokenised documents and decoded pictures
in memory and pays for neither.
"""

import functools
import itertools
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from transformers import JanusForConditionalGeneration

from bench import steps_torch
from bench.janus_contender import serve
from bench.janus_documents import IGNORED, Documents, Padded, micro_batches, pad, padding_share

MICRO_BATCH = 8  # documents padded together: the default of transformers' Trainer


def load(folder: pathlib.Path) -> JanusForConditionalGeneration:
    return JanusForConditionalGeneration.from_pretrained(folder / "model", dtype=torch.float32)


class Training(steps_torch.Training):
    """Optimizer steps from the exported parameters."""

    def __init__(self, folder: pathlib.Path):
        model = load(folder)
        core = model.model
        und, gen = core.config.vision_config, core.config.vq_config
        self.image_tokens = und.num_image_tokens, gen.num_patches**2
        for encoder in (core.vision_model, core.vqmodel):
            encoder.requires_grad_(False)
        super().__init__(model)

    def step_on(self, batches: list[Padded], targets: int, everywhere: bool) -> float:
        """The loss before the update, a mean over all targets of the step."""
        loss = functools.partial(loss_sum, self.model, everywhere=everywhere)
        return self.step(lambda batch=batch: loss(batch) / targets for batch in batches)


def loss_sum(model: JanusForConditionalGeneration, batch: Padded, everywhere: bool) -> torch.Tensor:
    """Summed cross-entropy of text and of image codes.

    Args:
      everywhere: both heads run at every position, as `JanusForConditionalGeneration` does with the
        one it trains; otherwise each where it has a target.
    """
    ids, label, und, gen, mask = (
        torch.from_numpy(x) for x in (batch.ids, batch.label, batch.und, batch.gen, batch.mask)
    )
    x = model.get_input_embeddings()(ids)
    if len(batch.und_pixels):
        features = model.model.get_image_features(signed(batch.und_pixels)).pooler_output
        x = x.masked_scatter(und[..., None], features)
    code_label = torch.full_like(label, IGNORED)
    if gen.any():
        if batch.codes is None:
            with torch.no_grad():
                codes = model.model.vqmodel.encode(signed(batch.gen_pixels)).image_tokens
        else:
            codes = torch.from_numpy(batch.codes).long()
        codes = codes.flatten()
        x = x.masked_scatter(gen[..., None], model.prepare_embeddings_for_image_generation(codes))
        code_label[:, :-1][gen[:, 1:]] = codes
    hidden = model.model.language_model(
        inputs_embeds=x, attention_mask=None if mask.all() else mask.long(), use_cache=False
    ).last_hidden_state
    heads = (model.lm_head, label), (model.model.generation_head, code_label)
    total = 0.0
    for head, answers in heads:
        at = answers != IGNORED
        x, answers = (hidden, answers) if everywhere else (hidden[at], answers[at])
        logits = head(x).flatten(0, -2)
        total = total + F.cross_entropy(
            logits, answers.flatten(), ignore_index=IGNORED, reduction="sum"
        )
    return total


def signed(pixels: np.ndarray) -> torch.Tensor:
    """uint8 [n, height, width, 3] to [-1, 1], [n, 3, height, width]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def dense(folder: pathlib.Path) -> dict:
    """Tasks: a step on the dense batch; its matrix products alone."""
    training = Training(folder)
    documents = Documents.load(folder / "dense.npz")
    batch = pad(documents, range(len(documents.lengths)), training.image_tokens)
    operands = []

    def step() -> dict:
        began = time.perf_counter()
        loss = training.step_on([batch], documents.targets, everywhere=False)
        return {"seconds": time.perf_counter() - began, "losses": [loss]}

    def products() -> dict:
        if not operands:
            for b, m, k, n, times in json.loads((folder / "products.json").read_text()):
                x, y = torch.randn(b, m, k), torch.randn(b, k, n)
                operands.append((x, y, times) if b > 1 else (x[0], y[0], times))
        began = time.perf_counter()
        for x, y, times in operands:
            for _ in range(times):
                torch.matmul(x, y)
        return {"seconds": time.perf_counter() - began}

    return {"step": step, "products": products}


def recipe(folder: pathlib.Path, by_length: bool) -> dict:
    """Task: steps of the recipe, each on the documents that unijax packed for it."""
    training = Training(folder)
    stream = _recorded(folder)

    def steps(count: int) -> dict:
        taken = list(itertools.islice(stream, count))
        losses, lengths, padding = [], [], 0.0
        began = time.perf_counter()
        for documents in taken:
            chosen = micro_batches(documents.lengths, MICRO_BATCH, by_length)
            batches = [pad(documents, some, training.image_tokens) for some in chosen]
            losses.append(training.step_on(batches, documents.targets, everywhere=True))
            lengths.append(len(documents.lengths))
            padding += padding_share(documents.lengths, chosen) / count
        return {"seconds": time.perf_counter() - began, "losses": losses,
                "documents": sum(lengths), "padding": padding}  # fmt: skip

    return {"steps": steps}


def _recorded(folder: pathlib.Path) -> Iterator[Documents]:
    for step in itertools.count():
        yield Documents.load(folder / f"recipe-{step}.npz")


def draw(folder: pathlib.Path) -> dict:
    """Tasks: greedy pictures of the first prompts, with guidance 5; how near its choices were."""
    model = load(folder).eval()
    ids = torch.tensor(json.loads((folder / "prompts.json").read_text())["ids"])

    def pictures(count: int) -> dict:
        rows = ids[:count]
        began = time.perf_counter()
        codes = model.generate(
            inputs=rows, attention_mask=torch.ones_like(rows), generation_mode="image",
            do_sample=False, guidance_scale=5.0,
        )  # fmt: skip
        drawn = time.perf_counter()
        pixels = model.decode_image_tokens(codes)
        ((pixels + 1) * 127.5).clamp(0, 255).to(torch.uint8).numpy()
        return {"seconds": drawn - began, "codes": codes.tolist(),
                "pixels_seconds": time.perf_counter() - drawn}  # fmt: skip

    @torch.no_grad()
    def margins(codes: list[list[int]]) -> dict:
        """Between the best two guided logits at every step, the codes before it given."""
        rows, codes = ids[: len(codes)], torch.tensor(codes)
        special = model.generation_config
        kept = (rows == special.bos_token_id) | (rows == special.generation_kwargs["boi_token_id"])
        both = torch.cat([rows, rows.where(kept, special.pad_token_id)])
        given = model.prepare_embeddings_for_image_generation(codes[:, :-1]).repeat(2, 1, 1)
        x = torch.cat([model.get_input_embeddings()(both), given], dim=1)
        hidden = model.model.language_model(inputs_embeds=x).last_hidden_state
        c, u = model.model.generation_head(hidden[:, rows.shape[1] - 1 :]).chunk(2)
        best = (u + 5.0 * (c - u)).topk(2, dim=-1).values
        return {"margins": (best[..., 0] - best[..., 1]).tolist()}

    return {"pictures": pictures, "margins": margins}


def main() -> None:
    folder, section = sys.argv[1:]
    folder = pathlib.Path(folder)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if section == "dense":
        tasks = dense(folder)
    elif section == "draw":
        tasks = draw(folder)
    else:
        tasks = recipe(folder, by_length=section == "recipe-by-length")
    serve(tasks)


if __name__ == "__main__":
    main()
