"""Takes the pictures of TensorBoard in docs/ from a sweep, in a headless Chromium.

python scripts/tensorboard_pictures.py outputs/sweeps/families docs
"""

import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.browser import CHROMIUM, FIND, TEXT, Page, browser

# File, tab, width, height, and what has to be true of the page.
IMAGES = f"(() => {{ {FIND} return find('img').filter(e => e.naturalWidth > 300).length >= 3; }})()"
SHOTS = (
    ("tensorboard.png", "images&tagFilter=val%2Fpredictions", 1400, 900, IMAGES),
    ("hparams.png", "hparams", 1500, 560, f"{TEXT}.includes('best test mIoU')"),
    ("custom_scalars.png", "custom_scalars", 1400, 730, f"{TEXT}.includes('Training and validation')"),
    ("projector.png", "projector", 1400, 900, f"{TEXT}.includes('Dimension:')"),
)


def main(sweep: Path, out: Path) -> None:
    if CHROMIUM is None:
        sys.exit("error: no Chromium here")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", sweep.name, "--port", str(port)]
    with subprocess.Popen(command, cwd=sweep.parent, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/data/runs")
            time.sleep(8)  # until all of it is read
            with tempfile.TemporaryDirectory() as folder, browser(Path(folder)) as page:
                for name, tab, width, height, condition in SHOTS:
                    take(page, f"http://127.0.0.1:{port}/#{tab}", (width, height), condition, out / name)
        finally:
            process.terminate()


def take(page: Page, address: str, size: tuple[int, int], condition: str, file: Path) -> None:
    page.open(address, *size)
    page.wait_for(condition, 60)
    time.sleep(6)  # until lines and pictures have settled
    page.screenshot(file)
    print(f"written: {file}, {file.stat().st_size // 1000} kB")


def wait_for(address: str) -> None:
    for _ in range(240):
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                if len(answer.read()) > 4:
                    return
        except OSError:
            pass
        time.sleep(0.5)
    sys.exit("error: TensorBoard does not answer")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
