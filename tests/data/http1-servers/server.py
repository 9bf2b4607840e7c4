"""Answers every request with what Python's http.server understood of it, as JSON; bytes are in hex. Prints its port."""

import http.server
import json
import os
import sys
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def answer(self):
        # http.server leaves bodies to the handler.
        if "transfer-encoding" in self.headers:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
        fields = [[name.lower(), value.encode("latin1").hex()] for name, value in self.headers.items()]
        told = {"method": self.command, "target": self.path.encode("latin1").hex(), "fields": fields, "body": body.hex()}
        text = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else text)

    def log_message(self, *_):
        pass


def end_with_the_starter():
    sys.stdin.read()
    os._exit(0)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=end_with_the_starter, daemon=True).start()
print(server.server_port, flush=True)
server.serve_forever()
