"""moto's server, with partner event buses as AWS has them: their names have slashes, which moto takes for those of an ARN."""

import sys

from moto.events.models import EventBus, EventsBackend
from moto.server import main


def event_bus_name(_backend: EventsBackend, name_or_arn: str | None) -> str:
    """The name of an event bus."""
    if name_or_arn is None:
        return "default"
    return name_or_arn.split(":event-bus/", 1)[-1]


def tags(backend: EventsBackend, arn: str) -> dict[str, list[dict[str, str]]]:
    """The tags of an event bus or a rule. One that has none may be anything."""
    return backend.tagger.list_tags_for_resource(arn)


EventsBackend._normalize_event_bus_arn = event_bus_name
EventsBackend.list_tags_for_resource = tags
# What `Ref` gives of an event bus in CloudFormation: moto gives none.
EventBus.physical_resource_id = property(lambda bus: bus.name)

main(sys.argv[1:])
