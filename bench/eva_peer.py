"""PyTorch's side of bench/mim_step.py and bench/contrastive_step.py: timm's EVA, open_clip's text.

python -m bench.eva_peer SIDE FOLDER
"""

import functools
import itertools
import pathlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.janus_contender import steps_of
from bench.steps_torch import Training, arrays_of, load, main
from tests.oracles import open_clip, timm  # imported there without torchvision

STATISTICS = timm.data.OPENAI_CLIP_MEAN, timm.data.OPENAI_CLIP_STD
MEAN, STD = (torch.tensor(x)[:, None, None] for x in STATISTICS)


def eva(arguments: dict, **more) -> nn.Module:
    norm = functools.partial(nn.LayerNorm, eps=1e-6)
    return timm.models.eva.Eva(**arguments, norm_layer=norm, **more)


def prepared(pixels: Tensor) -> Tensor:
    """uint8 [B, height, width, 3] as EVA sees it."""
    return (pixels.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


# Masked image modelling


class Masked(nn.Module):
    """A tower that a token stands in for patches of, and a head behind it."""

    def __init__(self, settings: dict):
        super().__init__()
        self.tower = eva(settings["eva"], num_classes=0, global_pool="")
        width = self.tower.embed_dim
        self.tower.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.tower.lm_head = nn.Linear(width, settings["target"])
        self.tower.patch_embed.register_forward_hook(self._masked)
        self._here = None

    def _masked(self, _, __, patches: Tensor) -> Tensor:
        return torch.where(self._here[..., None], self.tower.mask_token, patches)

    def loss(self, batch: dict[str, Tensor], everywhere: bool) -> Tensor:
        """Negative cosine over the masked patches."""
        self._here = batch["masked"]
        x = self.tower(prepared(batch["pixels"]))[:, 1:]
        head = self.tower.lm_head
        found = head(x)[self._here] if everywhere else head(x[self._here])
        return -F.cosine_similarity(found, batch["features"][self._here], dim=-1).mean()


def mim(everywhere: bool, settings: dict, folder: pathlib.Path) -> dict:
    """Task: a round of steps."""
    model = Masked(settings)
    load(model.tower, folder)
    training, batch = Training(model), arrays_of(folder / "batch.npz")
    loss = functools.partial(model.loss, batch, everywhere)
    return {"steps": steps_of(training.step, itertools.repeat([loss]))}


# Contrastive


class Kept(nn.Module):
    """timm's patch dropout, with the patches that remain given, so that losses can be compared."""

    def __init__(self, kept: Tensor):
        super().__init__()
        self._kept = kept

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        at = self._kept[..., None].expand(-1, -1, x.shape[-1])
        return torch.cat([x[:, :1], x[:, 1:].gather(1, at)], dim=1), self._kept


class Clip(nn.Module):
    """Two towers, each with its projection, and the logarithm of a scale."""

    def __init__(self, settings: dict):
        super().__init__()
        width = settings["text"]["output_dim"]
        self.visual = eva(settings["eva"], num_classes=width, global_pool="token")
        self.text = open_clip.transformer.TextTransformer(**settings["text"])
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self._loss = open_clip.loss.ClipLoss()

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        images = F.normalize(self.visual(prepared(batch["pixels"])), dim=-1)
        texts = F.normalize(self.text(batch["text"]), dim=-1)
        return self._loss(images, texts, self.logit_scale.exp())


def contrastive(drops: bool, settings: dict, folder: pathlib.Path) -> dict:
    """Task: a round of steps."""
    model = load(Clip(settings), folder)
    training, batch = Training(model), arrays_of(folder / "batch.npz")
    if drops:
        model.visual.patch_drop = Kept(batch["kept"])
    loss = functools.partial(model.loss, batch)
    return {"steps": steps_of(training.step, itertools.repeat([loss]))}


SIDES = {
    "masked": functools.partial(mim, False),
    "everywhere": functools.partial(mim, True),
    "whole": functools.partial(contrastive, False),
    "dropout": functools.partial(contrastive, True),
}

if __name__ == "__main__":
    main(SIDES)
