"""A small driver of headless Chromium over its DevTools protocol, for tests/repository/test_site.py.

with Browser(chromium) as browser:
    page = browser.page(); page.open(url); page.run("document.title")
"""

import base64
import itertools
import json
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root, and open only pages of this repository
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)


def find_chromium() -> str | None:
    """The path of an installed Chromium or Chrome."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A Chromium process with a profile of its own; ended, with its profile, at the end of the block."""

    def __init__(self, executable: str):
        self.folder = Path(tempfile.mkdtemp())
        command = [executable, *FLAGS, f"--user-data-dir={self.folder}", "about:blank"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for line in self.process.stderr:
            if found := re.search(r"DevTools listening on (ws://\S+)", line):
                self.address = found[1]
                break
        else:
            raise RuntimeError(f"{executable} ended before it could be reached")
        self.socket = websocket.create_connection(self.address, timeout=300)
        self.numbers, self.events = itertools.count(1), []

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(timeout=60)
        self.process.stderr.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, method: str, session: str | None = None, **parameters) -> dict:
        """Send a command and wait for its answer; events that come meanwhile are kept."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters} | (
            {"sessionId": session} if session else {}
        )
        self.socket.send(json.dumps(message))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def page(self, width: int = 1280, height: int = 900) -> "Page":
        """A new tab."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, session, width, height)


class Page:
    """One tab: what it logged, what it asked for, and how a reader would use it."""

    def __init__(self, browser: Browser, session: str, width: int, height: int):
        self.browser, self.session = browser, session
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def call(self, method: str, **parameters) -> dict:
        return self.browser.call(method, self.session, **parameters)

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def open(self, url: str) -> None:
        """Go to an address and wait until it has loaded with all that it needs."""
        self.browser.events.clear()
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")
        time.sleep(0.1)
        self.run("0")  # takes in what was logged meanwhile

    def run(self, code: str):
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
        )
        if fault := answer.get("exceptionDetails"):
            raise RuntimeError(fault.get("exception", {}).get("description", fault["text"]))
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 60) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"never came true: {condition}")
            time.sleep(0.05)

    def press(self, key: str, code: int) -> None:
        """Press and let go a key, by its name and its virtual key code."""
        named = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call(
            "Input.dispatchKeyEvent",
            type="keyDown",
            **named,
            **({"text": "\r"} if key == "Enter" else {}),
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def faults(self) -> list[str]:
        """Errors and warnings on the console, exceptions, and requests that failed, since the page was opened."""
        found = []
        for event in self._events():
            given = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(
                    given["exceptionDetails"].get("exception", {}).get("description", "exception")
                )
            elif event["method"] == "Runtime.consoleAPICalled" and given["type"] in (
                "error",
                "warning",
                "assert",
            ):
                found.append(
                    " ".join(
                        str(part.get("value", part.get("description"))) for part in given["args"]
                    )
                )
            elif event["method"] == "Log.entryAdded" and given["entry"]["level"] in (
                "error",
                "warning",
            ):
                found.append(f"{given['entry']['text']} {given['entry'].get('url', '')}")
        return found

    def requests(self) -> list[str]:
        """Addresses that the page asked for since it was opened."""
        asked = [
            event for event in self._events() if event["method"] == "Network.requestWillBeSent"
        ]
        return [event["params"]["request"]["url"] for event in asked]

    def _events(self) -> list[dict]:
        return [event for event in self.browser.events if event.get("sessionId") == self.session]

    def screenshot(self, path: Path | str, whole: bool = False) -> None:
        """A picture of what is seen, or of the whole page, as PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(answer["data"]))
