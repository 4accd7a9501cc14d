"""Remakes assets/tokenizer/clip from a public package.

    python assets/tokenizer/clip/make.py

The merges of OpenAI's CLIP, as PyPI's open_clip_torch ships them: of its list the first 48,894,
those that CLIP's 49,408 ids come from.
"""

import gzip
import lzma
import shutil
import tempfile
from pathlib import Path

from unijax.data.builders.packages import unpack_pip
from unijax.data.clip_tokenizer import MERGES, MERGES_FILE

PACKAGE = ("open_clip_torch", "3.3.0")
FILE = "open_clip/bpe_simple_vocab_16e6.txt.gz"
LICENSE = "open_clip_torch-3.3.0.dist-info/licenses/LICENSE"


def main() -> None:
    folder = Path(__file__).parent
    with tempfile.TemporaryDirectory() as temporary:
        package = unpack_pip(*PACKAGE, Path(temporary))
        lines = gzip.decompress((package / FILE).read_bytes()).decode().split("\n")
        shutil.copyfile(package / LICENSE, folder / "LICENSE-open_clip.txt")
    merges = "\n".join(lines[1 : MERGES + 1]).encode()  # the first line names the file
    packed = lzma.compress(merges, preset=9 | lzma.PRESET_EXTREME)
    (folder / MERGES_FILE).write_bytes(packed)
    print(f"{MERGES_FILE}: {len(packed):,} bytes")


if __name__ == "__main__":
    main()
