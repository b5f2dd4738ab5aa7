"""A headless Chromium driven over the WebDriver protocol (W3C), without further packages."""

import base64
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from urllib.request import ProxyHandler, Request, build_opener

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
DRIVER = shutil.which("chromedriver")
MISSING = "" if CHROMIUM and DRIVER else "needs chromium and chromedriver on the PATH"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--window-size=1200,900"
).split()
SECONDS = 30  # for any one answer
_open = build_opener(ProxyHandler({})).open  # the driver is on this machine: no proxy


def _call(method: str, url: str, body: dict | None = None):
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"}, method=method)
    with _open(request, timeout=SECONDS) as answer:
        return json.load(answer)["value"]


class Browser:
    def __init__(self, session: str):
        self.session = session

    def open(self, page: Path) -> None:
        _call("POST", f"{self.session}/url", {"url": page.resolve().as_uri()})

    def js(self, script: str):
        """The value that `script` returns."""
        return _call("POST", f"{self.session}/execute/sync", {"script": script, "args": []})

    def wait(self, condition: str) -> None:
        """Until the JavaScript expression `condition` is true."""
        deadline = time.monotonic() + SECONDS
        while not self.js(f"return Boolean({condition})"):
            assert time.monotonic() < deadline, f"never true: {condition}"
            time.sleep(0.05)

    def move_pointer(self, *places: tuple[float, float]) -> None:
        """To the first place; on to the others, if any, with the button down."""
        first, *others = (
            {"type": "pointerMove", "x": round(x), "y": round(y), "duration": 0} for x, y in places
        )
        down, up = ({"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp"))
        actions = [first, down, *others, up] if others else [first]
        mouse = {"type": "pointer", "id": "mouse", "actions": actions}
        _call("POST", f"{self.session}/actions", {"actions": [mouse]})

    def dark(self, on: bool) -> None:
        media = [{"name": "prefers-color-scheme", "value": "dark" if on else "light"}]
        command = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": media}}
        _call("POST", f"{self.session}/goog/cdp/execute", command)

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(_call("GET", f"{self.session}/screenshot")))

    def console(self) -> list[str]:
        """What the console said since the last question, errors of every kind included."""
        entries = _call("POST", f"{self.session}/se/log", {"type": "browser"})
        return [f"{entry['level']} {entry['message']}" for entry in entries]


def _port(driver: subprocess.Popen) -> str:
    too_late = Timer(SECONDS, driver.kill)
    too_late.start()
    try:
        for line in driver.stdout:
            if match := re.search(r"started successfully on port (\d+)", line):
                return match[1]
    finally:
        too_late.cancel()
    raise RuntimeError(f"{DRIVER} did not start")


@contextmanager
def _driver() -> Iterator[str]:
    """A running chromedriver; yields the address of its sessions."""
    driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{_port(driver)}/session"
    finally:
        driver.terminate()
        driver.wait(SECONDS)
        driver.stdout.close()


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a fresh profile in the folder `profile`."""
    options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
    wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    with _driver() as sessions:
        session = _call("POST", sessions, {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        try:
            yield Browser(f"{sessions}/{session}")
        finally:
            _call("DELETE", f"{sessions}/{session}")
