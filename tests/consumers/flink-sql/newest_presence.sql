-- Keeps the newest presence of each user in a compacted topic.

-- Changes become visible with each checkpoint.
SET 'execution.checkpointing.interval' = '1 s';

CREATE TABLE notifications (
  user_id STRING,
  eventBody ROW<
    presenceDefinition ROW<id STRING, systemPresence STRING>,
    modifiedDate TIMESTAMP_LTZ(6)
  >,
  headers MAP<STRING, BYTES> METADATA VIRTUAL,
  -- All of one length, so they sort as text.
  ce_time AS CAST(headers['ce_time'] AS STRING),
  ce_type AS CAST(headers['ce_type'] AS STRING)
) WITH (
  'connector' = 'kafka',
  'topic' = 'gen-presence-state',
  'properties.bootstrap.servers' = 'kafka-bootstrap.kafka:9092',
  'scan.startup.mode' = 'earliest-offset',
  'key.format' = 'raw',
  'key.fields' = 'user_id',
  'value.format' = 'json',
  'value.fields-include' = 'EXCEPT_KEY',
  'value.json.timestamp-format.standard' = 'ISO-8601',
  'value.json.ignore-parse-errors' = 'true'
);

CREATE TABLE newest_presence (
  user_id STRING,
  presence STRING,
  definition STRING,
  modified TIMESTAMP_LTZ(6),
  PRIMARY KEY (user_id) NOT ENFORCED
) WITH (
  'connector' = 'upsert-kafka',
  'topic' = 'gen-presence-newest',
  'properties.bootstrap.servers' = 'kafka-bootstrap.kafka:9092',
  'key.format' = 'raw',
  'value.format' = 'json',
  'value.fields-include' = 'EXCEPT_KEY',
  'value.json.timestamp-format.standard' = 'ISO-8601',
  'sink.delivery-guarantee' = 'exactly-once',
  'sink.transactional-id-prefix' = 'gen-presence-newest',
  -- At most the brokers' transaction.max.timeout.ms, 15 min by default.
  'properties.transaction.timeout.ms' = '900000'
);

INSERT INTO newest_presence
SELECT user_id, presence, definition, modified
FROM (
  SELECT
    user_id,
    eventBody.presenceDefinition.systemPresence AS presence,
    eventBody.presenceDefinition.id AS definition,
    eventBody.modifiedDate AS modified,
    ROW_NUMBER() OVER (
      PARTITION BY user_id
      ORDER BY ce_time DESC, eventBody.modifiedDate DESC
    ) AS place
  FROM notifications
  WHERE ce_type = 'v2.users.{id}.presence' AND ce_time IS NOT NULL AND headers['error'] IS NULL
)
WHERE place = 1;
