"""Servers of vllm_beside.py: started, paused and ended as groups of processes, so
that only one of them has the processors at a time."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

# From its start: vLLM imports for a minute, and compiles the model for another.
READY_WITHIN = 900.0
END_WITHIN = 60.0


class Server:
    """An OpenAI server on a free port; ends with the `with` block."""

    def __init__(self, name: str, health: str, log: pathlib.Path) -> None:
        self.name, self.health, self.log = name, health, log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None
        self.paused = False

    def start(self, command: list[str], environment: dict[str, str]) -> "Server":
        """Waits until it is ready; sets `seconds_to_ready`."""
        began = time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, env=os.environ | environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )
        while not self.answers():
            if self.process.poll() is not None:
                self.fail("ended before it was ready")
            if time.monotonic() - began > READY_WITHIN:
                self.fail(f"was not ready within {READY_WITHIN:.0f} s")
            time.sleep(0.1)
        self.seconds_to_ready = time.monotonic() - began
        return self

    def answers(self) -> bool:
        try:
            return urllib.request.urlopen(self.url + self.health, timeout=2).status == 200
        except (OSError, urllib.error.URLError):
            return False

    def fail(self, why: str) -> None:
        last = self.log.read_text(errors="replace")[-3000:]
        sys.exit(f"{self.name} {why}; the end of {self.log}:\n{last}")

    def post(self, path: str, body: dict) -> dict:
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            self.fail(f"refused {path} ({error}): {error.read().decode(errors='replace')}")

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        self.signal(signal.SIGCONT)
        self.paused = False

    def signal(self, number: int) -> None:
        # The group has the server's id: it began a session.
        os.killpg(self.process.pid, number)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is None:
            return
        try:
            self.resume()
            self.process.terminate()
            self.process.wait(END_WITHIN)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass
        try:
            # Whatever it left behind.
            self.signal(signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
