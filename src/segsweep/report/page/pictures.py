"""Pictures for the page: parts of the strips in run folders, small enough to be part of one file."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDE = 144  # pixels, longer side of a picture
_MOST_PIXELS = 4 * 2048 * 2048  # of a strip: a larger one is no strip of ours


class Budget:
    """How many bytes of pictures may still be put into the page."""

    def __init__(self, num_bytes: int) -> None:
        self.left = num_bytes
        self.refused = 0

    def take(self, uris: list[str]) -> bool:
        """Whether there is room for all of these; what there is no room for is counted."""
        size = sum(map(len, uris))
        if size > self.left:
            self.refused += 1
            return False
        self.left -= size
        return True


@dataclass(frozen=True)
class Panes:
    """One strip as ``data:`` URIs."""

    image: str
    truth: str
    prediction: str
    error: str


def read_panes(file: Path) -> Panes | None:
    """Cuts a strip image | truth | prediction | error into its four pictures; None if it is no such strip."""
    from PIL import Image, UnidentifiedImageError  # here, because most commands draw nothing

    try:
        with Image.open(file, formats=("PNG",)) as strip:
            width, height = strip.size
            if width % 4 or width * height > _MOST_PIXELS:
                return None
            whole = strip.convert("RGB")
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    side = width // 4
    parts = [whole.crop((i * side, 0, (i + 1) * side, height)) for i in range(4)]
    return Panes(*(_uri(part, is_mask=i in (1, 2)) for i, part in enumerate(parts)))


def _uri(picture: Image, is_mask: bool) -> str:
    from PIL import Image

    scale = _SIDE / max(picture.size)
    if scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.NEAREST if is_mask else Image.Resampling.BOX)
    data = _webp(picture, is_lossless=is_mask)
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def _webp(picture: Image, is_lossless: bool) -> bytes:
    file = io.BytesIO()
    picture.save(file, "WEBP", lossless=is_lossless, quality=0 if is_lossless else 80, method=1)  # quickly
    return file.getvalue()
