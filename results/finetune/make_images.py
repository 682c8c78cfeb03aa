"""Writes CIFAR-10 as a folder of larger image files, train/CLASS/* and val/CLASS/*, as `imagenet finetune` takes one.

    python make_images.py CIFAR10 OUT --train 500 --val 100

CIFAR10 is a folder of its images, train/CLASS/* and test/CLASS/*, of which it takes the first of each class. Two of three become PNG
files of 64x64 pixels, enlarged by Pillow's bicubic filter; every third becomes a JPEG file of a size of its own, 48 to 96 pixels wide
and high. Needs Pillow.
"""

import argparse
import random
from pathlib import Path

from PIL import Image


def write(source, target, per_class, sizes):
    number = 0
    for folder in sorted(source.iterdir()):
        out = target / folder.name
        out.mkdir(parents=True, exist_ok=True)
        for file in sorted(folder.iterdir())[:per_class]:
            image = Image.open(file).convert("RGB")
            if number % 3 == 2:
                size = (sizes.randint(48, 96), sizes.randint(48, 96))
                image.resize(size, Image.BICUBIC).save(out / f"{file.stem}.jpg", quality=95)
            else:
                image.resize((64, 64), Image.BICUBIC).save(out / f"{file.stem}.png")
            number += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cifar10", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=500, help="images of each class to train on")
    parser.add_argument("--val", type=int, default=100, help="images of each class to score on")
    arguments = parser.parse_args()
    sizes = random.Random(1)
    write(arguments.cifar10 / "train", arguments.out / "train", arguments.train, sizes)
    write(arguments.cifar10 / "test", arguments.out / "val", arguments.val, sizes)


if __name__ == "__main__":
    main()
