"""What the examples are tried on: the presence of 200 users, as a queue may deliver it, and the table that must come of it.

    scene.py create BROKERS SOURCE TARGET
    scene.py send BROKERS SOURCE ROUND                      the records of round 1 or 2
    scene.py check BROKERS TARGET ROUND records|rows [PID]  the table after that round, as soon as it is right, while PID lives
    scene.py count BROKERS TARGET                           prints how many records it has
    scene.py grow BROKERS TARGET COUNT PID                  returns when it has more, while PID lives
    scene.py delete BROKERS PREFIX                          all topics whose names begin so

The records are those of the relay for the source amazonEventBridge. Both rounds have records of every time, so the second
brings old states, and some records of the first again. The last record of every partition is of a user of its own: a table
that has these was made of everything before them.
"""

import json
import random
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

SEED = 20260319
USERS = 200
PARTITIONS = 3
ROUNDS = (1, 2)
TIMEOUT = 60

BEGIN = datetime(2026, 3, 19, 22, 4, 48, 128000, UTC)
# The smallest differ in less than the milliseconds of ce_time, and the others pass over every length of a fraction.
STEPS = [timedelta(microseconds=us) for us in (1, 90, 1_000, 7_000, 872_000, 1_000_000, 59_003_000, 86_400_000_000)]
PRESENCES = ("AVAILABLE", "BUSY", "AWAY", "BREAK", "MEAL", "MEETING", "TRAINING", "OFFLINE")
PRESENCE = "v2.users.{id}.presence"
ROUTING_STATUS = "v2.users.{id}.routingStatus"


def written(time):
    """A time with as many decimals as it has, as Genesys Cloud may write it."""
    text = time.strftime("%Y-%m-%dT%H:%M:%S")
    if time.microsecond % 1000:
        return f"{text}.{time.microsecond:06}Z"
    return f"{text}.{time.microsecond // 1000:03}Z" if time.microsecond else f"{text}Z"


def in_milliseconds(time):
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03}Z"


def read_time(text):
    return datetime.fromisoformat(text) if text else None


class Record:
    """One record of the relay."""

    def __init__(self, dice, user, kind, body, time, **headers):
        topic = kind.replace("{id}", user)
        detail = {
            "topicName": topic,
            "version": "2",
            "eventBody": body,
            "metadata": {"CorrelationId": identifier(dice)},
            "timestamp": in_milliseconds((time or BEGIN) + timedelta(milliseconds=2)),
        }
        headers = {
            "ce_specversion": "1.0",
            "ce_id": identifier(dice),
            "ce_source": "aws.partner/genesys.com/cloud/0c1f3b52-5d7e-4f53-9a53-6d0c7f3a1e22/presence",
            "ce_type": kind,
            "ce_subject": user,
            "ce_time": time and in_milliseconds(time),
            "content-type": "application/json",
        } | headers
        self.key = user.encode()
        self.value = json.dumps(detail, separators=(",", ":")).encode()
        self.headers = [(name, text.encode()) for name, text in headers.items() if text]


class Foreign:
    """A record of another producer."""

    key, value, headers = None, b"no JSON", []


class Change(Record):
    """A change of a user's presence."""

    def __init__(self, dice, user, time):
        self.row = {
            "presence": dice.choice(PRESENCES),
            "definition": identifier(dice),
            "modified": time,
        }
        body = {
            "source": "PURECLOUD",
            "presenceDefinition": {"id": self.row["definition"], "systemPresence": self.row["presence"]},
            "primary": True,
            "message": dice.choice(["", "back at 9 \u2615"]),
            "modifiedDate": written(time),
        }
        super().__init__(dice, user, PRESENCE, body, time)


def identifier(dice):
    return str(uuid.UUID(int=dice.getrandbits(128), version=4))


def history(dice, user):
    """All changes of a user, the newest last, and records that are none, newer than all of them."""
    time = BEGIN + timedelta(milliseconds=dice.randrange(60_000))
    changes = []
    for _ in range(dice.randint(2, 12)):
        changes.append(Change(dice, user, time))
        time += dice.choice(STEPS)
    later = time + timedelta(days=1)
    error = {"id": user, "errorInfo": {"errorCode": "general.error", "status": 500}}
    status = {"id": user, "routingStatus": {"status": "IDLE", "startTime": written(later)}}
    presence = {"presenceDefinition": {"id": identifier(dice), "systemPresence": "OFFLINE"}}
    others = [
        Record(dice, user, PRESENCE, error, later, error="true"),
        Record(dice, user, ROUTING_STATUS, status, later),
        Record(dice, user, PRESENCE, presence, None),
    ]
    return changes, dice.sample(others, dice.randint(0, len(others)))


class Scene:
    """The records of both rounds in their order, and the newest change of each user after each."""

    def __init__(self):
        dice = random.Random(SEED)
        self.rounds = {number: [] for number in ROUNDS}
        self.ends = {}
        self.tables = {}
        table, place = {}, {}
        for _ in range(USERS):
            changes, others = history(dice, identifier(dice))
            for record in changes + others:
                first = dice.choice(ROUNDS)
                again = dice.choices([1, 2, 3], [6, 3, 1])[0]
                for number in [first] + [dice.choice(ROUNDS[ROUNDS.index(first) :]) for _ in range(again - 1)]:
                    self.rounds[number].append(record)
            place |= {id(change): index for index, change in enumerate(changes)}
        for number, records in self.rounds.items():
            records += [Foreign()] * PARTITIONS
            dice.shuffle(records)
            self.ends[number] = [Change(dice, identifier(dice), BEGIN) for _ in range(PARTITIONS)]
            place |= {id(end): 0 for end in self.ends[number]}
            for record in records + self.ends[number]:
                before = table.get(record.key)
                if id(record) in place and (not before or place[id(record)] > place[id(before)]):
                    table[record.key] = record
            self.tables[number] = dict(table)


def send(brokers, source, number):
    scene = Scene()
    failures = []
    producer = Producer(
        {"bootstrap.servers": brokers, "partitioner": "murmur2_random", "enable.idempotence": True}
    )

    def publish(record, **options):
        def report(error, _):
            if error:
                failures.append(error)

        producer.produce(source, record.value, record.key, headers=record.headers, on_delivery=report, **options)
        producer.poll(0)

    for record in scene.rounds[int(number)]:
        publish(record)
    producer.flush(TIMEOUT)
    for partition, record in enumerate(scene.ends[int(number)]):
        publish(record, partition=partition)
    left = producer.flush(TIMEOUT)
    if failures or left:
        sys.exit(f"{len(failures)} records were refused and {left} not acknowledged: {failures[:1]}")


def state_of(record, form):
    """What a record of a table says of its user, and the time by which the table is not to step back."""
    value = json.loads(record.value())
    if form == "rows":
        time = read_time(value["modified"])
        return value | {"modified": time}, time
    return (record.value(), record.headers()), read_time(value["eventBody"].get("modifiedDate"))


class Table:
    """What a consumer makes of a topic that sees no open transaction, and the faults in it."""

    def __init__(self, wanted, form):
        self.wanted = {
            key: change.row if form == "rows" else (change.value, change.headers) for key, change in wanted.items()
        }
        self.form = form
        self.states, self.times, self.steps_back = {}, {}, []

    def read(self, record):
        key = record.key()
        self.states[key], time = state_of(record, self.form)
        before = self.times.get(key)
        if before and not (time and time > before):
            self.steps_back.append(f"{key} steps back from {before} to {time}")
        self.times[key] = time

    def faults(self):
        keys = sorted(self.wanted.keys() | self.states.keys())
        return self.steps_back + [
            f"{key} is {self.states.get(key)}, and should be {self.wanted.get(key)}"
            for key in keys
            if self.states.get(key) != self.wanted.get(key)
        ]


def follow(brokers, topic, pid=None):
    """Every record of the topic, and None whenever there is no other yet, while the process lives and for TIMEOUT at most."""
    reader = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "presenceroute-consumers-check",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    reader.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(PARTITIONS)])
    ends = set()
    deadline = monotonic() + TIMEOUT
    while monotonic() < deadline:
        record = reader.poll(0.2)
        if record is not None and not record.error():
            ends.discard(record.partition())
            yield record
        elif record is not None and record.error().code() == KafkaError._PARTITION_EOF:
            ends.add(record.partition())
        elif record is not None:
            raise KafkaException(record.error())
        if len(ends) == PARTITIONS:
            yield None
            if not (pid and Path("/proc", pid).exists()):
                return


def check(brokers, target, number, form, pid=None):
    table = Table(Scene().tables[int(number)], form)
    for record in follow(brokers, target, pid):
        if record is not None:
            table.read(record)
        elif not table.faults():
            print(f"{target} is right: {len(table.states)} users")
            return
    faults = table.faults() or ["it was not read to its end"]
    sys.exit("\n".join([f"{len(faults)} faults in {target}, with {len(table.states)} users:", *faults[:5]]))


def count(brokers, target):
    print(sum(record is not None for record in follow(brokers, target)))


def grow(brokers, target, before, pid):
    found = 0
    for record in follow(brokers, target, pid):
        found += record is not None
        if found > int(before):
            return
    sys.exit(f"nothing came into {target} after {before} records")


def finish(results):
    for result in results.values():
        result.result(TIMEOUT)


def create(brokers, source, target):
    admin = AdminClient({"bootstrap.servers": brokers})
    new = [NewTopic(source, PARTITIONS), NewTopic(target, PARTITIONS, config={"cleanup.policy": "compact"})]
    finish(admin.create_topics(new, operation_timeout=TIMEOUT))


def delete(brokers, prefix):
    admin = AdminClient({"bootstrap.servers": brokers})
    # Kafka Streams has topics of its own for its state.
    topics = [topic for topic in admin.list_topics(timeout=TIMEOUT).topics if topic.startswith(prefix)]
    if topics:
        finish(admin.delete_topics(topics, operation_timeout=TIMEOUT))


if __name__ == "__main__":
    actions = {"create": create, "send": send, "check": check, "count": count, "grow": grow, "delete": delete}
    actions[sys.argv[1]](*sys.argv[2:])
