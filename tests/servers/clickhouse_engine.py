"""The engine of ClickHouse (chdb) behind as much of its HTTP interface as the tests need.

    clickhouse_engine.py PORT DATA_FOLDER USER PASSWORD LOG

Inserts come as `?query=INSERT … FORMAT …` with the rows as the body, everything else with the statement in either place; other
parameters are settings. The engine runs one statement at a time and has no users: the login is compared here. Every
request is a line of the log: status, exception code, query, settings. Statuses are those of a server, as far as the tests meet them.
"""

import base64
import gzip
import hmac
import os
import re
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from chdb import session

INSERT = re.compile(r"(?is)^\s*(insert\s+into\s+.+?)\s+format\s+(\w+)\s*$")
SETTING = re.compile(r"[a-z][a-z0-9_]*")
NUMBER = re.compile(r"-?\d+")
CODE = re.compile(r"Code: (\d+)")
AUTHENTICATION_FAILED = 516
UNKNOWN_EXCEPTION = 1002
# What only a server's HTTP handler knows; the engine would not know it for a setting.
OF_THE_HANDLER = {"wait_end_of_query"}
STATUSES = {6: 400, 27: 400, 41: 400, 62: 400, 72: 400, 117: 400, 16: 404, 46: 404, 47: 404, 60: 404, 81: 404, 115: 404, 516: 403}


def quoted(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer(b"")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.answer(body)

    def answer(self, body):
        url = urlsplit(self.path)
        parameters = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        query = parameters.pop("query", "")
        self.about = " ".join([query, *(f"{name}={value}" for name, value in parameters.items())])
        if url.path == "/ping":
            self.say(200, b"Ok.\n", 0)
        elif not self.is_known():
            text = f"Code: {AUTHENTICATION_FAILED}. DB::Exception: {USER}: Authentication failed"
            self.say(403, text.encode(), AUTHENTICATION_FAILED)
        else:
            if not query:
                query, body = body.decode(), b""
            self.say(*answer_of(query, body, parameters))

    def is_known(self):
        given = self.headers.get("Authorization", "")
        wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        return hmac.compare_digest(given, wanted)

    def say(self, status, body, code):
        LOG.write(f"{status} {code} {self.about}\n")
        self.send_response(status)
        if code:
            self.send_header("X-ClickHouse-Exception-Code", str(code))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def answer_of(query, body, parameters):
    try:
        return 200, run(query, body, parameters), 0
    except Exception as error:  # The engine has no class of its own for what it throws.
        found = CODE.search(str(error))
        code = int(found[1]) if found else UNKNOWN_EXCEPTION
        return STATUSES.get(code, 500), str(error).encode(), code


def run(query, body, parameters):
    settings = ", ".join(
        f"{name} = {value if NUMBER.fullmatch(value) else quoted(value)}"
        for name, value in parameters.items()
        if SETTING.fullmatch(name) and name not in OF_THE_HANDLER
    )
    settings = f" SETTINGS {settings}" if settings else ""
    insert = INSERT.match(query)
    with ONE_AT_A_TIME:
        if not insert:
            return ENGINE.query(query + settings, "TabSeparated").bytes() or b""
        # The engine takes no rows beside a statement, but reads them from files.
        with tempfile.NamedTemporaryFile(dir=FOLDER, suffix=".rows") as rows:
            rows.write(body)
            rows.flush()
            ENGINE.query(f"{insert[1]} FROM INFILE {quoted(rows.name)}{settings} FORMAT {insert[2]}")
        return b""


if __name__ == "__main__":
    PORT, FOLDER, USER, PASSWORD = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
    LOG = open(sys.argv[5], "a", buffering=1)
    os.makedirs(FOLDER, exist_ok=True)
    ENGINE, ONE_AT_A_TIME = session.Session(FOLDER), threading.Lock()
    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
