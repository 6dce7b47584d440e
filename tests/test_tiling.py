import itertools

import numpy as np
import pytest
import torch
from torch import nn

from segsweep.tiling import segment_by_tiles, stream_by_tiles
from segsweep.types import SegmenterOutput

AWKWARD = [(16, 16), (17, 16), (31, 33), (40, 23), (64, 5), (5, 64), (7, 9), (1, 30), (1, 1), (16, 61)]


class Pointwise(nn.Module):
    """A 1x1 convolution, and the image itself as reconstruction; keeps the sizes that it saw."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 1)
        self.seen = []

    def forward(self, image):
        self.seen.append(tuple(image.shape))
        return SegmenterOutput(self.conv(image), reconstruction=image * 2, latent=image.mean((2, 3), keepdim=True))


@pytest.fixture
def model():
    return Pointwise().eval().requires_grad_(False)


@pytest.mark.parametrize("size", AWKWARD)
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_a_pointwise_model_gives_the_whole_image_s_result(model, size, overlap):
    image = torch.randn(2, 3, *size)
    output = segment_by_tiles(model, image, (16, 12), overlap)
    torch.testing.assert_close(output.logits, model.conv(image), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.reconstruction, image * 2, atol=1e-5, rtol=1e-5)
    assert output.latent is None
    assert {shape[1:] for shape in model.seen} == {(3, 16, 12)}  # a model sees one size, whatever the image's


@pytest.mark.parametrize("size", AWKWARD)
@pytest.mark.parametrize("overlap", [0.0, 0.3])
def test_every_pixel_is_covered_and_overlap_is_kept(size, overlap):
    tile = (16, 12)
    coordinates = torch.stack(torch.meshgrid(*(torch.arange(side).float() for side in size), indexing="ij"))[None]
    corners = []

    def model(image):
        corners.extend((int(y), int(x)) for y, x in image[:, :, 0, 0])
        return SegmenterOutput(image)

    segment_by_tiles(model, coordinates, tile, overlap)
    for axis in (0, 1):
        starts = sorted({corner[axis] for corner in corners})
        assert starts[0] == 0
        assert starts[-1] + tile[axis] >= size[axis]
        steps = [b - a for a, b in itertools.pairwise(starts)]
        assert all(0 < step <= max(1, round(tile[axis] * (1 - overlap))) for step in steps)
    assert len(corners) == len(set(corners))


def test_one_tile_is_one_pass(model):
    segment_by_tiles(model, torch.randn(1, 3, 16, 12), (16, 12), 0.25)
    assert model.seen == [(1, 3, 16, 12)]


def test_a_small_image_is_mirrored_up_to_a_tile():
    seen = []

    def model(image):
        seen.append(image)
        return SegmenterOutput(image)

    image = torch.arange(6.0).view(1, 1, 2, 3)
    output = segment_by_tiles(model, image, (4, 5), 0.0)
    assert seen[0][0, 0].tolist() == [[0, 1, 2, 1, 0], [3, 4, 5, 4, 3], [0, 1, 2, 1, 0], [3, 4, 5, 4, 3]]
    assert torch.equal(output.logits, image)


def test_neighbours_blend_where_they_overlap():
    """Two tiles that disagree: from one's value to the other's without a step."""
    values = iter((0.0, 1.0))

    def model(image):
        return SegmenterOutput(torch.stack([torch.full((1, 4, 16), next(values)) for _ in image]))

    row = segment_by_tiles(model, torch.zeros(1, 3, 4, 24), (4, 16), 0.5).logits[0, 0, 0]
    assert row[:8].eq(0).all()
    assert row[16:].eq(1).all()
    assert (row.diff() >= 0).all()
    assert row.diff().max() < 0.25
    assert row[8:16].flip(0) + row[8:16] == pytest.approx(torch.ones(8), abs=1e-6)


def test_low_precision_models_add_up_in_full_precision(model):
    def half(image):
        return SegmenterOutput(model.conv(image).bfloat16())

    image = torch.randn(1, 3, 40, 40)
    output = segment_by_tiles(half, image, (16, 12), 0.5)
    assert output.logits.dtype == torch.float32
    torch.testing.assert_close(output.logits, model.conv(image), atol=0.02, rtol=0.02)
    assert output.reconstruction is None


@pytest.mark.parametrize("size", [*AWKWARD, (60, 120)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_a_stream_of_blocks_is_the_same_bit_by_bit(size, overlap):
    """Also where it comes in strips, which only changes which tiles share a forward pass."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 5, padding=2).eval().requires_grad_(False)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)

    def score(tiles):
        return conv(tiles.permute(0, 3, 1, 2).float() / 255)

    image = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2).float() / 255
    whole = segment_by_tiles(lambda part: SegmenterOutput(conv(part)), image, (16, 12), overlap).logits[0]
    for most in (1, 16 * 4 * 30, 10**9):
        found = torch.full_like(whole, torch.nan)
        for block in stream_by_tiles(score, pixels, 4, (16, 12), overlap, most):
            assert found[(slice(None), *block.place)].isnan().all()  # each pixel comes once
            found[(slice(None), *block.place)] = block.scores
        torch.testing.assert_close(found, whole, atol=1e-5 if most < 10**9 else 0, rtol=0)


def test_a_stream_holds_a_row_of_tiles_and_no_more():
    blocks = list(
        stream_by_tiles(
            lambda tiles: tiles.permute(0, 3, 1, 2).float(), np.zeros((100, 40, 3), np.uint8), 3, (16, 12), 0.5
        )
    )
    assert max(block.scores.shape[1] for block in blocks) <= 16
    assert [block.row for block in blocks] == sorted(block.row for block in blocks)
