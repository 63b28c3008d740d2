"""A small web application that shows what Paasmaker gives to a process.

GET /            JSON of the PM_ variables
GET /up          the health path
GET /slow?s=0.5  answers after that many seconds, to watch requests being drained
POST /echo       answers with the body it was sent
"""

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

BODY_MAX_BYTES = 1024 * 1024
SLOW_MAX_SECONDS = 30.0


def parsed(name):
    """The JSON of a variable, or an empty object where it is not set."""
    return json.loads(os.environ.get(name, "{}"))


def written(path):
    """What a prepare or startup command left behind, if it ran."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except FileNotFoundError:
        return None


def description():
    metadata = parsed("PM_METADATA")
    return {
        "version": metadata.get("application", {}).get("version"),
        "instance": os.environ.get("PM_INSTANCE"),
        "instance_type": os.environ.get("PM_INSTANCE_TYPE"),
        "port": os.environ.get("PM_PORT"),
        "greeting": os.environ.get("GREETING"),
        "pid": os.getpid(),
        "prepared": written("prepared.txt"),
        "started": written("startup.txt"),
        "metadata": metadata,
        "services": parsed("PM_SERVICES"),
    }


class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave in one packet each, at once.
    disable_nagle_algorithm = True
    wbufsize = -1

    def setup(self):
        super().setup()
        self.server.opened(self.connection)

    def finish(self):
        self.server.closed(self.connection)
        super().finish()

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/":
            self.answer(200, description())
        elif url.path == "/up":
            self.answer(200, {"up": True})
        elif url.path == "/slow":
            self.slow(parse_qs(url.query).get("s", ["1"])[0])
        else:
            self.answer(404, {"error": "nothing is at this path"})

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self.close_connection = True
            self.answer(411, {"error": "a body needs a Content-Length"})
            return
        length = int(length)
        if length > BODY_MAX_BYTES:
            self.close_connection = True
            self.answer(413, {"error": f"at most {BODY_MAX_BYTES} bytes"})
            return
        self.send(200, "application/octet-stream", self.rfile.read(length))

    def slow(self, text):
        try:
            seconds = min(max(float(text), 0.0), SLOW_MAX_SECONDS)
        except ValueError:
            self.answer(400, {"error": "s is a number of seconds"})
            return
        time.sleep(seconds)
        self.answer(200, {"slept": seconds})

    def answer(self, status, body):
        self.send(status, "application/json", json.dumps(body).encode() + b"\n")

    def send(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.server.stopping:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        # One line per request on stdout, which is what `pm logs` shows.
        print(format % args, flush=True)


class Server(ThreadingHTTPServer):
    # A stop waits for the threads, so that every request in flight is answered.
    daemon_threads = False
    block_on_close = True
    request_queue_size = 128

    def __init__(self, port):
        self.stopping = False
        self.connections = set()
        self.lock = threading.Lock()
        super().__init__(("", port), Request)

    def server_bind(self):
        # The library's version looks its own name up in DNS, which can take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]

    def opened(self, connection):
        with self.lock:
            self.connections.add(connection)
            if self.stopping:
                self.end_reading(connection)

    def closed(self, connection):
        with self.lock:
            self.connections.discard(connection)

    def stop(self):
        """No new request is read; what was read is answered."""
        with self.lock:
            self.stopping = True
            for connection in self.connections:
                self.end_reading(connection)
        self.shutdown()

    @staticmethod
    def end_reading(connection):
        try:
            connection.shutdown(socket.SHUT_RD)
        except OSError:
            # The client was faster.
            pass


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, default=int(os.environ.get("PM_PORT", "0")))
    port = arguments.parse_args().port

    server = Server(port)

    def on_signal(number, _frame):
        print(f"signal {number}: finishing what is in flight", flush=True)
        # shutdown() waits for the serving loop, which is in this very thread.
        threading.Thread(target=server.stop).start()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    print(f"guestbook listens on port {server.server_port}", flush=True)
    try:
        server.serve_forever(poll_interval=0.05)
    finally:
        server.server_close()
    print("guestbook is done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
