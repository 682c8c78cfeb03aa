"""Writes small images of odd sizes and many kinds, and what torchvision makes of them (`expected.safetensors`).

    pip install torch==2.9.1 torchvision==0.24.1 pillow==13.0.0 numpy safetensors
    python make_images_any_size.py --out OUT_DIR [--seed N]

README.md beside this file says what is in the files.
"""

import argparse
import io
import json
import struct
import zlib
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from torchvision import transforms
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import functional
from torchvision.transforms.functional import InterpolationMode

MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15
# `Purpose::Augmentation` of the loader.
AUGMENTATION = 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RATIOS = (3 / 4, 4 / 3)


def mix(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


class Stream:
    """The loader's random numbers: SplitMix64 from a hash of the purpose, the seed and the place."""

    def __init__(self, purpose, seed, place):
        self.state = 0
        for word in [purpose, seed, *place]:
            self.state = mix(((self.state ^ word) + GAMMA) & MASK)

    def next(self):
        self.state = (self.state + GAMMA) & MASK
        return mix(self.state)

    def uniform(self, low, high):
        return torch.tensor([low + (high - low) * ((self.next() >> 40) / (1 << 24))])

    def below(self, bound):
        return torch.tensor([self.next() * bound >> 64])

    def coin(self):
        return self.next() >> 63 == 1


def drawn(size, least_scale, seed, epoch, index):
    """torchvision's own crop, drawn from the loader's random numbers, and the flip after it."""
    stream = Stream(AUGMENTATION, seed, [epoch, index])

    class Uniform:
        def uniform_(self, low, high):
            return stream.uniform(float(low), float(high))

    width, height = size
    image = Image.new("L", (width, height))
    with (
        mock.patch("torch.empty", lambda *_: Uniform()),
        mock.patch("torch.randint", lambda _, bound, size: stream.below(bound)),
    ):
        crop = transforms.RandomResizedCrop.get_params(image, [least_scale, 1.0], list(RATIOS))
    top, left, height, width = crop
    return [left, top, width, height], stream.coin()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(samples, depth, colour, interlaced=False, extra=b""):
    """`samples` are of shape [height, width, channels], each below 2 ** depth."""
    height, width, _ = samples.shape

    def lines(part):
        rows = b""
        for row in part:
            bits = "".join(f"{sample:0{depth}b}" for sample in row.ravel())
            bits += "0" * (-len(bits) % 8)
            rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
        return rows

    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    parts = [samples[y::dy, x::dx] for x, y, dx, dy in passes] if interlaced else [samples]
    data = b"".join(lines(part) for part in parts if part.size)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced)))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


def saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def picture(rng, height, width):
    """A smooth picture with an edge and some noise."""
    y, x = np.mgrid[0:height, 0:width]
    periods = rng.uniform(3, 9, (3, 2))
    planes = [127 + 90 * np.sin(x / a + y / b) for a, b in periods]
    planes = np.stack(planes, -1) + rng.normal(0, 6, (height, width, 3))
    planes[y * width > x * height + height * width // 3] += 60
    return np.clip(planes, 0, 255).astype(np.uint8)


def jpeg_with_adobe(pixels, transform):
    """A JPEG file whose components are stored as they are, without JFIF's segment, and Adobe's segment with this transform."""
    file = saved(Image.merge("YCbCr", [Image.fromarray(pixels[..., c]) for c in range(3)]), "JPEG", quality=95, subsampling=0)
    app0 = 2 + 2 + int.from_bytes(file[4:6], "big")
    adobe = b"\xff\xee\x00\x0eAdobe" + struct.pack(">HHHB", 100, 0, 0, transform)
    return file[:2] + adobe + file[app0:]


def ycck(pixels, black):
    """A JPEG file of Adobe's YCCK, which Pillow does not write: a file of CMYK with another transform in Adobe's segment."""
    ink = np.concatenate([pixels, black[..., None]], -1)
    file = saved(Image.fromarray(ink, "CMYK"), "JPEG", quality=95, subsampling=0)
    place = file.index(b"Adobe") + 11
    assert file[place] == 0
    return file[:place] + b"\x02" + file[place + 1 :]


def images(rng):
    rgb = picture(rng, 15, 19)
    wide = picture(rng, 13, 29)
    tall = picture(rng, 30, 11)
    edges = rng.integers(0, 2, (17, 14, 3)).astype(np.uint8) * 255
    grey = rgb[..., :1]
    alpha = rng.integers(0, 256, (15, 19, 1), np.uint8)
    words = rgb.astype(np.uint16) * 256 + rng.integers(0, 256, rgb.shape, np.uint16)
    palette = chunk(b"PLTE", rng.integers(0, 256, (16, 3), np.uint8).tobytes())
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(rgb)
    transparent = chunk(b"tRNS", bytes([0, 128, 255, 7]))
    a_colour = chunk(b"tRNS", struct.pack(">HHH", *rgb[3, 4].tolist()))
    jpeg = saved(Image.fromarray(wide), "JPEG", quality=85, subsampling=2)
    return {
        "rgb.png": png(rgb, 8, 2),
        "wide.png": png(wide, 8, 2),
        "tall.png": png(tall, 8, 2),
        "edges.png": png(edges, 8, 2),
        "dot.png": png(rgb[:1, :1], 8, 2),
        "line.png": png(wide[:1], 8, 2),
        "interlaced.png": png(rgb, 8, 2, interlaced=True),
        "interlaced_3x2.png": png(rgb[:2, :3], 8, 2, interlaced=True),
        "interlaced_grey_1.png": png(grey // 128, 1, 0, interlaced=True),
        "grey_1.png": png(grey // 128, 1, 0),
        "grey_2.png": png(grey // 64, 2, 0),
        "grey_4.png": png(grey // 16, 4, 0),
        "grey_8.png": png(grey, 8, 0),
        "grey_transparent.png": png(grey, 8, 0, extra=chunk(b"tRNS", struct.pack(">H", int(grey[2, 2, 0])))),
        "grey_alpha.png": png(np.concatenate([grey, alpha], -1), 8, 4),
        "grey_alpha_16.png": png(np.concatenate([words[..., :1], words[..., 1:2]], -1), 16, 4),
        "palette_1.png": png(grey // 128, 1, 3, extra=chunk(b"PLTE", bytes([9, 200, 70, 250, 3, 90]))),
        "palette_4.png": png(grey // 16, 4, 3, extra=palette),
        "palette_transparent.png": png(grey // 16, 4, 3, extra=palette + transparent),
        "palette_8.png": png(grey // 16, 8, 3, interlaced=True, extra=palette),
        "rgb_transparent.png": png(rgb, 8, 2, extra=a_colour),
        "rgb_16.png": png(words, 16, 2),
        "rgba.png": png(np.concatenate([rgb, alpha], -1), 8, 6),
        "without_end.png": png(rgb, 8, 2)[:-12],
        "turned.png": saved(image, "PNG", exif=exif),
        "palette.bmp": saved(image.quantize(16), "BMP"),
        "rgb.ppm": saved(image, "PPM"),
        "rgb.tif": saved(image, "TIFF", compression="tiff_lzw"),
        "rgb.webp": saved(image, "WEBP", lossless=True),
        "420.jpg": jpeg,
        "422.jpg": saved(Image.fromarray(tall), "JPEG", quality=85, subsampling=1),
        "444.jpg": saved(image, "JPEG", quality=95, subsampling=0),
        "cmyk.jpg": saved(image.convert("CMYK"), "JPEG", quality=90),
        "grey.jpg": saved(Image.fromarray(grey[..., 0]), "JPEG", quality=85),
        "progressive.jpg": saved(Image.fromarray(wide), "JPEG", quality=85, progressive=True),
        "rgb_of_adobe.jpg": jpeg_with_adobe(rgb, 0),
        "turned.jpg": saved(image, "JPEG", quality=85, exif=exif),
        "ycck.jpg": ycck(rgb, alpha[..., 0] // 2 + 100),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=19)
    arguments = parser.parse_args()
    folder = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(arguments.seed)

    # Files of the same pixels share them.
    tensors, decoded, known = {}, {}, {}
    for name, file in images(rng).items():
        (folder / name).write_bytes(file)
        pixels = np.asarray(pil_loader(str(folder / name)))
        decoded[name] = known.setdefault((pixels.shape, pixels.tobytes()), f"decoded.{name}")
        tensors[decoded[name]] = pixels

    modes = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
    crops, centres = [], []
    for name in ["rgb.png", "wide.png", "tall.png", "edges.png", "line.png"]:
        image = pil_loader(str(folder / name))
        width, height = image.size
        for which, (interpolation, mode) in enumerate(modes.items()):
            for of_image in range(2):
                side = [9, 12][of_image]
                w, h = (int(rng.integers((size + 2) // 3, size + 1)) for size in image.size)
                left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
                flip = bool((of_image + which) % 2)
                crop = functional.resized_crop(image, top, left, h, w, [side, side], mode)
                crop = functional.hflip(crop) if flip else crop
                tensors[f"crop.{len(crops)}"] = np.asarray(crop)
                crops.append(
                    {"file": name, "region": [left, top, w, h], "flip": flip, "side": side, "interpolation": interpolation}
                )
            for side, resize in [(6, 9), (8, 8)]:
                view = transforms.Compose(
                    [
                        transforms.Resize(resize, interpolation=mode),
                        transforms.CenterCrop(side),
                        transforms.PILToTensor(),
                        transforms.ConvertImageDtype(torch.float),
                        transforms.Normalize(mean=MEAN, std=STD),
                    ]
                )
                # The planes of a tensor that was an image are strided, which safetensors does not see.
                tensors[f"centre.{len(centres)}"] = view(image).contiguous().numpy()
                centres.append({"file": name, "side": side, "resize": resize, "interpolation": interpolation})

    draws = []
    for index in range(60):
        size = [int(it) for it in rng.integers(1, 700, 2)]
        least_scale = [0.08, 0.25, 0.9][index % 3]
        if index % 4 == 3:
            # Where no crop fits, and the centre is taken.
            size[index // 4 % 2] = int(rng.integers(1, 9))
        seed, epoch = int(rng.integers(0, 1 << 40)), index % 5
        region, flip = drawn(size, least_scale, seed, epoch, index)
        draws.append(
            {"size": size, "least_scale": least_scale, "seed": seed, "epoch": epoch, "index": index, "region": region, "flip": flip}
        )

    description = {"seed": arguments.seed, "decoded": decoded, "crops": crops, "centres": centres, "draws": draws}
    save_file(tensors, folder / "expected.safetensors", metadata={"description": json.dumps(description)})


if __name__ == "__main__":
    main()
