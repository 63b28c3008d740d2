"""A server for tests.

GET /             the content of body.txt
GET /instance     the instance's number and its process, as JSON
GET /environment  the whole environment, as JSON
GET /slow         the body after half a second
GET /exit         ends the process at once with code 3
GET /up           200, or 503 while a file "unhealthy" is there
"""

import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self):
        if self.path == "/instance":
            body = {"instance": os.environ.get("PM_INSTANCE"), "pid": os.getpid()}
            self.answer(200, json.dumps(body))
        elif self.path == "/environment":
            self.answer(200, json.dumps(dict(os.environ)))
        elif self.path == "/slow":
            time.sleep(0.5)
            self.answer(200, BODY)
        elif self.path == "/exit":
            os._exit(3)
        elif self.path == "/up":
            self.answer(503 if os.path.exists("unhealthy") else 200, "")
        else:
            self.answer(200, BODY)

    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if STOPPING.is_set():
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def server_bind(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = self.socket.getsockname()[:2]


# A file that makes every start fail.
if os.path.exists(os.environ.get("CRASH_FILE", "")):
    sys.exit("told to crash")

# A lock that one process on all machines can have at a time; who finds it taken leaves a mark.
if os.environ.get("EXCLUSIVE_LOCK"):
    LOCK = open(os.environ["EXCLUSIVE_LOCK"], "w", encoding="utf-8")
    try:
        fcntl.flock(LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with open(os.environ["EXCLUSIVE_LOCK"] + ".taken", "a", encoding="utf-8") as mark:
            print(os.environ.get("PM_INSTANCE"), file=mark)
        sys.exit("another process is alive")

STOPPING = threading.Event()
with open("body.txt", encoding="utf-8") as file:
    BODY = file.read()

server = Server(("0.0.0.0", int(sys.argv[1])), Request)


def on_term(_number, _frame):
    STOPPING.set()
    threading.Thread(target=server.shutdown).start()


signal.signal(signal.SIGTERM, on_term)
print("listening", flush=True)


def tick():
    count = 0
    while not STOPPING.wait(0.05):
        count += 1
        print("tick", count, flush=True)


if os.environ.get("TICK"):
    threading.Thread(target=tick, daemon=True).start()
server.serve_forever(poll_interval=0.02)
print("done", flush=True)
