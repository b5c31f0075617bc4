"""What the images with Python run: says which modules it could load, and hashes for a while."""

import hashlib
import importlib
import sys
import time


def loaded(names):
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        yield name


if __name__ == "__main__":
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
    modules = " ".join(loaded(sys.argv[2:]))
    end = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < end:
        hashlib.sha256(b"x" * 65536).digest()
        rounds += 1
    print(f"handler ran: rounds={rounds} modules={modules}", flush=True)
