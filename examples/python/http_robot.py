"""A robot that needs nothing but HTTP: it claims items, keeps its lease up while it works, and says how each ended.

    python http_robot.py http://127.0.0.1:7070 invoices

Only the standard library. A token is read from WARREND_TOKEN. Stop it with Ctrl-C: what it has in hand it gives back.
"""

import http.client
import json
import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request

LEASE = 60  # seconds; beat every third of it
PAUSE = 2  # seconds, where the daemon says nothing else
PATIENCE = 600  # seconds: finished work is told again for so long


class LeaseLost(Exception):
    """Somebody else has the item by now; the message says who."""


class Refused(Exception):
    """The daemon will not do it, however often it is asked."""


class Away(Exception):
    """Nobody answers, or not now: the same may be sent again after a while."""

    def __init__(self, why, wait=PAUSE):
        super().__init__(why)
        self.wait = wait


class Warrend:
    def __init__(self, url, worker):
        self.url, self.worker = url.rstrip("/"), worker
        self.headers = {"content-type": "application/json"}
        if token := os.environ.get("WARREND_TOKEN"):
            self.headers["authorization"] = f"Bearer {token}"

    def post(self, path, body, timeout=90):
        """The answer; None for 204. The same request may be sent again after a doubt."""
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), self.headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return json.load(answer) if answer.status == 200 else None
        except urllib.error.HTTPError as error:
            raise refusal(path, error) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            # Also an answer that is none: something between here and the daemon.
            raise Away(f"{path}: {error}") from None

    def claim(self, queue):
        """The next item and its lease, or None. Waiting costs the daemon next to nothing."""
        body = {"worker": self.worker, "wait": "30s", "lease": f"{LEASE}s"}
        claimed = self.post(f"/api/v1/queues/{queue}/claim", body)
        return claimed and (claimed["items"][0], claimed["lease"])

    def say(self, item, lease, verb, timeout=90, **what):
        return self.post(f"/api/v1/items/{item['id']}/{verb}", {"lease": lease, **what}, timeout)

    def tell(self, item, lease, **what):
        """How it ended. What is done is done: where nobody listens it is told again."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return self.say(item, lease, "outcome", **what)
            except Away as away:
                if time.monotonic() >= until:
                    raise
                print(f"away: {away}", flush=True)
                time.sleep(away.wait)


def refusal(path, error):
    """What an answer with an error means."""
    try:
        problem = json.load(error)
    except (OSError, http.client.HTTPException, ValueError):
        problem = None
    if not isinstance(problem, dict):
        problem = {"detail": f"answered {error.code}"}
    if str(problem.get("type", "")).endswith(":lease_lost"):
        return LeaseLost(problem.get("detail", "the lease is over"))
    if error.code == 429 or error.code >= 500:
        wait = error.headers.get("retry-after", "")
        return Away(f"{path}: {problem}", max(int(wait), 1) if wait.isdigit() else PAUSE)
    return Refused(f"{path}: {problem}")


def keep_up(warrend, item, lease, done):
    """Beats until the work is done, or the lease is lost."""
    wait = LEASE / 3
    while not done.wait(wait):
        wait = LEASE / 3
        try:
            warrend.say(item, lease, "heartbeat", timeout=LEASE / 6)
        except Away as away:
            wait = min(wait, away.wait)  # leases outlive that
        except LeaseLost as lost:
            print(f"lost: {lost}", flush=True)
            return
        except Refused as refused:
            print(f"not kept up: {refused}", flush=True)
            return


def work(item):
    """The work itself; here an amount is needed."""
    payload = item["payload"]
    if not isinstance(payload, dict) or "amount" not in payload:
        raise ValueError("no amount")
    return {"booked": payload["amount"]}


def ended(item):
    """The work, and what is to be told of it: nothing that happens while it is told is taken for a failure of the work."""
    try:
        return {"type": "processed", "result": work(item)}
    except ValueError as wrong:
        return {"type": "business_exception", "code": "amount", "reason": str(wrong)}


def main():
    url, queue = sys.argv[1], sys.argv[2]
    most = int(sys.argv[3]) if len(sys.argv) > 3 else None
    warrend = Warrend(url, f"http-robot@{socket.gethostname()}")
    worked = 0
    while most is None or worked < most:
        try:
            claimed = warrend.claim(queue)
        except Away as away:
            print(f"away: {away}", flush=True)
            time.sleep(away.wait)
            continue
        if claimed is None:
            continue
        item, lease = claimed
        done = threading.Event()
        beat = threading.Thread(target=keep_up, args=(warrend, item, lease, done), daemon=True)
        beat.start()
        how = None
        try:
            how = ended(item)
            warrend.tell(item, lease, **how)
            print(f"{how['type']} {item['reference']}", flush=True)
        except LeaseLost as lost:
            print(f"lost: {lost}", flush=True)
        except KeyboardInterrupt:
            if how is None:
                warrend.say(item, lease, "return", note="stopped")
            else:
                warrend.say(item, lease, "outcome", **how)
            raise
        finally:
            done.set()
        worked += 1


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except (Refused, Away, LeaseLost) as why:
        sys.exit(f"{why}")
