"""A loop that says that it lives, until it is asked to end."""

import os
import signal
import sys
import threading

stop = threading.Event()


def on_signal(number, _frame):
    print(f"signal {number}: finishing this round", flush=True)
    stop.set()


def main():
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    interval = float(os.environ.get("INTERVAL_SECONDS", "5"))
    instance = os.environ.get("PM_INSTANCE", "outside of Paasmaker")
    rounds = 0
    while not stop.wait(interval if rounds else 0):
        rounds += 1
        print(f"instance {instance}: round {rounds}", flush=True)
    print(f"done after {rounds} rounds", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
