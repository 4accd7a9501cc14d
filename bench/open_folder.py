"""How long opening a folder of pictures takes, by their number.

    python bench/open_folder.py 5000 10000 20000

The pictures are tiny: none is decoded at opening.
"""

import argparse
import pathlib
import tempfile
import time

from PIL import Image

from unijax.data.user import open_folder


def seconds(count: int, form: str) -> float:
    """To open `count` pictures whose captions stand in metadata, beside them, or in no file."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        Image.new("RGB", (8, 8)).save(folder / "one.png")
        content = (folder / "one.png").read_bytes()
        (folder / "one.png").unlink()
        (folder / "cat").mkdir()
        for i in range(count):
            (folder / "cat" / f"{i}.png").write_bytes(content)
            if form == "texts":
                (folder / "cat" / f"{i}.txt").write_text(f"picture {i}")
        if form == "metadata":
            rows = "".join(f"cat/{i}.png,picture {i}\n" for i in range(count))
            (folder / "metadata.csv").write_text("file_name,text\n" + rows)
        begin = time.perf_counter()
        assert len(open_folder(folder)) == count
        return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("counts", type=int, nargs="*", default=[5_000, 10_000, 20_000])
    counts = parser.parse_args().counts
    print("pictures   " + "".join(f"{count:10,}" for count in counts))
    for form in ("folders", "texts", "metadata"):
        times = [f"{seconds(count, form):8.2f} s" for count in counts]
        print(f"{form:10} " + "".join(times), flush=True)


if __name__ == "__main__":
    main()
