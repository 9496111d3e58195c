#!/usr/bin/env bash
# huggingface_hub 2.4.0: a download whose bytes differ from their SHA-256 is cached under that SHA-256, without an error.
#
# The hub names a large file by its SHA-256: it is the ETag of the answer and the name of the file in the client's cache
# (blobs/SHA-256). The client compares the number of bytes alone. A file of weights with a damaged byte, by a proxy, a
# mirror or a disk, is stored under the hash of the right one, and every later call returns it from the cache; safetensors
# has no checksum either, so it loads. Who depends on the weights compares the hash of blobs/* with its name.
#
# A server on loopback answers as the hub does for one file of 512 bytes, and sends its byte 300 with another value.
#
# Seen (the same in two runs):
#     huggingface_hub 2.4.0
#     SHA-256 of the file by the server 44cbc601...
#     name of the blob in the cache     44cbc601...
#     SHA-256 of its contents           c8cfd0b2...
#     second call, without requests for the file: the same path
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check huggingface_hub==2.4.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import hashlib
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

right = bytes(i * 7 % 251 for i in range(512))
sent = right[:300] + bytes([right[300] ^ 8]) + right[301:]
promised = hashlib.sha256(right).hexdigest()
gets = []


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(right)))
        self.send_header("ETag", f'"{promised}"')
        self.send_header("X-Linked-Etag", f'"{promised}"')
        self.send_header("X-Linked-Size", str(len(right)))
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()

    def do_GET(self):
        if "/resolve/" not in self.path:
            self.send_error(404)
            return
        gets.append(self.path)
        self.do_HEAD()
        self.wfile.write(sent)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
os.environ["HF_HOME"] = os.path.join(os.getcwd(), "home")
os.environ["HF_HUB_DISABLE_XET"] = os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import huggingface_hub

path = huggingface_hub.hf_hub_download("someone/model", "model.safetensors")
with open(path, "rb") as file:
    found = hashlib.sha256(file.read()).hexdigest()
blob = os.path.basename(os.path.realpath(path))
first = len(gets)
again = huggingface_hub.hf_hub_download("someone/model", "model.safetensors")
print(f"huggingface_hub {huggingface_hub.__version__}")
print(f"SHA-256 of the file by the server {promised[:8]}...")
print(f"name of the blob in the cache     {blob[:8]}...")
print(f"SHA-256 of its contents           {found[:8]}...")
same = again == path and len(gets) == first
print("second call, without requests for the file: " + ("the same path" if same else "ANOTHER"))
expected = blob == promised and found == hashlib.sha256(sent).hexdigest() and found != promised and same
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
