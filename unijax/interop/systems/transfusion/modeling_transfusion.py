"""Transfusion (arXiv 2408.11039) and LMFusion (arXiv 2412.15188) in PyTorch, in one file.

It needs torch and safetensors alone.

It loads the folder that it stands in, with config.json and model.safetensors (or shards of it):

    from modeling_transfusion import Transfusion

    model = Transfusion.from_pretrained(FOLDER)
    # A prompt as those that it learned to draw from: a caption alone, or in a chat's turns.
    ids = [bos, *tokenizer.encode("a red fox").ids, boi]  # config.json: special_token_ids
    latents = model.draw(ids, generator=torch.Generator().manual_seed(0))
    pixels = model.decode(latents)  # [1, 3, height, width], about -1..1

A row is text with images in it. An image stands between begin-of-image and end-of-image as N
patches of a noised latent; all is causal, but patches of one image see each other. Text is what the
head predicts, noise what the layers predict that the patches came through. `position` counts 0, 1,
... over all of a row. Latents are [batch, channels, height, width], of a variance of about 1.

In LMFusion patches go through layers of their own (`image_twin`), and meet the text in attention.
"""

import json
import math
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

GROUPS = 32  # of every group norm


class Transfusion(nn.Module):
    """The whole model. `config` is config.json."""

    def __init__(self, config: dict):
        super().__init__()
        self.config = config
        c = config["model"]
        width = c["text"]["hidden_size"]
        self.language_model = Llama(c["text"])
        separation = c.get("separation")  # of LMFusion alone
        self.image_twin = None if separation is None else ImageTwin(c["text"], separation)
        layers = LinearPatches(c["patches"], width) if c["patches"] else PatchUNet(c["unet"], width)
        self.image_layers = layers
        self.autoencoder = AutoencoderKL(c["autoencoder"])

    @classmethod
    def from_pretrained(cls, folder, dtype: torch.dtype = torch.float32) -> "Transfusion":
        """From an export. Every tensor must be there, and no other."""
        folder = pathlib.Path(folder)
        model = cls(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        state = {}
        for file in sorted(folder.glob("model*.safetensors")):
            state |= load_file(file)
        model.load_state_dict(state)
        return model.to(dtype).eval()

    # Rows

    def embed_text(self, ids: Tensor) -> Tensor:
        """[batch, n] ids to [batch, n, width]."""
        return self.language_model.embed_tokens(ids)

    def embed_latents(self, latents: Tensor, timestep: Tensor) -> tuple[Tensor, tuple]:
        """Noised latents to [batch, N, width], and what `predict_noise` wants back.

        `timestep` [batch] counts from 0 (least noise) to T - 1; -1 is a clean image.
        """
        return self.image_layers.down(latents.to(self._like.dtype), timestep + 1.0)

    def hidden_states(self, x: Tensor, image: Tensor, position: Tensor | None = None) -> Tensor:
        """Of the embeddings [batch, n, width] of rows, after the last norm.

        `image` [batch, n] is 0 for text, and 1, 2, ... for the patches of the images of a row.
        """
        if position is None:
            position = torch.arange(x.shape[1], device=x.device)[None]
        return self.language_model(x, position, hybrid_mask(image), image > 0, self.image_twin)

    def text_logits(self, hidden: Tensor) -> Tensor:
        return self.language_model.lm_head(hidden)

    def predict_noise(self, hidden: Tensor, skips: tuple, timestep: Tensor) -> Tensor:
        """The noise of latents (or v, as the config says), from the hidden states
        [batch, N, width] of their patches."""
        return self.image_layers.up(hidden, timestep + 1.0, skips)

    @property
    def _like(self) -> Tensor:
        """Of the type, and where, all is computed."""
        return self.language_model.embed_tokens.weight

    # Pictures

    def encode(self, pixels: Tensor) -> Tensor:
        """Latents (means) of pictures [batch, 3, height, width] in -1..1."""
        return self.autoencoder.encode(pixels.to(self._like))

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of latents, not clipped."""
        return self.autoencoder.decode(latents.to(self._like))

    @torch.no_grad()
    def draw(
        self,
        row: list[int] | tuple[Tensor, Tensor],
        unconditional: list[int] | tuple[Tensor, Tensor] | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        fresh: Tensor | None = None,
    ) -> Tensor:
        """Latents of a picture, float32, by denoising inside the row.

        Args:
          row: ids up to begin-of-image, which is the last; or, where images stand among them, what
            `hidden_states` takes of them: embeddings [1, n, width], and `image` [1, n].
          unconditional: the same without a prompt; by default begin of image, behind begin of
            sequence where rows have it.
          steps, guidance: by default the config's; guidance 1 is without.
          generator: of the noise.
          noise: [1, channels, height, width] to begin with, fresh: [steps, ...] of every step, in
            place of the generator's.

        Raises:
          ValueError: more steps than the schedule has, or none.
        """
        c, special = self.config["model"], self.config["special_token_ids"]
        steps = c["steps"] if steps is None else steps
        guidance = c["guidance"] if guidance is None else guidance
        rows = [row]
        if guidance != 1:
            start = [special["bos"]] if c.get("begins", True) else []
            rows.append(unconditional or [*start, special["boi"]])
        rows = [self._embedded(one) for one in rows]
        side = c["autoencoder"]["image_size"] // self.autoencoder.downsampling
        shape = (1, c["autoencoder"]["latent_channels"], side, side)
        where = self._like.device

        def gaussian() -> Tensor:
            of = where if generator is None else generator.device
            return torch.randn(shape, generator=generator, device=of).to(where)

        x = gaussian() if noise is None else noise.to(where)
        kept = alphas_cumprod(c["schedule"]).to(where)
        total = len(kept)
        if not 1 <= steps <= total:
            raise ValueError(f"{steps} steps: from 1 to the schedule's {total}")
        for call in range(steps):
            t = (steps - 1 - call) * (total // steps)
            t_next = t - total // steps if call < steps - 1 else -1
            out = [self._noise_of(x, row, t) for row in rows]
            predicted = out[0] if len(out) == 1 else out[1] + guidance * (out[0] - out[1])
            now, after = kept[t], kept[t_next] if t_next >= 0 else torch.ones_like(kept[t])
            if c["prediction"] == "v_prediction":  # arXiv 2202.00512, section 4
                predicted = now.sqrt() * predicted + (1 - now).sqrt() * x
            picture = (x - (1 - now).sqrt() * predicted) / now.sqrt()
            if c["sampler"] == "ddim":
                x = after.sqrt() * picture + (1 - after).sqrt() * predicted
                continue
            # Ancestral: the posterior's mean, and its variance in fresh noise (equations 6 and 7 of
            # arXiv 2006.11239), none at the end.
            alpha = now / after
            beta, left = 1 - alpha, (1 - after) / (1 - now)
            x = after.sqrt() * beta / (1 - now) * picture + alpha.sqrt() * left * x
            if t > 0:
                drawn = gaussian() if fresh is None else fresh[call].to(where)
                x = x + (left * beta).clamp(min=1e-20).sqrt() * drawn
        return x

    def _embedded(self, row: list[int] | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if isinstance(row, tuple):
            return row
        ids = torch.tensor([row], device=self._like.device)
        return self.embed_text(ids), torch.zeros_like(ids)

    def _noise_of(self, x: Tensor, row: tuple[Tensor, Tensor], t: int) -> Tensor:
        before, image = row
        timestep = torch.full((1,), float(t), device=x.device)
        patches, skips = self.embed_latents(x, timestep)
        n = patches.shape[1]
        own = (image.max() + 1).expand(1, n)
        both = torch.cat([before, patches], dim=1)
        hidden = self.hidden_states(both, torch.cat([image, own], dim=1))
        return self.predict_noise(hidden[:, -n:], skips, timestep).float()


def hybrid_mask(image: Tensor) -> Tensor:
    """Whether a key is seen [batch, 1, query, key]: earlier ones, and all of the same image."""
    n = image.shape[1]
    causal = torch.ones(n, n, dtype=torch.bool, device=image.device).tril()
    same = (image[:, :, None] == image[:, None]) & (image > 0)[:, None]
    return (causal | same)[:, None]


def alphas_cumprod(schedule: dict) -> Tensor:
    """1 less the variance of the noise, of every timestep."""
    steps, kind = schedule["num_train_timesteps"], schedule["kind"]
    start, end = schedule["beta_start"], schedule["beta_end"]
    if kind == "linear":
        betas = torch.linspace(start, end, steps, dtype=torch.float64)
    elif kind == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64).float() ** 2
    else:
        kept = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
        betas = torch.tensor([min(1 - kept[i + 1] / kept[i], 0.999) for i in range(steps)])
    return (1 - betas.float()).double().cumprod(0).float()


# The decoder: Llama


class Llama(nn.Module):
    def __init__(self, c: dict):
        super().__init__()
        self.head_dim, self.theta = c["head_dim"], c["rope_theta"]
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList([LlamaLayer(c) for _ in range(c["num_hidden_layers"])])
        self.norm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        mask: Tensor,
        of_image: Tensor,
        twin: "ImageTwin | None" = None,
    ) -> Tensor:
        """With a twin, positions that are `of_image` [batch, n] go through it."""
        exponent = torch.arange(0, self.head_dim, 2, device=x.device).float() / self.head_dim
        angle = position[..., None].float() * self.theta**-exponent
        angle = torch.cat([angle, angle], dim=-1)[:, None]  # over heads
        rotation = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        if twin is None:
            for layer in self.layers:
                heads = attended(*layer.before(x, rotation), mask)
                x = layer.feed(layer.after(x, heads))
            return self.norm(x)
        here = of_image[..., None]
        for layer, other in zip(self.layers, twin.layers):
            qkv = layer.before(x, rotation)
            if other.attends:
                of_both = zip(qkv, other.before(x, rotation))
                qkv = [torch.where(here[:, None], y, text) for text, y in of_both]
            heads = attended(*qkv, mask)
            text = layer.after(x, heads)
            x = torch.where(here, other.after(x, heads), text) if other.attends else text
            x = torch.where(here, other.feed(x), layer.feed(x))
        return torch.where(here, twin.norm(x), self.norm(x))


class ImageTwin(nn.Module):
    """The layers and the last norm of images; where attention is not theirs, it is the text's."""

    def __init__(self, c: dict, separation: str):
        super().__init__()
        attends = separation == "deep"
        self.layers = nn.ModuleList([LlamaLayer(c, attends) for _ in range(c["num_hidden_layers"])])
        self.norm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])


class LlamaLayer(nn.Module):
    """In three steps, with attention between the first two."""

    def __init__(self, c: dict, attends: bool = True):
        super().__init__()
        self.attends = attends
        if attends:
            self.input_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
            self.self_attn = LlamaAttention(c)
        self.post_attention_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.mlp = SwiGLU(c["hidden_size"], c["intermediate_size"])

    def before(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> list[Tensor]:
        """Queries, keys and values [batch, heads, n, head_dim]."""
        return self.self_attn(self.input_layernorm(x), rotation)

    def after(self, x: Tensor, heads: Tensor) -> Tensor:
        return x + self.self_attn.o_proj(heads)

    def feed(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.post_attention_layernorm(x))


def attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """[batch, n, heads * head_dim]; several heads of queries share one of keys and values."""
    k, v = (y.repeat_interleave(q.shape[1] // y.shape[1], dim=1) for y in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class LlamaAttention(nn.Module):
    def __init__(self, c: dict):
        super().__init__()
        width, self.head_dim = c["hidden_size"], c["head_dim"]
        own, kv = c["num_attention_heads"], c["num_key_value_heads"]
        self.q_proj = nn.Linear(width, own * self.head_dim, bias=False)
        self.k_proj = nn.Linear(width, kv * self.head_dim, bias=False)
        self.v_proj = nn.Linear(width, kv * self.head_dim, bias=False)
        self.o_proj = nn.Linear(own * self.head_dim, width, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> list[Tensor]:
        def heads(y: Tensor) -> Tensor:
            return y.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        q, k = (rotated(heads(p(x)), rotation) for p in (self.q_proj, self.k_proj))
        return [q, k, heads(self.v_proj(x))]


def rotated(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Channel i of a head turns with channel i + half."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class SwiGLU(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class RMSNorm(nn.Module):
    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(width)), epsilon

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return self.weight * y.to(x.dtype)


# Layers between latents and the decoder


class TimestepEmbedding(nn.Module):
    """Cosines and sines of a timestep, a linear layer, SiLU, another."""

    def __init__(self, frequencies: int, inner: int, width: int):
        super().__init__()
        self.half = frequencies // 2
        self.linear_1 = nn.Linear(frequencies, inner)
        self.linear_2 = nn.Linear(inner, width)

    def forward(self, timestep: Tensor) -> Tensor:
        index = torch.arange(self.half, device=timestep.device).float()
        angle = timestep.float()[:, None] * torch.exp(-math.log(10_000) * index / self.half)
        x = torch.cat([angle.cos(), angle.sin()], dim=-1).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(x)))


class LinearPatches(nn.Module):
    """Squares of latents, flattened as (row, column, channel), through one matrix each way."""

    def __init__(self, c: dict, width: int):
        super().__init__()
        self.size, self.grid = c["patch_size"], c["latent_size"] // c["patch_size"]
        self.at_token = c["t_embed_site"] == "token"
        patch = self.size**2 * c["latent_channels"]
        self.time_embedding = TimestepEmbedding(256, width, width if self.at_token else patch)
        self.proj_in = nn.Linear(patch, width)
        self.proj_out = nn.Linear(width, patch)

    def down(self, latents: Tensor, timestep: Tensor) -> tuple[Tensor, tuple]:
        p, time = self.size, self.time_embedding(timestep)[:, None]
        x = latents.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # batch, channel, i, row, j, column
        x = x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        return (self.proj_in(x) + time if self.at_token else self.proj_in(x + time)), ()

    def up(self, hidden: Tensor, timestep: Tensor, skips: tuple) -> Tensor:
        p = self.size
        x = self.proj_out(hidden).unflatten(2, (p, p, -1)).unflatten(1, (self.grid, self.grid))
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


class PatchUNet(nn.Module):
    """The two halves of a U-Net; a token is a position of its coarsest level."""

    def __init__(self, c: dict, width: int):
        super().__init__()
        self.unet = UNet(c)
        coarsest = c["block_out_channels"][-1]
        self.proj_in = nn.Linear(coarsest, width)
        self.proj_out = nn.Linear(width, coarsest)

    def down(self, latents: Tensor, timestep: Tensor) -> tuple[Tensor, tuple]:
        x, skips = self.unet.down(latents, timestep)
        return self.proj_in(x.flatten(2).transpose(1, 2)), skips

    def up(self, hidden: Tensor, timestep: Tensor, skips: tuple) -> Tensor:
        x = self.proj_out(hidden).transpose(1, 2).reshape(skips[-1].shape)
        return self.unet.up(x, timestep, skips)


class UNet(nn.Module):
    def __init__(self, c: dict):
        super().__init__()
        channels, layers = c["block_out_channels"], c["layers_per_block"]
        heads = [c["num_attention_heads"] * attends for attends in c["attention_levels"]]
        last, time = len(channels) - 1, 4 * channels[0]
        self.time_embedding = TimestepEmbedding(channels[0], time, time)
        self.conv_in = nn.Conv2d(c["in_channels"], channels[0], 3, padding=1)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        width, skips = channels[0], [channels[0]]
        for level, out in enumerate(channels):
            widths = [(width if i == 0 else out, out) for i in range(layers)]
            halve = level != last
            self.down_blocks.append(UNetBlock(widths, time, heads[level], down=halve))
            width = out
            skips += [out] * (layers + halve)
        for level in reversed(range(len(channels))):
            widths = []
            for _ in range(layers + 1):
                widths.append((width + skips.pop(), channels[level]))
                width = channels[level]
            self.up_blocks.append(UNetBlock(widths, time, heads[level], up=level != 0))
        self.conv_norm_out = nn.GroupNorm(GROUPS, width, 1e-5)
        self.conv_out = nn.Conv2d(width, c["out_channels"], 3, padding=1)

    def down(self, x: Tensor, timestep: Tensor) -> tuple[Tensor, tuple]:
        time = self.time_embedding(timestep)
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            for i in range(len(block.resnets)):
                x = block.layer(i, x, time)
                skips.append(x)
            for sampler in block.downsamplers:
                x = sampler.conv(x)
                skips.append(x)
        return x, tuple(skips)

    def up(self, x: Tensor, timestep: Tensor, skips: tuple) -> Tensor:
        time, left = self.time_embedding(timestep), list(skips)
        for block in self.up_blocks:
            for i in range(len(block.resnets)):
                x = block.layer(i, torch.cat([x, left.pop()], dim=1), time)
            for sampler in block.upsamplers:
                x = sampler.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class UNetBlock(nn.Module):
    """Residual blocks of a level, a transformer after each if there are heads, a change of size."""

    def __init__(self, widths: list, time: int, heads: int, down: bool = False, up: bool = False):
        super().__init__()
        out = widths[0][1]
        self.resnets = nn.ModuleList([ResBlock(*pair, 1e-5, time) for pair in widths])
        attentions = [SpatialTransformer(out, heads) for _ in widths] if heads else []
        self.attentions = nn.ModuleList(attentions)
        self.downsamplers = nn.ModuleList([Resample(out, stride=2, padding=1)] if down else [])
        self.upsamplers = nn.ModuleList([Resample(out, padding=1)] if up else [])

    def layer(self, i: int, x: Tensor, time: Tensor) -> Tensor:
        x = self.resnets[i](x, time)
        return self.attentions[i](x) if len(self.attentions) else x


class Resample(nn.Module):
    def __init__(self, channels: int, **how: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, **how)


class ResBlock(nn.Module):
    """norm, SiLU, 3x3, with the timestep added, norm, SiLU, 3x3, added to the input."""

    def __init__(self, width: int, out: int, epsilon: float, time: int = 0):
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, width, epsilon)
        self.conv1 = nn.Conv2d(width, out, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, out, epsilon)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        if time:
            self.time_emb_proj = nn.Linear(time, out)
        self.conv_shortcut = nn.Conv2d(width, out, 1) if width != out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        if time is not None:
            h = h + self.time_emb_proj(F.silu(time))[:, :, None, None]
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class SpatialTransformer(nn.Module):
    """Self-attention and a gated MLP over the positions of a picture, added to it."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels, 1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, heads)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.proj_in(self.norm(x))
        y = self.transformer_blocks[0](h.flatten(2).transpose(1, 2))
        return x + self.proj_out(y.transpose(1, 2).reshape(x.shape))


class TransformerBlock(nn.Module):
    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, 1e-5)
        self.attn1 = SelfAttention(channels, heads, bias=False)
        self.norm3 = nn.LayerNorm(channels, 1e-5)
        self.ff = GatedMLP(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        return x + self.ff(self.norm3(x))


class GatedMLP(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        gate = nn.Module()
        gate.proj = nn.Linear(channels, 8 * channels)
        self.net = nn.ModuleList([gate, nn.Identity(), nn.Linear(4 * channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        h, gate = self.net[0].proj(x).chunk(2, dim=-1)
        return self.net[2](h * F.gelu(gate))


class SelfAttention(nn.Module):
    """Over all positions [batch, n, channels]."""

    def __init__(self, channels: int, heads: int, bias: bool):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias)
        self.to_k = nn.Linear(channels, channels, bias)
        self.to_v = nn.Linear(channels, channels, bias)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](y.transpose(1, 2).flatten(2))


# Pictures and latents: the KL autoencoder, named as in diffusers


class AutoencoderKL(nn.Module):
    def __init__(self, c: dict):
        super().__init__()
        channels, layers, latent = (
            c["block_out_channels"],
            c["layers_per_block"],
            c["latent_channels"],
        )
        self.scale, self.shift = c["scaling_factor"], c["shift_factor"]
        self.downsampling = 2 ** (len(channels) - 1)
        self.encoder = Encoder(channels, layers, 2 * latent)
        self.decoder = Decoder(channels[::-1], layers + 1, latent)
        conv = lambda used, n: nn.Conv2d(n, n, 1) if used else nn.Identity()  # noqa: E731
        self.quant_conv = conv(c["use_quant_conv"], 2 * latent)
        self.post_quant_conv = conv(c["use_post_quant_conv"], latent)

    def encode(self, pixels: Tensor) -> Tensor:
        mean, _ = self.quant_conv(self.encoder(pixels)).chunk(2, dim=1)
        return (mean - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents / self.scale + self.shift))


class Encoder(nn.Module):
    def __init__(self, channels: list[int], layers: int, out: int):
        super().__init__()
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        blocks = []
        for level, width in enumerate(channels):
            before = channels[max(level - 1, 0)]
            blocks.append(Level(before, width, layers, down=level != len(channels) - 1))
        self.down_blocks = nn.ModuleList(blocks)
        self.mid_block = MidBlock(channels[-1])
        self.conv_norm_out = nn.GroupNorm(GROUPS, channels[-1], 1e-6)
        self.conv_out = nn.Conv2d(channels[-1], out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """`channels` from the coarsest level to the finest."""

    def __init__(self, channels: list[int], layers: int, latent: int):
        super().__init__()
        self.conv_in = nn.Conv2d(latent, channels[0], 3, padding=1)
        self.mid_block = MidBlock(channels[0])
        blocks = []
        for level, width in enumerate(channels):
            before = channels[max(level - 1, 0)]
            blocks.append(Level(before, width, layers, up=level != len(channels) - 1))
        self.up_blocks = nn.ModuleList(blocks)
        self.conv_norm_out = nn.GroupNorm(GROUPS, channels[-1], 1e-6)
        self.conv_out = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Level(nn.Module):
    """Residual blocks of a resolution, then half of it or twice."""

    def __init__(self, before: int, width: int, layers: int, down: bool = False, up: bool = False):
        super().__init__()
        pairs = [(before if i == 0 else width, width) for i in range(layers)]
        self.resnets = nn.ModuleList([ResBlock(*pair, 1e-6) for pair in pairs])
        self.downsamplers = nn.ModuleList([Resample(width, stride=2)] if down else [])
        self.upsamplers = nn.ModuleList([Resample(width, padding=1)] if up else [])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        for sampler in self.downsamplers:
            x = sampler.conv(F.pad(x, (0, 1, 0, 1)))  # below and on the right
        for sampler in self.upsamplers:
            x = sampler.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class MidBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.resnets = nn.ModuleList([ResBlock(channels, channels, 1e-6) for _ in range(2)])
        self.attentions = nn.ModuleList([PixelAttention(channels)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class PixelAttention(SelfAttention):
    """One head over the pixels, added to the picture."""

    def __init__(self, channels: int):
        super().__init__(channels, heads=1, bias=True)
        self.group_norm = nn.GroupNorm(GROUPS, channels, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(self.group_norm(x).flatten(2).transpose(1, 2))
        return x + y.transpose(1, 2).reshape(x.shape)
