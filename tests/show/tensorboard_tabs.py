"""Pictures of what TensorBoard shows of runs, to look at: one PNG a tab.

    python tests/show/tensorboard_tabs.py runs pictures

With Chromium on the PATH. The runs' events are all that is read; they are in the folders below the first one.
"""

import contextlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

TABS = {"timeseries": 1000, "custom_scalars": 1900, "hparams": 700, "images": 1000, "text": 1000}  # height in pixels


@contextlib.contextmanager
def served(logdir):
    """The address of a TensorBoard of `logdir` that has read all that is there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={logdir}", f"--port={address.rsplit(':')[-1]}"]
    server = subprocess.Popen([*command, "--host=127.0.0.1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/data/runs", timeout=10).close()
                break
            time.sleep(0.1)
        time.sleep(5)  # it reads run by run
        yield address
    finally:
        server.terminate()
        server.wait()


def main(logdir, out):
    browser = shutil.which("chromium") or sys.exit("chromium is not installed")
    Path(out).mkdir(parents=True, exist_ok=True)
    with served(logdir) as address:
        for tab, height in TABS.items():
            picture = Path(out, f"{tab}.png").absolute()
            options = [
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--virtual-time-budget=20000",
            ]
            options += ["--virtual-time-budget=20000", f"--window-size=1500,{height}", f"--screenshot={picture}"]
            subprocess.run([browser, *options, f"{address}/#{tab}"], check=True, capture_output=True, timeout=120)
            print(picture)


if __name__ == "__main__":
    main(*sys.argv[1:])
