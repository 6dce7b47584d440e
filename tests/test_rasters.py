"""Reading image files: what is in them counts, not what they are called, and nothing is converted silently."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from segsweep.data.images import to_image, turn_upright
from segsweep.data.problems import Problem
from segsweep.data.rasters import count_pages, open_raster
from tests.sources import write, write_pages

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), np.uint8)
RGB = RNG.integers(0, 256, (5, 7, 3), np.uint8)


@pytest.fixture
def opened(tmp_path):
    """``opened(content, name)`` writes a file and opens it."""

    def open_one(content, name="image.png", page=None, max_pixels=10**6, **options):
        return open_raster(write(tmp_path / name, content, **options), name, page, max_pixels)

    return open_one


def as_image(raster, in_channels=3, scale=None, alpha=None):
    image = to_image(raster, "image 7", in_channels, scale, alpha)
    assert image.dtype == np.uint8
    assert image.shape[2] == in_channels
    return image


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".png", {}),
        (".bmp", {}),
        (".tif", {}),
        (".tif", {"compression": "tiff_lzw"}),
        (".webp", {"lossless": True}),
        (".npy", {}),
    ],
)
def test_eight_bits_come_as_they_are(opened, suffix, options):
    raster = opened(RGB, f"image{suffix}", **options)
    assert (raster.size, raster.bits, raster.is_lossy) == ((5, 7), 8, False)
    assert np.array_equal(as_image(raster), RGB)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_files_are_known_as_such(opened, suffix):
    assert opened(RGB, f"image{suffix}").is_lossy


def test_content_counts_not_the_suffix(opened):
    stream = io.BytesIO()
    Image.fromarray(RGB).save(stream, "PNG")
    raster = opened(stream.getvalue(), "image.jpg")
    assert (raster.format, raster.suffix, raster.is_lossy) == ("PNG", ".jpg", False)
    assert np.array_equal(as_image(raster), RGB)


def test_grey_and_colour_become_each_other(opened):
    assert np.array_equal(as_image(opened(GREY)), np.stack([GREY] * 3, axis=2))
    assert np.array_equal(as_image(opened(GREY), in_channels=1)[:, :, 0], GREY)
    luminance = np.asarray(Image.fromarray(RGB).convert("L"))
    assert np.array_equal(as_image(opened(RGB), in_channels=1)[:, :, 0], luminance)
    assert np.array_equal(as_image(opened(GREY[:, :, None], "image.npy"), in_channels=1)[:, :, 0], GREY)


def test_palette_images_show_their_colours(opened):
    image = Image.fromarray(RGB).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    for name in ("image.png", "image.gif"):
        assert np.array_equal(as_image(opened(image, name)), expected)


@pytest.mark.parametrize(
    ("content", "name", "scale", "expected"),
    [
        (np.array([[0, 2048, 4095, 65535]], np.uint16), "a.png", (0, 4095), [0, 128, 255, 255]),  # 12 of 16 bits
        (np.array([[0, 128, 65535]], np.uint16), "a.tif", (0, 65535), [0, 0, 255]),
        (np.array([[-0.5, 0.0, 0.5, 1.0, 2.0]], np.float32), "a.tif", (0, 1), [0, 0, 128, 255, 255]),
        (np.array([[-1000, 0, 1000]], np.int16), "a.npy", (-1000, 1000), [0, 128, 255]),
        (np.array([[5, 61, 110, 255]], np.uint8), "a.png", (10, 110), [0, 130, 255, 255]),
    ],
)
def test_scale_says_what_is_black_and_white(opened, content, name, scale, expected):
    assert as_image(opened(content, name), in_channels=1, scale=scale)[0, :, 0].tolist() == expected


def test_one_bit_images_need_a_scale(opened):
    image = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert as_image(opened(image), in_channels=1, scale=(0, 1))[0, :, 0].tolist() == [0, 255]
    with pytest.raises(Problem, match=r"E-DEPTH image 7 has 1 bit .*data.scale=\[0,1\]"):
        as_image(opened(image))


@pytest.mark.parametrize(
    ("content", "name", "fix"),
    [
        (np.array([[0, 4000]], np.uint16), "a.png", r"data.scale=\[0,4095\]"),
        (np.array([[0, 60000]], np.uint16), "a.png", r"data.scale=\[0,65535\]"),
        (np.array([[0.0, 0.9]], np.float32), "a.npy", r"data.scale=\[0,1\]"),
        (np.array([[0.0, 254.5]], np.float32), "a.tif", r"data.scale=\[0,255\]"),
    ],
)
def test_other_depths_need_a_decision(opened, content, name, fix):
    with pytest.raises(Problem, match=fix) as error:
        as_image(opened(content, name))
    assert error.value.code == "E-DEPTH"


def test_transparency_needs_a_decision(opened):
    cover = np.full((5, 7, 1), 255, np.uint8)
    assert np.array_equal(as_image(opened(np.concatenate([RGB, cover], axis=2))), RGB)  # nothing shines through
    cover[0, :5, 0] = (0, 64, 128, 192, 255)
    raster = opened(np.concatenate([RGB, cover], axis=2))
    with pytest.raises(Problem, match=r"E-ALPHA image 7 is transparent in 11.4% of its pixels"):
        as_image(raster)
    assert np.array_equal(as_image(raster, alpha="drop"), RGB)
    laid = as_image(raster, alpha="composite")
    assert (laid[0, 0] == 255).all()
    assert np.allclose(laid[0, 2], RGB[0, 2] * (128 / 255) + 127, atol=0.51)
    assert np.array_equal(laid[1:], RGB[1:])


def test_transparent_palettes_and_greys_are_transparent_too(opened):
    indices = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    indices.putpalette([200, 0, 0, 0, 200, 0])
    indices.putdata([0, 1])
    raster = opened(indices, transparency=0)
    assert as_image(raster, alpha="composite")[0].tolist() == [[255, 255, 255], [0, 200, 0]]
    assert as_image(raster, alpha="drop")[0].tolist() == [[200, 0, 0], [0, 200, 0]]
    grey = opened(Image.fromarray(np.array([[[10, 255], [20, 0]]], np.uint8)))
    assert grey.mode == "LA"
    assert as_image(grey, in_channels=1, alpha="composite")[0, :, 0].tolist() == [10, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_as_pillow_turns_them(opened, orientation):
    image = Image.fromarray(RGB)
    image.getexif()[0x0112] = orientation
    raster = opened(image, exif=image.getexif())
    assert raster.orientation == orientation
    assert np.array_equal(raster.pixels, RGB)  # as stored
    assert np.array_equal(turn_upright(raster.pixels, orientation), np.asarray(ImageOps.exif_transpose(image)))


def test_pages_of_a_stack(opened, tmp_path):
    pages = [GREY, 255 - GREY, GREY // 2]
    file = write_pages(tmp_path / "stack.tif", pages)
    assert count_pages(file, "stack.tif") == 3
    for i, page in enumerate(pages):
        assert np.array_equal(open_raster(file, "stack.tif", i, 10**6).pixels, page)
    with pytest.raises(Problem, match=r"E-PAGE stack.tif has 3 pages or frames.*data.page=0.*data.page=all"):
        open_raster(file, "stack.tif", None, 10**6)
    with pytest.raises(Problem, match=r"has no page 3, only 3"):
        open_raster(file, "stack.tif", 3, 10**6)
    assert np.array_equal(opened(GREY, "one.png", page=0).pixels, GREY)
    assert count_pages(tmp_path / "one.png", "one.png") == 1


def test_arrays_with_pages(opened, tmp_path):
    stack = RNG.integers(0, 256, (6, 5, 7), np.uint8)
    assert np.array_equal(opened(stack, "stack.npy", page=4).pixels, stack[4])
    assert count_pages(tmp_path / "stack.npy", "stack.npy") == 6
    write(tmp_path / "rgb.npy", RGB)
    assert count_pages(tmp_path / "rgb.npy", "rgb.npy") == 1


def test_a_large_image_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    file = write(tmp_path / "image.png", GREY)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)  # decoding would fail
    with pytest.raises(
        Problem, match=r"E-BIG image.png has 7x5 = 35 pixels, the limit is 34\. .*'data.tile=\[512,512\]'"
    ):
        open_raster(file, "image.png", None, max_pixels=34)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"", "a.png", r"E-IMG a.png is empty \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a.png", r"Git-LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "a.jpg", r"HTML page \(a failed download\?\)"),
        (b"%PDF-1.4", "a.png", r"is a PDF file"),
        (b"\x93NUMPY\x01\x00", "a.png", r"NumPy file by content but not by name"),
        (b"P5 1 1 255 \x00", "a.png", r"is no PNG, JPEG"),  # Pillow could, but it is not on the list
        (b"plain text", "a.npy", r"is no whole npy file"),
    ],
)
def test_what_is_no_image_is_recognised(opened, content, name, message):
    with pytest.raises(Problem, match=message):
        opened(content, name)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".gif", ".webp", ".npy"])
def test_half_a_file_is_refused(opened, tmp_path, suffix):
    whole = write(tmp_path / f"whole{suffix}", RNG.integers(0, 256, (40, 40), np.uint8)).read_bytes()
    with pytest.raises(Problem, match=r"E-IMG half"):
        opened(whole[: len(whole) // 2], f"half{suffix}")


@pytest.mark.parametrize("compress_level", [0, 6])
def test_a_flipped_bit_in_a_png_is_refused(opened, tmp_path, compress_level):
    pixels = RNG.integers(0, 256, (40, 40), np.uint8)
    data = bytearray(write(tmp_path / "whole.png", pixels, compress_level=compress_level).read_bytes())
    data[len(data) // 2] ^= 1
    with pytest.raises(Problem, match=r"E-IMG image.png is damaged or cut off"):
        opened(bytes(data))


def test_arrays_of_python_objects_are_never_loaded(opened, tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(Problem, match=r"holds Python objects, which are never loaded"):
        open_raster(tmp_path / "objects.npy", "objects.npy", None, 10**6)


def test_numbers_that_are_none_are_refused(opened):
    with pytest.raises(
        Problem, match=r"E-NAN image 7 has 1 values that are NaN or infinite, the first in row 1, column 2"
    ):
        as_image(opened(np.where(np.arange(6).reshape(2, 3) == 5, np.nan, 0.5), "a.npy"), scale=(0, 1))


@pytest.mark.parametrize("content", [Image.fromarray(RGB).convert("CMYK"), RNG.integers(0, 255, (5, 7, 2), np.uint8)])
def test_other_bands_are_refused(opened, content):
    with pytest.raises(Problem, match=r"E-MODE image 7"):
        as_image(opened(content, "a.tif" if isinstance(content, Image.Image) else "a.npy"))
