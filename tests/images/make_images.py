"""Writes the images in this folder, and which of them Pillow takes when they are cut (`taken.json`).

    pip install pillow==13.0.0 numpy
    python make_images.py

`taken.json` is `{"image": {"tail": [[first, last], ...]}}`: with the bytes `tail`, in hexadecimal digits, after the first `n` of
the image's, Pillow takes the file if `n` is in one of the ranges.
"""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
ORIENTATION = 0x0112

rng = np.random.default_rng(14)
y, x = np.mgrid[0:32, 0:32]
planes = [127 + 100 * np.sin(x / (5 + k) + y / (7 - k)) for k in range(3)]
pixels = np.clip(np.stack(planes, -1) + rng.normal(0, 8, (32, 32, 3)), 0, 255).astype(np.uint8)
rgb = Image.fromarray(pixels)
grey = Image.fromarray(pixels[:, :, 0])
# So many bytes that libjpeg-turbo begins with its fast decoder.
noise = Image.fromarray(np.random.default_rng(5).integers(0, 256, (32, 32), np.uint8))


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(samples, colour):
    """16 bits a sample."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    chunks = [chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 16, colour, 0, 0, 0)), chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def interlaced():
    """Adam7, and in chunks of 700 bytes."""
    rows = b""
    for row, column, rows_apart, columns_apart in [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]:
        for line in pixels[row::rows_apart, column::columns_apart]:
            rows += b"\0" + line.tobytes()
    data = zlib.compress(rows)
    chunks = [chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 1))]
    chunks += [chunk(b"IDAT", data[start : start + 700]) for start in range(0, len(data), 700)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def is_taken(file):
    try:
        Image.open(io.BytesIO(file)).convert("RGB")
        return True
    except Exception:
        return False


def tiff(samples):
    """Three samples of 16 bits a pixel."""
    data = samples.astype("<u2").tobytes()
    height, width, _ = samples.shape
    depths = 8 + 2 + 12 * 9 + 4
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 3, depths),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, depths + 6),
        (277, 3, 1, 3),
        (278, 4, 1, height),
        (279, 4, 1, len(data)),
    ]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    head += b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return head + struct.pack("<I3H", 0, 16, 16, 16) + data


def sixteen_bits():
    """Files of 16 bits a sample that Pillow makes `pixels` of."""
    low = np.random.default_rng(16).integers(0, 256, pixels.shape, np.uint16)
    samples = pixels.astype(np.uint16) * 256 + low
    alpha = samples[:, :, :1]
    nearest = pixels.astype(np.uint16) * 257 - 100
    files = {
        "sixteen_bits_rgb.png": png(samples, 2),
        "sixteen_bits_rgba.png": png(np.concatenate([samples, alpha], -1), 6),
        "sixteen_bits_rgb.tif": tiff(samples),
        "sixteen_bits_rgb.ppm": b"P6 32 32 65535\n" + nearest.astype(">u2").tobytes(),
    }
    for name, file in files.items():
        assert np.array_equal(Image.open(io.BytesIO(file)).convert("RGB"), pixels), name
    return files


turned = Image.Exif()
turned[ORIENTATION] = 6
images = {
    "rgb.bmp": saved(rgb, "BMP"),
    "rgb.png": saved(rgb, "PNG"),
    "rgb.ppm": saved(rgb, "PPM"),
    "rgb.tif": saved(rgb, "TIFF", compression="tiff_lzw"),
    "rgb.webp": saved(rgb, "WEBP", lossless=True),
    "interlaced.png": interlaced(),
    "palette.png": saved(rgb.quantize(16), "PNG"),
    "grey_alpha.png": saved(rgb.convert("LA"), "PNG"),
    "sixteen_bits.png": saved(Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257), "PNG"),
    "baseline_420.jpg": saved(rgb, "JPEG", quality=75, subsampling=2),
    "baseline_444.jpg": saved(rgb, "JPEG", quality=95, subsampling=0, optimize=True),
    "progressive_422.jpg": saved(rgb, "JPEG", quality=75, subsampling=1, progressive=True),
    "restarts_420.jpg": saved(rgb, "JPEG", quality=75, subsampling=2, restart_marker_blocks=1),
    "grey.jpg": saved(grey, "JPEG", quality=90),
    "grey_progressive.jpg": saved(grey, "JPEG", quality=50, progressive=True, restart_marker_blocks=2),
    "noise.jpg": saved(noise, "JPEG", quality=75),
    "turned.jpg": saved(rgb, "JPEG", quality=75, exif=turned),
    "turned.png": saved(rgb, "PNG", exif=turned),
    "turned.tif": saved(rgb, "TIFF", compression="tiff_lzw", exif=turned),
    "turned.webp": saved(rgb, "WEBP", lossless=True, exif=turned),
}
# Nothing, the marker of an image's end, and what is where nothing was written.
tails = {".jpg": [b"", b"\xff\xd9", bytes(64)]}
taken = {}
for name, image in images.items():
    (HERE / name).write_bytes(image)
    if name.startswith("turned"):
        continue
    taken[name] = {}
    for tail in tails.get(Path(name).suffix, [b""]):
        ranges = []
        for length in range(len(image) + 1):
            if is_taken(image[:length] + tail):
                if ranges and ranges[-1][1] == length - 1:
                    ranges[-1][1] = length
                else:
                    ranges.append([length, length])
        taken[name][tail.hex()] = ranges
for name, image in sixteen_bits().items():
    (HERE / name).write_bytes(image)
lines = [f"{json.dumps(name)}: {json.dumps(ranges)}" for name, ranges in taken.items()]
(HERE / "taken.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
