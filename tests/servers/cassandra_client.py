"""CQL by DataStax's driver: statements in, a line of JSON out for each row of the last one.

cassandra_client.py HOST PORT 'SELECT * FROM a.b' 'SELECT …'

Bytes are {"hex": …}, times milliseconds since 1970.
"""

import calendar
import datetime
import json
import os
import ssl
import sys
import uuid

from cassandra import ConsistencyLevel
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.policies import WhiteListRoundRobinPolicy
from cassandra.query import dict_factory

host, port, *statements = sys.argv[1:]
login = tls = None
if "CASSANDRA_USER" in os.environ:
    login = PlainTextAuthProvider(os.environ["CASSANDRA_USER"], os.environ["CASSANDRA_PASSWORD"])
if "CASSANDRA_CERTIFICATE" in os.environ:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    tls.load_cert_chain(os.environ["CASSANDRA_CERTIFICATE"], os.environ["CASSANDRA_KEY"])


def plain(value):
    if isinstance(value, (bytes, bytearray)):
        return {"hex": value.hex()}
    if isinstance(value, datetime.datetime):
        return calendar.timegm(value.utctimetuple()) * 1000 + value.microsecond // 1000
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    return str(value)


profile = ExecutionProfile(
    load_balancing_policy=WhiteListRoundRobinPolicy([host]),
    row_factory=dict_factory,
    request_timeout=60,
    # What the replicas have together.
    consistency_level=ConsistencyLevel.ALL,
)
cluster = Cluster(
    [host],
    port=int(port),
    auth_provider=login,
    ssl_context=tls,
    protocol_version=4,
    execution_profiles={EXEC_PROFILE_DEFAULT: profile},
    connect_timeout=20,
)
session = cluster.connect()
session.default_fetch_size = 2000
rows = []
for statement in statements:
    rows = session.execute(statement)
for row in rows:
    sys.stdout.write(json.dumps({name: plain(value) for name, value in row.items()}) + "\n")
cluster.shutdown()
