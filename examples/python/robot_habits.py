#!/usr/bin/env python3
"""A robot with habits, good and bad: for the demo, and for tests that need to know what robots really do.

    robot_habits.py --habit report_ack --amqp URL --vhost V --queue invoices --name robot-1 --log robots.jsonl --idle-exit 5

    report_ack     reports `processed` with a result, then acks: how it should be
    it_exception   reports `it_exception`, then acks
    report_reject  reports `business_exception` with code and reason, then rejects
    bare_reject    rejects without a word
    ack_only       acks without a word
    dying          takes a delivery and ends without ack, exit code 1 (whoever started it starts it again)
    slow           works three times as long as its heartbeat, beside the connection, then reports `processed`
    mixed          decides by the payload: see `decide`

The log has one JSON line per delivery, written once the delivery is settled (before the end, where the robot dies): robot,
queue, message_id, reference, attempt, redelivered, habit, reported (the type, or null), code, settled (ack, reject, died).
"""
import argparse
import functools
import json
import os
import sys
import threading
import time
import urllib.parse

import pika
import pika.exceptions

VENDORS = ("Fjord Freight AS", "Nordlys Energi AS", "Bergen Paper Mill AS", "Havn Logistics AS", "Tind Consulting AS",
           "Svale Catering AS", "Granitt Bygg AS", "Polar Telecom AS")
CURRENCIES = ("NOK", "SEK", "DKK", "EUR", "USD")
SIMPLE = ("report_ack", "it_exception", "report_reject", "bare_reject", "ack_only", "dying", "slow")
SLOW_HEARTBEAT = 2


def decide(payload, attempt, redelivered):
    """What the mixed robot does with a payload: (habit, code, reason)."""
    if not isinstance(payload, dict):
        return "report_ack", None, None
    if payload.get("robot") in SIMPLE:  # a test says what it wants
        return payload["robot"], None, None
    scan = payload.get("scan", "")
    if scan.endswith("crashes-reader.pdf") and not redelivered:
        return "dying", None, None
    if scan.endswith("unreadable.pdf"):
        return "bare_reject", None, None
    company = payload.get("company")
    if company == "1900" or (company == "1200" and attempt == 1):
        return "it_exception", "erp_timeout", f"company {company} of the ledger did not answer"
    if "vendor" in payload and payload["vendor"] not in VENDORS:
        return "report_reject", "vendor_unknown", f"{payload['vendor']} is not in the vendor register"
    if "currency" in payload and payload["currency"] not in CURRENCIES:
        return "report_reject", "currency_unsupported", f"no ledger in {payload['currency']}"
    if "lines" in payload and abs(sum(line["amount"] for line in payload["lines"]) - payload["amount"]) > 0.005:
        return "report_reject", "total_mismatch", "the lines do not add up to the amount"
    return "report_ack", None, None


class Robot:
    def __init__(self, say):
        self.say = say
        self.queue = f"{say.prefix}.q.{say.queue}"
        self.handled = 0
        self.last_delivery = time.monotonic()
        self.worker = None
        self.cancelled = False
        self.consumer = None

    def log(self, method, properties, habit, reported, code, settled):
        self.handled += 1
        if not self.say.log:
            return
        headers = properties.headers or {}
        line = {"robot": self.say.name, "queue": method.routing_key, "message_id": properties.message_id,
                "reference": headers.get("wq-reference"), "attempt": headers.get("wq-attempt"),
                "redelivered": method.redelivered, "habit": habit, "reported": reported, "code": code, "settled": settled}
        with open(self.say.log, "ab", buffering=0) as file:  # one write in append mode: robots may share the file
            file.write(json.dumps(line).encode() + b"\n")

    def on_delivery(self, channel, method, properties, body):
        self.last_delivery = time.monotonic()
        try:
            payload = json.loads(body)
        except ValueError:
            payload = None
        attempt = (properties.headers or {}).get("wq-attempt", 1)
        habit, code, reason = self.say.habit, None, None
        if habit == "mixed":
            habit, code, reason = decide(payload, attempt, method.redelivered)
        if habit == "dying":
            self.log(method, properties, habit, None, None, "died")
            os._exit(1)
        seconds = self.say.work
        if seconds is None:
            seconds = 3 * SLOW_HEARTBEAT if habit == "slow" else 0
        if habit == "report_reject":
            code, reason = code or "rejected_by_habit", reason or "this robot takes nothing"
        if habit == "it_exception":
            code, reason = code or "system_down", reason or "the system behind this robot is down"
        settle = functools.partial(self.settle, channel, method, properties, payload, habit, code, reason)
        self.worker = threading.Thread(target=self.work, args=(channel.connection, seconds, settle), daemon=True)
        self.worker.start()

    @staticmethod
    def work(connection, seconds, settle):
        time.sleep(seconds)
        try:
            connection.add_callback_threadsafe(settle)
        except pika.exceptions.ConnectionWrongState:
            pass  # the item went back to the queue and comes again

    def settle(self, channel, method, properties, payload, habit, code, reason):
        if not channel.is_open or self.cancelled:
            return
        if self.say.count and self.handled + 1 >= self.say.count:
            channel.basic_cancel(self.consumer)  # nothing more is handed to us behind the last one
        reported = {"report_ack": "processed", "slow": "processed", "it_exception": "it_exception",
                    "report_reject": "business_exception"}.get(habit)
        if reported:
            report = {"code": code, "reason": reason}
            if reported == "processed":
                number = payload.get("number") if isinstance(payload, dict) else None
                report = {"result": {"booked": number or properties.message_id}}
            channel.basic_publish(f"{self.say.prefix}.outcomes", method.routing_key, json.dumps(report).encode(),
                                  pika.BasicProperties(type=reported, correlation_id=properties.message_id,
                                                       headers=properties.headers, app_id=self.say.name, delivery_mode=2))
        reject = habit in ("report_reject", "bare_reject")
        if reject:
            channel.basic_reject(method.delivery_tag, requeue=False)
        else:
            channel.basic_ack(method.delivery_tag)
        self.last_delivery = time.monotonic()
        self.log(method, properties, habit, reported, code, "reject" if reject else "ack")

    def finished(self):
        if self.worker and self.worker.is_alive():
            return False
        if self.say.count and self.handled >= self.say.count:
            return True
        return self.say.idle_exit is not None and time.monotonic() - self.last_delivery > self.say.idle_exit

    def on_cancel(self, _method):
        self.cancelled = True

    def consume(self, connection):
        """Until the robot is finished, or the broker cancelled the consumer: then the channel is closed without an ack."""
        self.cancelled = False
        channel = connection.channel()
        channel.basic_qos(prefetch_count=1)
        channel.add_on_cancel_callback(self.on_cancel)
        self.consumer = channel.basic_consume(self.queue, self.on_delivery)
        while not self.cancelled and not self.finished():
            connection.process_data_events(time_limit=0.2)
        channel.close()
        while self.worker and self.worker.is_alive():
            connection.sleep(0.2)

    def run(self):
        amqp = self.say.amqp
        if self.say.vhost is not None:
            amqp = urllib.parse.urlsplit(amqp)._replace(path="/" + urllib.parse.quote(self.say.vhost, safe="")).geturl()
        parameters = pika.URLParameters(amqp)
        if self.say.habit == "slow":
            parameters.heartbeat = SLOW_HEARTBEAT
        while not self.finished():
            try:
                with pika.BlockingConnection(parameters) as connection:
                    while not self.finished():
                        self.consume(connection)
            except pika.exceptions.AMQPError as e:
                print(f"{self.say.name}: {type(e).__name__} {e}, connects again", file=sys.stderr, flush=True)
                time.sleep(0.5)


def main():
    parser = argparse.ArgumentParser(description="A robot with habits, good and bad.")
    parser.add_argument("--habit", required=True, choices=SIMPLE + ("mixed",))
    parser.add_argument("--queue", required=True, help="key of the work queue")
    parser.add_argument("--name", required=True, help="how this robot is called in reports")
    parser.add_argument("--amqp", default="amqp://guest:guest@127.0.0.1:5672/%2F")
    parser.add_argument("--vhost", help="instead of the one in --amqp")
    parser.add_argument("--prefix", default="wq", help="what the names on the broker begin with")
    parser.add_argument("--work", type=float, metavar="SECONDS", help="how long it works on an item (0; slow: 6)")
    parser.add_argument("--count", type=int, metavar="N", help="exit 0 after N deliveries")
    parser.add_argument("--idle-exit", type=float, metavar="SECONDS", help="exit 0 after this long without a delivery")
    parser.add_argument("--log", metavar="FILE", help="append one JSON line per delivery")
    try:
        Robot(parser.parse_args()).run()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
