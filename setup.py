from setuptools import find_packages, setup

INTEROP = ["jinja2>=3.1,<4", "torch>=2.4", "transformers>=5.20,<6"]
BUCKETS = ["s3fs>=2025.3", "gcsfs>=2025.3"]
TEST = [
    "pytest>=8,<10",
    "pytest-xdist>=3.6,<4",
    "hypothesis>=6.100,<7",
    "jaxtyping>=0.3.3,<0.5",
    "beartype>=0.20,<0.24",
    "import-linter>=2.3,<3",
    "ruff>=0.12,<0.17",
]

setup(
    name="unijax",
    version="0.1.0",
    description="Unified multimodal models in JAX: train, sample and ship Janus and its kin",
    python_requires=">=3.11",
    # launch/, configs/ and assets/ lie at the top of the repository, linked into unijax/.
    packages=find_packages(include=["unijax", "unijax.*"]),
    package_data={
        "unijax": ["configs/*.py", "assets/**/*"],
        "unijax.ops.attention": ["block_sizes.json"],
    },
    install_requires=[
        "jax>=0.10.2,<0.13",
        "flax>=0.12.8,<0.14",
        "optax>=0.2.8,<0.4",
        "orbax-checkpoint>=0.12.8,<0.14",
        "grain>=0.2.18,<0.4",
        "tensorflow-datasets>=4.9.10,<5",
        "array-record>=0.8,<0.10",
        "ml-collections>=1.1,<2",
        "sentencepiece>=0.2.1,<0.3",
        "clu>=0.0.12,<0.1",
        "jaxtyping>=0.3.3,<0.5",
        "tokenizers>=0.22,<0.24",
        "ftfy>=6.3,<7",
        "regex>=2025.7",
        "safetensors>=0.6,<0.9",
        "numpy>=1.26,<3",
        "scipy>=1.14,<2",
        "pyarrow>=18,<28",
        "pillow>=11,<14",
        "matplotlib>=3.9,<4",
        "pyyaml>=6,<7",
        "tqdm>=4.66,<5",
        "tensorboardX>=2.6.4,<3",
    ],
    extras_require={
        "interop": INTEROP,
        "wandb": ["wandb>=0.18"],
        "buckets": BUCKETS,
        "test": TEST + INTEROP,
    },
    entry_points={"console_scripts": ["unijax=unijax.main.cli:command"]},
)
