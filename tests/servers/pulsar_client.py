"""Pulsar's own client for Python, one line of JSON out for each thing.

pulsar_client.py URL read TOPIC           every message of a topic and of all its partitions, from the first to the last
pulsar_client.py URL take TOPIC           takes the topic over from all who publish, and keeps it until stdin ends
"""

import base64
import json
import os
import sys

import pulsar

url, what, topic = sys.argv[1:]
login = {}
if "PULSAR_TOKEN" in os.environ:
    login = {"authentication": pulsar.AuthenticationToken(os.environ["PULSAR_TOKEN"])}
logger = pulsar.FileLogger(pulsar.LoggerLevel.Error, "/dev/stderr")
client = pulsar.Client(url, operation_timeout_seconds=20, logger=logger, **login)


def show(value):
    sys.stdout.write(json.dumps(value) + "\n")


def read(partition):
    reader = client.create_reader(partition, pulsar.MessageId.earliest, receiver_queue_size=5000)
    while reader.has_message_available():
        message = reader.read_next(20_000)
        place = message.message_id()
        show(
            {
                "topic": message.topic_name(),
                "ledger": place.ledger_id(),
                "entry": place.entry_id(),
                "batch_index": place.batch_index(),
                "producer": message.producer_name(),
                "key": message.partition_key(),
                "event_time_ms": message.event_timestamp(),
                "properties": message.properties(),
                "payload_base64": base64.b64encode(message.data()).decode(),
            }
        )
    reader.close()


if what == "read":
    for partition in client.get_topic_partitions(topic):
        read(partition)
elif what == "take":
    mode = pulsar.ProducerAccessMode.ExclusiveWithFencing
    producer = client.create_producer(topic, access_mode=mode)
    show("taken")
    sys.stdout.flush()
    sys.stdin.read()
client.close()
sys.stdout.flush()
# The threads of the client may outlive what they use.
os._exit(0)
