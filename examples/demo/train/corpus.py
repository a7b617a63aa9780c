"""Fetch the public-domain text from Debian packages, clean it, and split it into training and held-out parts."""
import argparse
import gzip
import re
import subprocess
import zlib
from pathlib import Path

import rdata

PACKAGES = ["bible-kjv", "bible-kjv-text", "r-cran-janeaustenr", "jargon-text"]
BLOCK_CHARS = 4000  # the split is by blocks, so that held-out text is whole paragraphs
HELD_OUT_EVERY = 50  # one block in 50: 2 %


def fetch(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if not list(folder.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
        subprocess.run(["dpkg-deb", "-x", next(folder.glob(f"{package}_*.deb")), folder / "root"], check=True)


def paragraphs(text: str) -> list[str]:
    blocks = re.split(r"\n\s*\n", text)
    joined = (re.sub(r"\s+", " ", block).strip() for block in blocks)
    return [paragraph for paragraph in joined if paragraph]


def king_james(root: Path) -> list[str]:
    command = [root / "usr/bin/bible", "-f", "-p", root / "usr/lib", "gen1:1-rev22:21"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    # The references stay: "Ge 1:2" after "Ge 1:1" is where the base learns to copy digits and count.
    return [re.sub(r"^([1-3]?[A-Za-z]+)(\d+:\d+)", r"\1 \2", line) for line in lines if line]


def austen(root: Path) -> list[str]:
    # R's lazy-load pair: .rdx maps a name to (offset, length) in .rdb; a record is a 4-byte length, then zlib.
    data = root / "usr/lib/R/site-library/janeaustenr/data"
    index = rdata.conversion.convert(rdata.parser.parse_data((data / "Rdata.rdx").read_bytes()))
    records = (data / "Rdata.rdb").read_bytes()
    found = []
    for offset, length in sorted(tuple(map(int, place)) for place in index["variables"].values()):
        record = zlib.decompress(records[offset + 4 : offset + length])
        lines = rdata.conversion.convert(rdata.parser.parse_data(record))
        found += paragraphs("\n".join(map(str, lines)))
    return found


def jargon(root: Path) -> list[str]:
    text = gzip.decompress((root / "usr/share/doc/jargon-text/jargon.txt.gz").read_bytes()).decode("utf-8", "replace")
    found = paragraphs(text[text.index(":abbrev:"):])
    return [re.sub(r"[{}]", "", p) for p in found if re.search(r"[a-z]{3}.* [a-z]{2}", p)]


def blocks(source: list[str]) -> list[str]:
    found, current = [], ""
    for paragraph in source:
        current += paragraph + "\n"
        if len(current) >= BLOCK_CHARS:
            found.append(current)
            current = ""
    return found + ([current] if current else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the packages and the two text files")
    work = parser.parse_args().work
    fetch(work)
    train, held_out = [], []
    for source in (king_james, austen, jargon):
        mine = blocks(source(work / "root"))
        held = mine[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY]
        print(source.__name__, sum(map(len, mine)), "characters,", len(held), "held-out blocks")
        held_out += held
        train += [block for place, block in enumerate(mine) if place % HELD_OUT_EVERY != HELD_OUT_EVERY // 2]
    (work / "train.txt").write_text("\n".join(train), encoding="utf-8")
    (work / "heldout.txt").write_text("\n".join(held_out), encoding="utf-8")


if __name__ == "__main__":
    main()
