"""Commands and finds by PyMongo: one JSON array in, one line of canonical extended JSON out for each document.

mongo_client.py URL command DATABASE '{"ping": 1}'
mongo_client.py URL find DATABASE COLLECTION '{"topic": "a"}'
"""

import os
import sys

import pymongo
from bson import json_util

url, what, database, *rest = sys.argv[1:]
login = {}
if "MONGO_USER" in os.environ:
    login = {"username": os.environ["MONGO_USER"], "password": os.environ["MONGO_PASSWORD"], "authSource": "admin"}
if "MONGO_CERTIFICATE" in os.environ:
    login |= {"tls": True, "tlsCertificateKeyFile": os.environ["MONGO_CERTIFICATE"], "tlsAllowInvalidCertificates": True}
client = pymongo.MongoClient(url, serverSelectionTimeoutMS=5000, directConnection=True, **login)


def show(document):
    sys.stdout.write(json_util.dumps(document, json_options=json_util.CANONICAL_JSON_OPTIONS) + "\n")


def read(text):
    options = json_util.JSONOptions(document_class=dict, tz_aware=False)
    return json_util.loads(text, json_options=options)


if what == "command":
    show(client[database].command(read(rest[0])))
else:
    collection, query = rest
    for document in client[database][collection].find(read(query)).sort("_id", 1):
        show(document)
