"""A receiver of web crons for tests: it believes nobody, and writes down every call.

Each call is checked as an application would check it, with PM_CRON_KEY, and leaves a line of JSON in the
file that RECORD names when it begins, and another one when it ends. What the path says:

/ok          200
/auth        200 with the credentials that CREDENTIALS names, otherwise 401
/slow?s=3    200 after so many seconds
/hold        200 as soon as the file that HOLD names is gone
/fail        500
/flaky       500 to the first attempt of a run, 200 to the next
anything     200
"""

import base64
import hashlib
import hmac
import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

KEY = os.environ.get("PM_CRON_KEY", "")
VERSION = json.loads(os.environ["PM_METADATA"])["application"]["version"]


def is_signed(method, uri, headers):
    signature = headers.get("PM-Cron-Signature", "")
    parts = dict(part.split("=", 1) for part in signature.split(",") if "=" in part)
    lines = [parts.get("t", ""), method, uri]
    lines += [headers.get("PM-Cron-" + name, "") for name in ("Run", "Scheduled", "Attempt")]
    expected = hmac.new(KEY.encode(), "\n".join(lines).encode(), hashlib.sha256).hexdigest()
    is_fresh = parts.get("t", "").isdecimal() and abs(time.time() - int(parts["t"])) < 60
    return bool(KEY) and is_fresh and hmac.compare_digest(expected, parts.get("v1", ""))


def credentials(headers):
    """What basic authentication says, as text."""
    kind, _, value = headers.get("Authorization", "").partition(" ")
    return base64.b64decode(value).decode() if kind == "Basic" else None


def record(**facts):
    """One write for each line: several processes write to the same file."""
    line = json.dumps(facts) + "\n"
    descriptor = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


class Request(BaseHTTPRequestHandler):
    wbufsize = -1

    def do(self):
        url = urlsplit(self.path)
        if "PM-Cron-Run" not in self.headers:
            self.answer(200, "this is the receiver\n")
            return
        facts = {
            "run": int(self.headers["PM-Cron-Run"]),
            "attempt": int(self.headers["PM-Cron-Attempt"]),
        }
        record(
            event="begin",
            at=time.time_ns() // 1_000_000,
            method=self.command,
            uri=self.path,
            scheduled=self.headers["PM-Cron-Scheduled"],
            signed=is_signed(self.command, self.path, self.headers),
            agent=self.headers["User-Agent"],
            host=self.headers["Host"],
            credentials=credentials(self.headers),
            version=VERSION,
            instance=int(os.environ["PM_INSTANCE"]),
            **facts,
        )
        status, text = self.decide(url, facts)
        record(event="end", at=time.time_ns() // 1_000_000, status=status, **facts)
        self.answer(status, text)

    do_GET = do_POST = do

    def decide(self, url, facts):
        if url.path == "/auth" and credentials(self.headers) != os.environ["CREDENTIALS"]:
            return 401, "who are you?\n"
        if url.path == "/slow":
            time.sleep(float(parse_qs(url.query)["s"][0]))
        if url.path == "/hold":
            while os.path.exists(os.environ["HOLD"]):
                time.sleep(0.05)
        if url.path == "/fail" or url.path == "/flaky" and facts["attempt"] == 1:
            return 500, "something broke\n"
        return 200, "done: " + self.path + "\n"

    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            # Who asked has gone.
            pass

    def log_message(self, format, *args):
        print(format % args, flush=True)


class Server(ThreadingHTTPServer):
    # What is under way is finished before the process ends.
    daemon_threads = False
    request_queue_size = 128

    def server_bind(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = self.socket.getsockname()[:2]


server = Server(("0.0.0.0", int(os.environ["PM_PORT"])), Request)


def on_term(_number, _frame):
    # shutdown() waits for the serving loop, which is in this very thread.
    threading.Thread(target=server.shutdown).start()


signal.signal(signal.SIGTERM, on_term)
server.serve_forever(poll_interval=0.05)
server.server_close()
sys.exit(0)
