"""An HTTP endpoint for the webhook tests: Python's own server, which answers as the path says.

Prints its port, then one JSON line per request: method, path, headers, body (latin-1, so every byte survives), and the
port of its client.

/ok                     204
/status/503?header=...  that status, with the given header "Name: value"
/poison                 400 when the body holds the word "poison", else 200
/larger-than/1000       413 when the body is longer, else 200
/slow/500               200 after so many ms
/big                    200 with a body of 8 MiB
/cut                    closes the connection without an answer
/bearer/TOKEN           401 unless the request carries this token
/redirect               302 to /ok
"""

import http.server
import json
import ssl
import sys
import threading
import time
import urllib.parse

LOCK = threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        url = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(url.query)
        entry = {
            "method": self.command,
            "path": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": body.decode("latin-1"),
            "client_port": self.client_address[1],
        }
        with LOCK:
            print(json.dumps(entry), flush=True)
        steps = url.path.strip("/").split("/")
        status, text, extra = 200, b"", []
        if steps[0] == "ok":
            status = 204
        elif steps[0] == "status":
            status, text = int(steps[1]), b"the target says so"
            extra = [header.split(": ", 1) for header in query.get("header", [])]
        elif steps[0] == "poison" and b"poison" in body:
            status, text = 400, b"there is poison in it"
        elif steps[0] == "larger-than" and len(body) > int(steps[1]):
            status, text = 413, b"too much"
        elif steps[0] == "slow":
            time.sleep(int(steps[1]) / 1000)
        elif steps[0] == "big":
            text = b"x" * (8 << 20)
        elif steps[0] == "cut":
            self.close_connection = True
            return
        elif steps[0] == "bearer" and self.headers.get("authorization") != "Bearer " + steps[1]:
            status, text = 401, b"who are you"
        elif steps[0] == "redirect":
            status, extra = 302, [("Location", "/ok")]
        self.send_response(status)
        for name, value in extra:
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if status != 204:
            self.wfile.write(text)

    do_POST = answer
    do_PUT = answer

    def log_message(self, *arguments):
        pass


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if len(sys.argv) == 3:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[1], sys.argv[2])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    print(server.server_address[1], flush=True)
    server.serve_forever()


main()
