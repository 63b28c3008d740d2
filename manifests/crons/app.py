"""Does chores when the cluster asks for them, and for nobody else.

/                what was done last, for everybody
/tasks/clean     a chore
/tasks/report    another one; it prints the query
"""

import hashlib
import hmac
import os
import signal
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def is_cron(method, uri, headers):
    """True when the request comes from a cron of this application and is not a copy of an old one."""
    signature = headers.get("PM-Cron-Signature", "")
    parts = dict(part.split("=", 1) for part in signature.split(",") if "=" in part)
    sent = parts.get("t", "")
    lines = [sent, method, uri]
    lines += [headers.get("PM-Cron-" + name, "") for name in ("Run", "Scheduled", "Attempt")]
    key = os.environ["PM_CRON_KEY"].encode()
    expected = hmac.new(key, "\n".join(lines).encode(), hashlib.sha256).hexdigest()
    is_fresh = sent.isdecimal() and abs(time.time() - int(sent)) < 300
    return is_fresh and hmac.compare_digest(expected.encode(), parts.get("v1", "").encode())


class Request(BaseHTTPRequestHandler):
    last = "nothing yet"

    def do(self):
        if not self.path.startswith("/tasks/"):
            self.answer(200, f"the last chore: {Request.last}\n")
        elif not is_cron(self.command, self.path, self.headers):
            self.answer(403, "only the crons of this application may ask for that\n")
        else:
            run = self.headers["PM-Cron-Run"]
            # The same run comes again only as another attempt: where a chore must not be done
            # twice, remember the run's number with what was done.
            Request.last = f"{self.path} in run {run}"
            self.answer(200, f"{self.path} is done\n")

    do_GET = do_POST = do

    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        print(format % args, flush=True)


class Server(ThreadingHTTPServer):
    # A stop waits for the threads, so that a chore under way is finished.
    daemon_threads = False

    def server_bind(self):
        # The library's version looks its own name up in DNS, which can take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = self.socket.getsockname()[:2]


def main():
    server = Server(("", int(os.environ["PM_PORT"])), Request)
    # shutdown() waits for the serving loop, which is in this very thread.
    stop = lambda *_: threading.Thread(target=server.shutdown).start()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    server.serve_forever(poll_interval=0.05)
    server.server_close()


if __name__ == "__main__":
    main()
