"""Draws shapes/train/CLASS/* and shapes/val/CLASS/*: circles, squares and triangles, in JPEG and PNG files of many sizes.

    python make_shapes.py

Needs Pillow.
"""

import math
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

CORNERS = {"circle": 40, "square": 4, "triangle": 3}


def draw(corners, randomness):
    width, height = randomness.randint(70, 120), randomness.randint(70, 120)
    hue = randomness.random() * 360
    color = lambda hue, lightness: f"hsl({hue % 360:.0f}, 60%, {lightness}%)"
    image = Image.new("RGB", (width, height), color(hue, randomness.randint(60, 85)))
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        line = [randomness.randint(-20, 140) for _ in range(4)]
        pen.line(line, color(hue + randomness.randint(-40, 40), randomness.randint(50, 90)), randomness.randint(2, 12))
    radius = randomness.uniform(0.25, 0.4) * min(width, height)
    x, y = (randomness.uniform(radius, side - radius) for side in (width, height))
    turn = randomness.random() * 2 * math.pi
    angles = [turn + 2 * math.pi * corner / corners for corner in range(corners)]
    pen.polygon(
        [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles],
        color(hue + randomness.randint(90, 270), randomness.randint(25, 50)),
    )
    return image.filter(ImageFilter.GaussianBlur(1))


def main():
    randomness = random.Random(1)
    folder = Path(__file__).parent / "shapes"
    for split, count in {"train": 40, "val": 10}.items():
        for name, corners in CORNERS.items():
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                file = folder / split / name / f"{number:02}"
                image = draw(corners, randomness)
                if number % 8 == 7:
                    image.quantize(32).save(file.with_suffix(".png"), optimize=True)
                else:
                    image.save(file.with_suffix(".jpg"), quality=75, optimize=True)


if __name__ == "__main__":
    main()
