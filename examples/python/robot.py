#!/usr/bin/env python3
"""A robot: takes items from a work queue one at a time, works, reports, acks.

    robot.py --queue invoices --name intake-7
    robot.py --queue invoices --name intake-7 --amqp amqp://user:password@broker:5672/vhost

Copy it and write your own `work`. The rest keeps the contract:
- prefetch 1 and manual ack: one item at a time, and a robot that dies gives its item back at once;
- report, then ack, on the same channel;
- the work runs in a thread beside the connection, or the broker would take the item away when heartbeats stay out;
- on `basic.cancel` (the queue is changed, or the item took too long) it does not ack: it closes the channel and begins anew.
"""
import argparse
import functools
import json
import threading
import time

import pika
import pika.exceptions


class BusinessException(Exception):
    """The data is wrong: a person has to look, trying again is of no use. BusinessException(code, reason)"""


def work(payload):
    """What this robot does. Any exception other than BusinessException counts as a failed system and is retried."""
    if not payload.get("vendor"):
        raise BusinessException("vendor_missing", "the invoice names no vendor")
    return {"booked": payload.get("number")}


def done(name, prefix, channel, method, properties, kind, **say):
    if not channel.is_open:
        return  # the item went back to the queue and comes again, perhaps to another robot
    channel.basic_publish(prefix + ".outcomes", method.routing_key, json.dumps(say).encode(), pika.BasicProperties(
        type=kind, correlation_id=properties.message_id, headers=properties.headers, app_id=name, delivery_mode=2))
    channel.basic_ack(method.delivery_tag)


def beside(report, connection, body):
    try:
        result = work(json.loads(body))
        outcome = functools.partial(report, "processed", result=result)
    except BusinessException as e:
        outcome = functools.partial(report, "business_exception", code=e.args[0], reason=e.args[-1])
    except Exception as e:
        outcome = functools.partial(report, "it_exception", code=type(e).__name__, reason=str(e))
    try:
        connection.add_callback_threadsafe(outcome)
    except pika.exceptions.ConnectionWrongState:
        pass  # as above


def consume(connection, say):
    worker = None

    def on_delivery(channel, method, properties, body):
        nonlocal worker
        report = functools.partial(done, say.name, say.prefix, channel, method, properties)
        worker = threading.Thread(target=beside, args=(report, connection, body), daemon=True)
        worker.start()

    channel = connection.channel()
    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(f"{say.prefix}.q.{say.queue}", on_delivery)
    channel.start_consuming()  # comes back when the broker cancels the consumer
    channel.close()
    while worker and worker.is_alive():
        connection.sleep(0.5)  # not two items at once


def main():
    parser = argparse.ArgumentParser(description="Takes items from a work queue one at a time, works, reports, acks.")
    parser.add_argument("--queue", required=True, help="key of the work queue")
    parser.add_argument("--name", required=True, help="how this robot is called in reports")
    parser.add_argument("--amqp", default="amqp://guest:guest@127.0.0.1:5672/%2F")
    parser.add_argument("--prefix", default="wq", help="what the names on the broker begin with")
    say = parser.parse_args()
    while True:
        try:
            with pika.BlockingConnection(pika.URLParameters(say.amqp)) as connection:
                while True:
                    consume(connection, say)
        except pika.exceptions.AMQPError as e:
            print(f"{say.name}: {type(e).__name__} {e}, connects again", flush=True)
            time.sleep(2)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
