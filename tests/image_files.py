"""Small image files in the layouts of the real data sets."""

import numpy as np
from PIL import Image


def write_image(path, number, size=(8, 8), mode="RGB"):
    """Write a small image of random pixels in the format of the path's ending."""
    random = np.random.default_rng(number)
    pixels = random.integers(0, 256, (size[1], size[0], len(mode) if mode != "P" else 1), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.convert(mode).save(path)


WNIDS = ("n03", "n01", "n02")


def write_tiny_imagenet(root):
    """Write tiny-imagenet-200/ into a data root as its archive has it: 3 classes of 10 images, 6 in val."""
    base = root / "tiny-imagenet-200"
    for label, wnid in enumerate(WNIDS):
        for index in range(10):
            mode = "L" if index == 3 else "RGB"
            write_image(base / "train" / wnid / "images" / f"{wnid}_{index}.JPEG", 100 * label + index, mode=mode)
        boxes = "".join(f"{wnid}_{index}.JPEG\t0\t0\t7\t7\n" for index in range(10))
        (base / "train" / wnid / f"{wnid}_boxes.txt").write_text(boxes)
    for index in range(6):
        write_image(base / "val" / "images" / f"val_{index}.JPEG", 1000 + index)
        write_image(base / "test" / "images" / f"test_{index}.JPEG", 2000 + index)  # without labels: not read
    lines = (f"val_{index}.JPEG\t{WNIDS[index % 3]}\t0\t0\t7\t7\n" for index in range(6))
    (base / "val" / "val_annotations.txt").write_text("".join(lines))
    (base / "wnids.txt").write_text("\n".join(WNIDS))
    (base / "words.txt").write_text(
        "n00\tentity\nn01\tcrane\nn02\tgoldfish, Carassius auratus\nn03\tcrane, lifting device\n"
    )
    for stray in (".DS_Store", "train/.DS_Store", "train/n01/images/.DS_Store", "val/images/._val_0.JPEG"):
        (base / stray).write_bytes(b"\0\5\x16\7")
    (base / "train" / "n01" / "images" / "Thumbs.db").write_bytes(b"no image")
    return root
