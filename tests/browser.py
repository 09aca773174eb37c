"""A headless Chromium that is driven by its own protocol, as far as the tests of pages need it."""
import json
import shutil
import subprocess
import time
from pathlib import Path

# With a phone's window the browser shrinks a page that is too wide: `innerWidth` grows, so the width is told.
LOOK = """(width => {
  for (const details of document.querySelectorAll('details')) details.open = true;
  const boxed = e => { for (let p = e.parentElement; p; p = p.parentElement)
    if (!p.matches('html, body') && getComputedStyle(p).overflowX != 'visible') return true;
    return false; };
  const name = e => `${e.tagName.toLowerCase()}.${e.className} ${(e.textContent || '').trim().slice(0, 60)}`;
  const out = [...document.body.querySelectorAll('*')].filter(
    e => e.getBoundingClientRect().right > width + 1 && !boxed(e));
  const cut = [...document.querySelectorAll('pre.sourceCode')].filter(e => e.scrollWidth > e.clientWidth + 1);
  const small = [...document.images].filter(i => !i.complete || !i.naturalWidth);
  const style = getComputedStyle(document.body);
  return JSON.stringify({
    sideways: document.documentElement.scrollWidth - width, out: out.map(name).slice(0, 5),
    cut: cut.map(name).slice(0, 5), missing: small.map(i => i.src.slice(0, 120)), pictures: document.images.length,
    formulas: document.querySelectorAll('math').length, background: style.backgroundColor, colour: style.color});
})"""


def chromium() -> str | None:
    "Path of Debian's Chromium, or of one under another name; None where there is none."
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    "Opens pages, and says what was asked for, what went wrong, and how the page lies in its window."

    def __init__(self, folder: Path):
        import websocket

        command = [chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
                   "--disable-dev-shm-usage", "--disable-background-networking", "--remote-debugging-port=0",
                   "--remote-allow-origins=*", f"--user-data-dir={folder}", "about:blank"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port_file = folder / "DevToolsActivePort"
        end = time.monotonic() + 120
        while not (port_file.exists() and len(port_file.read_text().splitlines()) == 2):
            assert self.process.poll() is None and time.monotonic() < end, "Chromium does not start"
            time.sleep(0.1)
        port, path = port_file.read_text().splitlines()
        self.socket = websocket.create_connection(f"ws://127.0.0.1:{port}{path}", timeout=120)
        self.count, self.session, self.events = 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> dict:
        "One command of the protocol; what happens meanwhile is kept in `events`."
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        self.socket.send(json.dumps({**message, "sessionId": self.session} if self.session else message))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def wait(self, method: str):
        "Until the page has said so."
        while not any(event.get("method") == method for event in self.events):
            self.events.append(json.loads(self.socket.recv()))

    def open(self, file: Path, width: int, dark: bool) -> dict:
        "What a page asks for and shows in a window of this width; `errors` and `asked` should be empty."
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events = []
        self.call("Page.navigate", url=file.as_uri())
        self.wait("Page.loadEventFired")
        found = json.loads(self.call("Runtime.evaluate", expression=f"({LOOK})({width})")["result"]["value"])
        said = {"Runtime.exceptionThrown": "exceptionDetails", "Log.entryAdded": "entry"}
        found["errors"] = [event["params"][said[event["method"]]].get("text") for event in self.events
                           if event.get("method") in said
                           and event["params"][said[event["method"]]].get("level", "error") == "error"]
        asked = [event["params"]["request"]["url"] for event in self.events
                 if event.get("method") == "Network.requestWillBeSent"]
        found["asked"] = [url for url in asked if not url.startswith(("file:", "data:"))]
        return found

    def picture(self, file: Path):
        "The whole page as it is open, as a PNG."
        from base64 import b64decode

        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(b64decode(shot["data"]))

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait(30)
