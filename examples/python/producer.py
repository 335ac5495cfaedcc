#!/usr/bin/env python3
"""Puts items into a work queue, from JSON lines or CSV.

    producer.py --queue invoices items.jsonl
    producer.py --queue invoices --amqp amqp://user:password@broker:5672/vhost items.csv
    ... | producer.py --queue invoices -

A JSON line is {"payload": {...}, "reference": "...", "priority": 8, "name": "...", "due_at": "2027-01-31T12:00:00Z"}; only
`payload` is required. In a CSV file the columns reference, priority, name and due_at are those; all others are the payload.

Every message is persistent, mandatory and confirmed. The reference travels as message-id: send it again after a doubt (here:
after a lost connection), and a queue with `unique: true` still has the item once. A confirm means that the broker has the
item; what the queue refuses (a schema, a duplicate) is found there as an exception, not here.
"""
import argparse
import csv
import json
import sys
import time
import urllib.parse

import pika
import pika.exceptions

OWN = ("reference", "priority", "name", "due_at")


def read(file, as_csv):
    if as_csv:
        for row in csv.DictReader(file):
            item = {key: row.pop(key) for key in OWN if row.get(key)}
            yield {**item, "payload": {key: value for key, value in row.items() if key not in OWN}}
    else:
        for line in file:
            if line.strip():
                yield json.loads(line)


def message(item):
    headers = {"wq-name": item.get("name"), "wq-due-at": item.get("due_at")}
    return json.dumps(item["payload"]).encode(), pika.BasicProperties(
        content_type="application/json",
        delivery_mode=2,
        message_id=item.get("reference"),
        priority=int(item["priority"]) if item.get("priority") is not None else None,
        timestamp=int(time.time()),
        headers={name: value for name, value in headers.items() if value is not None},
    )


def connect(amqp, vhost):
    if vhost is not None:
        amqp = urllib.parse.urlsplit(amqp)._replace(path="/" + urllib.parse.quote(vhost, safe="")).geturl()
    channel = pika.BlockingConnection(pika.URLParameters(amqp)).channel()
    channel.confirm_delivery()
    return channel


def main():
    parser = argparse.ArgumentParser(description="Puts items into a work queue, from JSON lines or CSV.")
    parser.add_argument("file", help="JSON lines, or CSV where the name ends in .csv; - is stdin")
    parser.add_argument("--queue", required=True, help="key of the work queue")
    parser.add_argument("--amqp", default="amqp://guest:guest@127.0.0.1:5672/%2F")
    parser.add_argument("--vhost", help="instead of the one in --amqp")
    parser.add_argument("--prefix", default="wq", help="what the names on the broker begin with")
    say = parser.parse_args()

    file = sys.stdin if say.file == "-" else open(say.file, newline="", encoding="utf-8")
    channel, sent, refused = connect(say.amqp, say.vhost), 0, 0
    for item in read(file, say.file.endswith(".csv")):
        body, properties = message(item)
        while True:
            try:
                channel.basic_publish(say.prefix + ".items", say.queue, body, properties, mandatory=True)
                sent += 1
            except (pika.exceptions.UnroutableError, pika.exceptions.NackError) as refusal:
                refused += 1
                print(f"not taken: {item.get('reference')}: {type(refusal).__name__}", file=sys.stderr)
            except pika.exceptions.AMQPConnectionError:
                print("connection lost, sending again what was not confirmed", file=sys.stderr)
                time.sleep(1)
                channel = connect(say.amqp, say.vhost)
                continue
            break
    channel.connection.close()
    print(f"{sent} confirmed, {refused} not taken")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
