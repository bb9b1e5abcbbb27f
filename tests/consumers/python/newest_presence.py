"""Keeps the newest presence of each user in a compacted topic: newest_presence.py BROKERS SOURCE TARGET"""

import json
import sys
from datetime import UTC, datetime

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

NEVER = (datetime.min.replace(tzinfo=UTC),) * 2


def moment(record):
    """When the presence began, as a pair that sorts; None if the record is no presence."""
    headers = dict(record.headers() or ())
    is_presence = headers.get("ce_type") == b"v2.users.{id}.presence" and "error" not in headers
    if record.value() is None or not is_presence or "ce_time" not in headers:
        return None
    time = datetime.fromisoformat(headers["ce_time"].decode())
    modified = json.loads(record.value())["eventBody"].get("modifiedDate")
    return time, datetime.fromisoformat(modified) if modified else NEVER[1]


def partitions(consumer, topic, offset):
    metadata = consumer.list_topics(topic, timeout=10).topics[topic]
    return [TopicPartition(topic, partition, offset) for partition in metadata.partitions]


def moments_of(target, settings):
    """The moment of each user's presence in the target."""
    newest = {}
    reader = Consumer(settings | {"enable.partition.eof": True})
    left = partitions(reader, target, OFFSET_BEGINNING)
    reader.assign(left)
    ends = set()
    while len(ends) < len(left):
        record = reader.poll()
        if not record.error():
            newest[record.key()] = moment(record) or NEVER
        elif record.error().code() == KafkaError._PARTITION_EOF:
            ends.add(record.partition())
        elif record.error().fatal():
            raise KafkaException(record.error())
    reader.close()
    return newest


def main(brokers, source, target):
    settings = {"bootstrap.servers": brokers, "group.id": target, "isolation.level": "read_committed"}
    settings |= {"enable.auto.commit": False, "auto.offset.reset": "earliest"}
    # The same partitions as Java's clients choose. Instances share the id, so that only the last one writes.
    producer = Producer(
        {"bootstrap.servers": brokers, "transactional.id": target, "partitioner": "murmur2_random"}
    )
    producer.init_transactions()
    newest = moments_of(target, settings)
    consumer = Consumer(settings)
    consumer.assign(consumer.committed(partitions(consumer, source, OFFSET_BEGINNING)))
    # An error ends the program. Started again, it goes on after the last transaction.
    while True:
        records = consumer.consume(500, timeout=0.1)
        if not records:
            continue
        producer.begin_transaction()
        for record in records:
            if record.error():
                raise KafkaException(record.error())
            time = moment(record)
            if time and time > newest.get(record.key(), NEVER):
                newest[record.key()] = time
                producer.produce(target, record.value(), record.key(), headers=record.headers())
        positions = consumer.position(consumer.assignment())
        producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata())
        producer.commit_transaction()


if __name__ == "__main__":
    main(*sys.argv[1:])
