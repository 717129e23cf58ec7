"""As much of an API server as the installer asks: objects in memory, over TLS, with resource versions.

    api_server.py CERTIFICATE KEY TOKEN    prints its port; reads OBJECTS as JSON by path from stdin

An object with `hiddenFor: N` is not there for the first N requests about it.
"""

import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

certificate, key, token = sys.argv[1:]
objects = json.loads(sys.stdin.readline())
lock = Lock()


class Handler(BaseHTTPRequestHandler):
    def answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def serve(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers["authorization"] != "Bearer " + token:
            return self.answer(401, {"kind": "Status", "message": "Unauthorized"})
        with lock:
            there = objects.get(self.path)
            hidden = (there or {}).get("hiddenFor", 0)
            if hidden:
                there["hiddenFor"] = hidden - 1
            if there is None or hidden:
                return self.answer(404, {"kind": "Status", "message": "not found"})
            if self.command == "DELETE":
                del objects[self.path]
                print(json.dumps([self.path, None]), flush=True)
                return self.answer(200, {"kind": "Status"})
            if self.command == "PUT":
                new = json.loads(body)
                if new["metadata"]["resourceVersion"] != there["metadata"]["resourceVersion"]:
                    return self.answer(409, {"kind": "Status", "message": "the object has been modified"})
                there = new
            if self.command == "PATCH":
                assert self.headers["content-type"] == "application/merge-patch+json"
                labels = there["metadata"].setdefault("labels", {})
                for name, value in json.loads(body)["metadata"]["labels"].items():
                    labels[name] = value
                    if value is None:
                        del labels[name]
            if self.command != "GET":
                version = int(there["metadata"]["resourceVersion"]) + 1
                there["metadata"]["resourceVersion"] = str(version)
                objects[self.path] = there
                print(json.dumps([self.path, there]), flush=True)
            self.answer(200, there)

    do_DELETE = do_GET = do_PUT = do_PATCH = serve

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
