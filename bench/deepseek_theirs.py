"""The authors' side of bench/deepseek_check.py: `python -m bench.deepseek_theirs CODE FOLDER`.

Their processor, model and `generate` do what their scripts do with a released model, on the export
in FOLDER, in float32. Nothing of this project is imported, nothing of theirs is changed; of
torchvision the operators are left out, which do not load beside a torch without CUDA and which
resizing does not need.
"""

import ast
import itertools
import json
import pathlib
import sys
import types
from unittest import mock

import numpy as np
import torch

USER, ASSISTANT = "<|User|>", "<|Assistant|>"


def without_operators() -> None:
    """Makes `torchvision.transforms` importable where the operators of torchvision do not load."""
    try:
        import torchvision
    except RuntimeError:  # "operator torchvision::nms does not exist"
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        operators = "torchvision._meta_registrations"
        sys.modules[operators] = types.ModuleType(operators)
        import torchvision  # noqa: F401


def load(model_dir: pathlib.Path):
    """Their processor, their model, and the names that loading missed or did not expect."""
    from janus.models import MultiModalityCausalLM, VLChatProcessor
    from transformers import AutoModelForCausalLM

    processor = VLChatProcessor.from_pretrained(model_dir)
    model, info = AutoModelForCausalLM.from_pretrained(
        model_dir, trust_remote_code=True, output_loading_info=True
    )
    assert isinstance(model, MultiModalityCausalLM), type(model)
    return processor, model.float().eval(), info


def generate_function(code: pathlib.Path):
    """`generate` of generation_inference.py; its other statements fetch a released model."""
    path = code / "generation_inference.py"
    module = ast.parse(path.read_text(encoding="utf-8"))
    module.body = [
        node
        for node in module.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.FunctionDef) and node.name == "generate")
    ]
    names: dict = {}
    exec(compile(module, path, "exec"), names)
    return names["generate"]


def prompt_of(processor, turns: list[str]) -> str:
    """Turns of user and assistant, and the assistant's name, without a system prompt."""
    roles = itertools.cycle([USER, ASSISTANT])
    return processor.apply_sft_template_for_multi_turn_prompts(
        conversations=[{"role": r, "content": t} for r, t in zip(roles, [*turns, ""])],
        sft_format=processor.sft_format,
        system_prompt="",
    )


def texts(processor, model, turns: list[str]) -> dict[str, torch.Tensor]:
    ids = torch.tensor([processor.tokenizer.encode(prompt_of(processor, turns))])
    return {"text_ids": ids[0], "text_logits": model.language_model(input_ids=ids).logits[0]}


def questions(processor, model, asked: list[dict], tokens: int) -> tuple[dict, list[str]]:
    """As inference.py asks, in one padded batch."""
    from janus.utils.io import load_pil_images

    prepared = []
    for question in asked:
        conversation = [
            {
                "role": USER,
                "content": f"<image_placeholder>\n{question['text']}",
                "images": [question["picture"]],
            },
            {"role": ASSISTANT, "content": ""},
        ]
        images = load_pil_images(conversation)
        prepared.append(processor(conversations=conversation, images=images, force_batchify=False))
    batch = processor.batchify(prepared).to("cpu", dtype=torch.float32)
    embeddings = model.prepare_inputs_embeds(**batch)
    logits = model.language_model(
        inputs_embeds=embeddings, attention_mask=batch.attention_mask
    ).logits
    special = processor.tokenizer
    written = model.language_model.generate(
        inputs_embeds=embeddings,
        attention_mask=batch.attention_mask,
        pad_token_id=special.eos_token_id,
        bos_token_id=special.bos_token_id,
        eos_token_id=special.eos_token_id,
        max_new_tokens=tokens,
        do_sample=False,
        use_cache=True,
    )
    out = {
        "und_ids": batch.input_ids,
        "und_mask": batch.attention_mask,
        "und_pixels": batch.pixel_values[:, 0].permute(0, 2, 3, 1),
        "und_embeddings": embeddings,
        "und_logits": logits,
    }
    answers = [special.decode(row.tolist(), skip_special_tokens=True) for row in written]
    return out, answers


def drawing(processor, model, generate, words: str) -> dict[str, torch.Tensor]:
    """As generation_inference.py draws, but with the most likely code at every step."""
    prompt = prompt_of(processor, [words]) + processor.image_start_tag
    logits, decoded = [], []
    hooks = [
        model.gen_head.register_forward_hook(lambda *call: logits.append(call[-1])),
        model.gen_vision_model.decoder.register_forward_hook(
            lambda *call: decoded.append(call[-1])
        ),
    ]
    vq = model.gen_vision_model
    with (
        mock.patch.object(torch.Tensor, "cuda", lambda self: self),
        mock.patch.object(torch, "multinomial", lambda p, num_samples: p.argmax(-1, keepdim=True)),
        mock.patch.object(vq, "decode_code", side_effect=vq.decode_code) as decode,
    ):
        generate(model, processor, prompt, parallel_size=1, cfg_weight=5)
    for hook in hooks:
        hook.remove()
    return {
        "gen_ids": torch.tensor(processor.tokenizer.encode(prompt)),
        "gen_logits": torch.stack(logits, dim=1),  # [conditional and not, N, K]
        "codes": decode.call_args.args[0][0],
        "decoded": decoded[0][0].permute(1, 2, 0),
    }


def encoding(model, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a picture [height, width, 3] in -1..1."""
    latents = []
    vq = model.gen_vision_model
    hook = vq.quant_conv.register_forward_hook(lambda *call: latents.append(call[-1]))
    _, _, (_, _, codes) = vq.encode(pixels.permute(2, 0, 1)[None])
    hook.remove()
    return {"latents": latents[0][0].permute(1, 2, 0).flatten(0, 1), "encoded": codes}


@torch.no_grad()
def main(code: pathlib.Path, folder: pathlib.Path) -> None:
    without_operators()
    import transformers

    asked = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    processor, model, info = load(folder / "model")
    arrays = texts(processor, model, asked["turns"])
    und, answers = questions(processor, model, asked["questions"], asked["answer_tokens"])
    arrays |= und | drawing(processor, model, generate_function(code), asked["words"])
    arrays |= encoding(model, und["und_pixels"][0])
    np.savez(folder / "theirs.npz", **{name: x.numpy() for name, x in arrays.items()})
    said = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "mismatched": sorted(map(str, info["mismatched_keys"])),
        "system_prompt": processor.system_prompt,
        "answers": answers,
    }
    (folder / "theirs.json").write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
