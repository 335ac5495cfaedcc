"""A robot that needs nothing but HTTP: it claims items, keeps its lease up while it works, and says how each ended.

    python http_robot.py http://127.0.0.1:7070 invoices

Only the standard library. Stop it with Ctrl-C: what it has in hand it gives back.
"""

import json
import socket
import sys
import threading
import urllib.error
import urllib.request

LEASE = 60  # seconds; beat every third of it


class LeaseLost(Exception):
    """Somebody else has the item by now; the message says who."""


class Warrend:
    def __init__(self, url, worker):
        self.url, self.worker = url.rstrip("/"), worker

    def post(self, path, body, timeout=90):
        """The answer; None for 204. The same request may be sent again after a doubt."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return json.load(answer) if answer.status == 200 else None
        except urllib.error.HTTPError as error:
            problem = json.load(error)
            if problem.get("type", "").endswith(":lease_lost"):
                raise LeaseLost(problem["detail"]) from None
            raise RuntimeError(f"{path}: {problem}") from None

    def claim(self, queue):
        """The next item and its lease, or None. Waiting costs the daemon next to nothing."""
        body = {"worker": self.worker, "wait": "30s", "lease": f"{LEASE}s"}
        claimed = self.post(f"/api/v1/queues/{queue}/claim", body)
        return claimed and (claimed["items"][0], claimed["lease"])

    def say(self, item, lease, verb, **what):
        return self.post(f"/api/v1/items/{item['id']}/{verb}", {"lease": lease, **what})


def keep_up(warrend, item, lease, done):
    """Beats until the work is done, or the lease is lost."""
    while not done.wait(LEASE / 3):
        try:
            warrend.say(item, lease, "heartbeat")
        except LeaseLost as lost:
            print(f"lost: {lost}", flush=True)
            return
        except OSError:
            pass  # the daemon is away for a moment; leases outlive that


def work(item):
    """The work itself; here an amount is needed."""
    payload = item["payload"]
    if not isinstance(payload, dict) or "amount" not in payload:
        raise ValueError("no amount")
    return {"booked": payload["amount"]}


def main():
    url, queue = sys.argv[1], sys.argv[2]
    most = int(sys.argv[3]) if len(sys.argv) > 3 else None
    warrend = Warrend(url, f"http-robot@{socket.gethostname()}")
    worked = 0
    while most is None or worked < most:
        claimed = warrend.claim(queue)
        if claimed is None:
            continue
        item, lease = claimed
        done = threading.Event()
        beat = threading.Thread(target=keep_up, args=(warrend, item, lease, done), daemon=True)
        beat.start()
        try:
            result = work(item)
            warrend.say(item, lease, "outcome", type="processed", result=result)
            print(f"processed {item['reference']}", flush=True)
        except ValueError as wrong:
            warrend.say(item, lease, "outcome", type="business_exception", code="amount", reason=str(wrong))
            print(f"business_exception {item['reference']}", flush=True)
        except LeaseLost as lost:
            print(f"lost: {lost}", flush=True)
        except KeyboardInterrupt:
            warrend.say(item, lease, "return", note="stopped")
            raise
        finally:
            done.set()
        worked += 1


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
