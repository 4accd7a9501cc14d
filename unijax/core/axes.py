"""Logical names of parameter dimensions: the closed set that sharding tables must cover."""

LAYERS = "layers"  # scanned stack of blocks
VOCAB = "vocab"  # text vocabulary
CODES = "codes"  # classes of the image head
CODEBOOK = "codebook"  # entries of a table of image codes, which is narrow and stays whole
CODE_DIM = "code_dim"  # width of an image code
EMBED = "embed"  # residual width of the decoder
MLP = "mlp"  # hidden width of a decoder MLP, or of an adaptor
HEADS = "heads"  # query heads x head dim
KV_HEADS = "kv_heads"  # key/value heads x head dim
VISION_EMBED = "vision_embed"  # residual width of a vision tower
VISION_MLP = "vision_mlp"
VISION_HEADS = "vision_heads"
PATCH = "patch"  # pixels of a patch x channels
POSITIONS = "positions"  # rows of a learned position table
CONV_IN = "conv_in"
CONV_OUT = "conv_out"
SPATIAL = "spatial"  # extent of a convolution kernel
RANK = "rank"  # of low-rank adapters
NORM = "norm"  # scales and offsets of norms, biases: small vectors that stay whole

ALL = frozenset(
    {
        LAYERS, VOCAB, CODES, CODEBOOK, CODE_DIM, EMBED, MLP, HEADS, KV_HEADS, VISION_EMBED,
        VISION_MLP, VISION_HEADS, PATCH, POSITIONS, CONV_IN, CONV_OUT, SPATIAL, RANK, NORM,
    }
)  # fmt: skip
