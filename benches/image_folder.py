"""Photographs, and the speed of torchvision's loader on them, for `benches/image_folder.rs`.

    python image_folder.py make FOLDER COUNT

writes photographs of 500x375 pixels and the like into `FOLDER/train/CLASS/` (and one into `FOLDER/val/CLASS/`), with chroma at half
the resolution, as cameras and the web have them.

    python image_folder.py load FOLDER WORKERS BATCH_SIZE

runs an epoch of the reference's training transform for each line of the standard input, and prints its seconds.
"""

import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = [(500, 375), (375, 500), (500, 333), (500, 500), (640, 480)]


def make(folder, count):
    rng = np.random.default_rng(0)
    for index in range(count + 2):
        width, height = SIZES[index % len(SIZES)]
        # Coarse shapes, finer ones, and the noise of a sensor.
        pixels = np.zeros((height, width, 3))
        for scale, weight in [(64, 0.6), (16, 0.3), (4, 0.1)]:
            small = rng.integers(0, 256, (height // scale + 2, width // scale + 2, 3), np.uint8)
            pixels += weight * np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
        pixels += rng.normal(0, 4, pixels.shape)
        split = "train" if index < count else "val"
        path = folder / split / f"class{index % 2}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=90, subsampling=2)


def load(folder, workers, batch_size):
    import torch
    import torchvision
    from torchvision import datasets, transforms

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
            transforms.ConvertImageDtype(torch.float),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    loader = torch.utils.data.DataLoader(
        datasets.ImageFolder(folder / "train", transform),
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
    )
    print(torchvision.__version__, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        images = sum(len(labels) for _, labels in loader)
        assert images == len(loader.dataset)
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    command, folder, *numbers = sys.argv[1:]
    {"make": make, "load": load}[command](Path(folder), *map(int, numbers))
