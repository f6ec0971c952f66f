"""Headless Chromium, driven through its DevTools protocol; nothing but `websockets` is needed."""

import json
import shutil
import subprocess
from contextlib import contextmanager

from websockets.sync.client import connect

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
_PATIENCE = 60  # seconds
_CODES = {
    name: {"windowsVirtualKeyCode": code}
    for name, code in {
        **{"Enter": 13, "Escape": 27, "Tab": 9, "End": 35, "Home": 36},
        **{"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40},
    }.items()
}


class Page:
    """One page; what it logged as an error is in `faults`, what it asked for in `requests`."""

    def __init__(self, socket):
        self._socket = socket
        self._sent = 0
        self._session = None
        self.faults = []
        self.requests = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, address):
        """Returns when the page and what it names has been loaded."""
        self._call("Page.navigate", url=address)
        self.run(
            "new Promise(done => document.readyState === 'complete' ? done() : "
            "addEventListener('load', () => done()))"
        )

    def run(self, script):
        """The value of a script, awaited where it is a promise."""
        reply = self._call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def paste(self, field, text):
        """Puts text into a field, as the clipboard does."""
        self.run(f"document.getElementById({field!r}).focus()")
        self._call("Input.insertText", text=text)

    def press(self, key, text=""):
        """Presses a key, by its name in KeyboardEvent.key."""
        for kind in ("keyDown", "keyUp"):
            self._call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, text=text, **_CODES[key]
            )

    def point(self, script, *, click=False):
        """Moves the mouse to the middle of the first line of an element, and clicks there."""
        x, y = self.run(
            f"(e => {{ e.scrollIntoView({{block: 'center'}}); const b = e.getClientRects()[0];"
            f" return [b.x + b.width / 2, b.y + b.height / 2]; }})({script})"
        )
        for kind in ("mouseMoved", *(("mousePressed", "mouseReleased") if click else ())):
            more = {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def look(self, width, height, *, dark=False, media=""):
        """How wide the page is, and in which of its looks it is shown."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def shown(self, ids):
        """Waits until one of the elements is to be seen, and returns its id and text."""
        return self.run(
            f"""new Promise(done => {{
                const look = () => {json.dumps(ids)}.some(id => {{
                    const found = document.getElementById(id);
                    if (found.checkVisibility() && found.textContent)
                        done([id, found.textContent]);
                    return found.checkVisibility();
                }});
                if (!look()) new MutationObserver(look).observe(
                    document, {{subtree: true, childList: true, attributes: true}});
            }})"""
        )

    def _call(self, method, **parameters):
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            got = json.loads(self._socket.recv(timeout=_PATIENCE))
            if got.get("id") == self._sent:
                assert "error" not in got, got
                return got["result"]
            if got.get("method") == "Runtime.exceptionThrown":
                self.faults.append(got["params"]["exceptionDetails"])
            elif got.get("method") == "Log.entryAdded":
                self.faults.append(got["params"]["entry"])
            elif got.get("method") == "Network.requestWillBeSent":
                self.requests.append(got["params"]["request"]["url"])


@contextmanager
def browser(folder):
    """A page of a browser of its own, whose profile is in `folder`."""
    command = [PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--no-proxy-server", "--disable-background-networking", f"--user-data-dir={folder}"]
    process = subprocess.Popen(
        [*command, "--remote-debugging-port=0", "about:blank"], stderr=subprocess.PIPE, text=True
    )
    try:
        said = next(line for line in process.stderr if "DevTools listening on" in line)
        with connect(said.split()[-1], max_size=None, proxy=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.communicate()
