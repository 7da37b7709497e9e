"""Training data for tests: small pictures, and pairs about them in the layout of VISTA-S2."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from pipelines.sample_catalog import COLOURS, SHAPES, draw

NAMES = [(shape, colour) for shape in SHAPES for colour in COLOURS if colour != "white"]


def picture(shape: str, colour: str) -> bytes:
    return draw(shape, colour, "white")


def name_of(shape: str, colour: str) -> str:
    return f"images/{shape}-{colour}.png"


def edit_lines() -> list[dict]:
    """'Make it blue': each picture with each other colour of its shape."""
    lines = []
    for shape, colour in NAMES:
        for other in ("red", "blue", "green"):
            if other != colour:
                line = {"query": [name_of(shape, colour), f"make it {other}"], "positive": name_of(shape, other)}
                line["hard_negative"] = [name_of(shape, colour), name_of(shape, "black"), name_of("ring", "yellow")]
                lines.append(line | {"q_type": "mm_it", "c_type": "image"})
    return lines


def caption_lines() -> list[dict]:
    lines = []
    for shape, colour in NAMES:
        line = {"query": f"a {colour} {shape}", "positive": [name_of(shape, colour), "a drawing"]}
        line["hard_negative"] = [[name_of(shape, "black" if colour == "red" else "red"), "a drawing"]]
        lines.append(line | {"q_type": "text", "c_type": "mm_it"})
    return lines


def write_lines(path: Path, lines: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_data(folder: Path) -> Path:
    """Both tasks, with loose images."""
    write_lines(folder / "edit_image.jsonl", edit_lines())
    write_lines(folder / "t2it.jsonl", caption_lines())
    (folder / "images").mkdir()
    for shape, colour in NAMES:
        (folder / name_of(shape, colour)).write_bytes(picture(shape, colour))
    return folder


def as_cut_tar(folder: Path, parts: int) -> None:
    """Replace the loose images by a tar that is cut into parts, wherever the cuts fall."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for path in sorted((folder / "images").iterdir()):
            tar.add(path, f"images/{path.name}")
            path.unlink()
    (folder / "images").rmdir()
    content = stream.getvalue()
    size = -(-len(content) // parts)
    for number in range(parts):
        (folder / f"images.tar.part{number:02}").write_bytes(content[number * size : (number + 1) * size])
