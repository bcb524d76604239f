"""Time the cache of decoded images on 100,000 generated 64-px JPEGs in Tiny-ImageNet's layout.

Run from the repository: ``python tests/benchmarks/bench_data.py [--images N] [--folder DIR]``. It needs 1.7 GB of
disk for 100,000 images, in DIR or the system's temporary folder, and frees it at its end.

It prints the seconds of the first load (contents hashed, images decoded, mean and deviation fitted) and of a second
one in a new process (listing, checksums, mapping), and what two further processes that open the data at once, and read
batches of it, add to the memory in use: anonymous memory is a process's own, file pages are shared by all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

CLASSES = 200
LOAD = """
import json, sys, time, torch
def memory():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return [int(lines[key].split()[0]) / 1024 for key in ("RssAnon", "RssFile")]
def private():
    lines = [line.split() for line in open("/proc/self/smaps_rollup") if line.startswith("Private_")]
    return sum(int(line[1]) for line in lines) / 1024
from ddcal.config import DataConfig
from ddcal.data import load_dataset
import ddcal.data.decoded, PIL.Image, safetensors.torch
before, own = memory(), private()
began, cpu = time.perf_counter(), time.process_time()
dataset = load_dataset(DataConfig(name="tiny-imagenet", root=sys.argv[1]))
seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
opened, opened_own = memory(), private()
order = torch.randperm(len(dataset.train))
for batch in range(int(sys.argv[2])):
    dataset.train.images[order[256 * batch : 256 * batch + 256]].sum()
after, after_own = memory(), private()
print(json.dumps({
    "seconds": seconds, "cpu": cpu, "images": sum(map(len, (dataset.train, dataset.val, dataset.test))),
    "anonymous": [opened[0] - before[0], after[0] - before[0]], "file": [opened[1] - before[1], after[1] - before[1]],
    "private": [opened_own - own, after_own - own],
}), flush=True)
sys.stdin.read()
"""


def write_class(folder: Path, wnid: str, numbers: range, part: str) -> None:
    """Write random 64-px JPEGs, smooth as photographs are (about 2 kB each)."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng([int(wnid[1:]), numbers.start])
    for number in numbers:
        small = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        name = f"{wnid}_{number}.JPEG" if part == "train" else f"val_{number}.JPEG"
        small.resize((64, 64), Image.Resampling.BICUBIC).save(folder / name, quality=90)


def generate(root: Path, images: int) -> None:
    """Write 10/11 of the images as train and the rest as val, in Tiny-ImageNet's layout."""
    base = root / "tiny-imagenet-200"
    wnids = [f"n{label:08d}" for label in range(CLASSES)]
    each, val = images * 10 // 11 // CLASSES, images - images * 10 // 11 // CLASSES * CLASSES
    (base / "val" / "images").mkdir(parents=True)
    (base / "wnids.txt").write_text("\n".join(wnids))
    (base / "words.txt").write_text("\n".join(f"{wnid}\tthing {wnid}" for wnid in wnids))
    with ProcessPoolExecutor() as pool:
        jobs = []
        for wnid in wnids:
            folder = base / "train" / wnid / "images"
            folder.mkdir(parents=True)
            jobs.append(pool.submit(write_class, folder, wnid, range(each), "train"))
        starts = range(0, val, 500)
        jobs += [
            pool.submit(write_class, base / "val" / "images", wnids[0], range(start, min(val, start + 500)), "val")
            for start in starts
        ]
        for job in jobs:
            job.result()
    lines = (f"val_{number}.JPEG\t{wnids[number % CLASSES]}\t0\t0\t63\t63\n" for number in range(val))
    (base / "val" / "val_annotations.txt").write_text("".join(lines))


def start(root: Path, batches: int) -> subprocess.Popen[str]:
    """Start a process that loads the data and waits until its input ends."""
    command = [sys.executable, "-c", LOAD, str(root), str(batches)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def report(process: subprocess.Popen[str]) -> dict[str, object]:
    """Wait for what a process prints."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        sys.exit(f"a loading process failed with exit code {process.wait()}")
    return json.loads(line)


def main() -> None:
    """Generate, load, load again, load twice at once, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000, help="how many JPEGs (default 100,000)")
    parser.add_argument("--folder", help="where the temporary folder is made")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="ddcal-bench-data-", dir=arguments.folder))
    try:
        began = time.perf_counter()
        generate(root, arguments.images)
        size = sum(path.stat().st_size for path in root.rglob("*.JPEG")) / 1e6
        print(f"generated {arguments.images:,} JPEGs, {size:.0f} MB: {time.perf_counter() - began:.1f} s", flush=True)
        for what in ("first load", "second load", "third load"):
            process = start(root, 0)
            found = report(process)
            process.communicate()
            print(
                f"{what} ({found['images']:,} images): {found['seconds']:.2f} s, {found['cpu']:.2f} s of CPU",
                flush=True,
            )
        cache = sum(path.stat().st_size for path in (root / ".ddcal").rglob("*") if path.is_file()) / 1e6
        print(f"cache: {cache:.0f} MB")
        workers = [start(root, 100) for _ in range(2)]
        for number, found in enumerate(map(report, workers), start=1):
            lines = (
                f"{key} {found[key][0]:+.0f} MB opened, {found[key][1]:+.0f} MB after 100 batches of 256"
                for key in ("anonymous", "private", "file")
            )
            print(f"worker {number} of 2 at once: {found['seconds']:.2f} s; {'; '.join(lines)}")
        for process in workers:
            process.communicate()
        print(f"{len(os.sched_getaffinity(0))} CPUs, load {os.getloadavg()[0]:.1f}")
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
