"""LLaVAFusion (arXiv 2412.15188, section 6) in PyTorch: what reads pictures, over a Transfusion.

It needs torch and safetensors alone, and modeling_transfusion.py beside it.

    from modeling_llavafusion import LLaVAFusion

    model = LLaVAFusion.from_pretrained(FOLDER)
    seen = model.embed_pictures(model.views(pixels))  # of [1, 3, side, side] in -1..1
    row = [model.embed_text(torch.tensor([[bos, *ids]])), seen, model.embed_text(question)]
    hidden = model.hidden_states(torch.cat(row, dim=1), image)
    logits = model.text_logits(hidden)

A picture that is read stands in a row as tokens of the frozen LLaVA-NeXT: they go through the
layers of text and see what is before them, so `image` is 0 for them as for text. One that is drawn,
or is to be changed, stands there as latents, which are all that `image` numbers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if __package__:
    from .modeling_transfusion import Transfusion
else:
    from modeling_transfusion import Transfusion

# Mean and deviation of CLIP's data, by channel (arXiv 2103.00020).
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


class LLaVAFusion(Transfusion):
    """The whole model. `config` is config.json."""

    def __init__(self, config: dict):
        super().__init__(config)
        c = config["model"]
        self.vision_model = Tower(c["vision"])
        self.aligner = Aligner(c["vision"]["hidden_size"], c["text"]["hidden_size"], c["newline"])
        self.tiles = c["tiles"]

    def views(self, pixels: Tensor) -> Tensor:
        """What the tower sees of square pictures [batch, 3, side, side]: [batch, V, 3, size, size].

        The picture; or, where it has several parts a side, the whole made small and its parts.
        """
        if self.tiles == 1:
            return pixels[:, None]
        size = pixels.shape[-1] // self.tiles
        parts = pixels.unflatten(3, (self.tiles, size)).unflatten(2, (self.tiles, size))
        parts = parts.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        return torch.cat([shrunk(pixels, size)[:, None], parts], dim=1)

    def read(self, views: Tensor) -> Tensor:
        """The tower's features [batch, V, N, channels] of what `views` gives."""
        return self.vision_model(views.flatten(0, 1)).unflatten(0, views.shape[:2])

    def embed_pictures(self, views: Tensor) -> Tensor:
        """Tokens [batch, M, width] of pictures, of what `views` gives."""
        return self.aligner(self.read(views))


def shrunk(pixels: Tensor, size: int) -> Tensor:
    """Pictures in -1..1 made smaller as PIL does it: bicubic, along rows, then along columns, each
    time to one of 256 levels."""
    levels = torch.round((pixels.float() + 1) * 127.5)
    for shape in ((pixels.shape[2], size), (size, size)):
        levels = F.interpolate(levels, shape, mode="bicubic", antialias=True)
        levels = torch.floor(levels + 0.5).clamp(0, 255)
    return (levels / 127.5 - 1).to(pixels.dtype)


class Aligner(nn.Module):
    """Two layers, and a vector at the end of every row of the grid that the parts make."""

    def __init__(self, channels: int, width: int, newline: bool):
        super().__init__()
        self.multi_modal_projector = nn.Module()
        self.multi_modal_projector.linear_1 = nn.Linear(channels, width)
        self.multi_modal_projector.linear_2 = nn.Linear(width, width)
        self.image_newline = nn.Parameter(torch.zeros(width)) if newline else None

    def forward(self, features: Tensor) -> Tensor:
        """Of views, [batch, V, N, channels]."""
        layers = self.multi_modal_projector
        x = layers.linear_2(F.gelu(layers.linear_1(features)))
        whole, parts = x[:, 0], x[:, 1:] if x.shape[1] > 1 else x
        if self.image_newline is None:
            return whole
        side, tiles = round(x.shape[2] ** 0.5), round(parts.shape[1] ** 0.5)
        # From part, row of parts, row within a part, ... to rows of the whole picture.
        grid = parts.unflatten(2, (side, side)).unflatten(1, (tiles, tiles))
        grid = grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        ends = self.image_newline.expand(*grid.shape[:2], 1, -1)
        return torch.cat([whole, torch.cat([grid, ends], dim=2).flatten(1, 2)], dim=1)


# The tower: CLIP or SigLIP, named as in transformers


class Tower(nn.Module):
    """Features of all patches [n, N, channels] of pictures [n, 3, size, size] in -1..1."""

    def __init__(self, c: dict):
        super().__init__()
        width, epsilon = c["hidden_size"], c["layer_norm_eps"]
        self.is_clip = c["kind"] == "clip"
        self.embeddings = Embeddings(c, self.is_clip)
        self.pre_layrnorm = nn.LayerNorm(width, epsilon) if self.is_clip else nn.Identity()
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList([Block(c) for _ in range(c["num_hidden_layers"])])
        last = c["features"] == "post_norm"
        self.post_layernorm = nn.LayerNorm(width, epsilon) if last else nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        if self.is_clip:
            mean, deviation = (pixels.new_tensor(x)[:, None, None] for x in (MEAN, DEVIATION))
            pixels = ((pixels + 1) / 2 - mean) / deviation
        x = self.pre_layrnorm(self.embeddings(pixels))
        for block in self.encoder.layers:
            x = block(x)
        x = self.post_layernorm(x)
        return x[:, 1:] if self.is_clip else x  # without the class token


class Embeddings(nn.Module):
    def __init__(self, c: dict, is_clip: bool):
        super().__init__()
        width, patch = c["hidden_size"], c["patch_size"]
        tokens = (c["image_size"] // patch) ** 2 + is_clip
        self.patch_embedding = nn.Conv2d(3, width, patch, patch, bias=not is_clip)
        self.position_embedding = nn.Embedding(tokens, width)
        self.class_embedding = nn.Parameter(torch.zeros(width)) if is_clip else None

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        if self.class_embedding is not None:
            x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)
        return x + self.position_embedding.weight


class Block(nn.Module):
    def __init__(self, c: dict):
        super().__init__()
        width, epsilon = c["hidden_size"], c["layer_norm_eps"]
        self.layer_norm1 = nn.LayerNorm(width, epsilon)
        self.self_attn = Attention(width, c["num_attention_heads"])
        self.layer_norm2 = nn.LayerNorm(width, epsilon)
        self.mlp = nn.Module()
        self.mlp.fc1 = nn.Linear(width, c["intermediate_size"])
        self.mlp.fc2 = nn.Linear(c["intermediate_size"], width)
        self.activation = ACTIVATIONS[c["hidden_act"]]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp.fc2(self.activation(self.mlp.fc1(self.layer_norm2(x))))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(y.transpose(1, 2).flatten(2))
