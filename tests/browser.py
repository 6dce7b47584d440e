"""A headless Chromium, driven through its DevTools protocol with the standard library alone."""

import base64
import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# Text of a page as one reads it, that of shadow roots and frames included.
TEXT = """(() => {
  const read = node => {
    if (node.nodeType === 3) return node.textContent;
    if (['STYLE', 'SCRIPT', 'TEMPLATE'].includes(node.nodeName)) return '';
    const inner = [...node.childNodes, ...(node.shadowRoot ? [node.shadowRoot] : [])];
    if (node.nodeName === 'IFRAME' && node.contentDocument) inner.push(node.contentDocument);
    return inner.map(read).join(' ');
  };
  return read(document).replace(/\\s+/g, ' ');
})()"""

# All elements of a page that match a selector, those of shadow roots and frames included: find('img').
FIND = """const find = (selector, root = document) => [
  ...root.querySelectorAll(selector),
  ...[...root.querySelectorAll('*')].flatMap(e =>
    [e.shadowRoot, e.nodeName === 'IFRAME' ? e.contentDocument : null].filter(r => r).flatMap(r => find(selector, r))),
];"""


class Page:
    """One tab."""

    def __init__(self, address: str) -> None:
        url = urlparse(address)
        self._socket = socket.create_connection((url.hostname, url.port), timeout=60)
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self._file = self._socket.makefile("rb")
        while self._file.readline().strip():
            pass
        self._calls = 0
        self.errors: list[str] = []  # that scripts of the page have thrown

    def call(self, method: str, **parameters):
        """One command; events that come meanwhile are thrown away, but for exceptions."""
        self._calls += 1
        self._send(json.dumps({"id": self._calls, "method": method, "params": parameters}).encode())
        while True:
            message = json.loads(self._receive())
            if message.get("method") == "Runtime.exceptionThrown":
                details = message["params"]["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description", details["text"]))
            if message.get("id") == self._calls:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]

    def open(self, address: str, width: int = 1280, height: int = 900) -> None:
        """Goes there."""
        self.call("Runtime.enable")
        self.call("Page.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url="about:blank")  # a change behind # alone would load nothing
        self.call("Page.navigate", url=address)

    def evaluate(self, script: str):
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"].get("description"))
        return result["result"].get("value")

    def wait_for(self, script: str, seconds: float = 30.0):
        """The value of an expression as soon as it is true; fails with the text of the page if it never is."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(RuntimeError):  # the page is about to be another one
                if value := self.evaluate(script):
                    return value
            time.sleep(0.2)
        raise AssertionError(f"not true within {seconds} s: {script}\nthe page: {self.evaluate(TEXT)[:2000]}")

    def screenshot(self, file: Path) -> None:
        """As PNG."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """Leaves the tab."""
        self._file.close()
        self._socket.close()

    def _send(self, payload: bytes) -> None:
        mask = os.urandom(4)
        size = len(payload)
        length = bytes([0x80 | size]) if size < 126 else struct.pack(">BH", 0xFE, size)
        if size >= 1 << 16:
            length = struct.pack(">BQ", 0xFF, size)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        self._socket.sendall(b"\x81" + length + mask + masked)

    def _receive(self) -> bytes:
        parts, is_last = [], False
        while not is_last:
            first, second = self._file.read(2)
            size = second & 0x7F
            if size > 125:
                size = int.from_bytes(self._file.read(2 if size == 126 else 8))
            part = self._file.read(size)
            if first & 0x0F in (0, 1, 2):  # neither ping nor close
                parts.append(part)
                is_last = bool(first & 0x80)
        return b"".join(parts)


@contextlib.contextmanager
def browser(folder: Path):
    """A page of a Chromium of our own, which is ended afterwards."""
    profile = folder / "chromium"
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--use-gl=angle", "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
        "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            port = _wait_for_port(profile / "DevToolsActivePort", process)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=30) as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            page = Page(tabs[0]["webSocketDebuggerUrl"])
            try:
                yield page
            finally:
                page.close()
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for_port(file: Path, process: subprocess.Popen) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if file.exists() and file.read_text().strip():
            return int(file.read_text().split()[0])
        time.sleep(0.1)
    raise RuntimeError(f"Chromium does not answer (exit code {process.poll()})")
