//! Items that ended long ago, written straight into a mirror: nobody can wait for them to grow old.

use crate::support::daemon::Daemon;

/// `items` processed items of a queue, which ended in the first seconds of 1970. Their references are 1, 2, 3 and so on, each has
/// a payload of so many `bytes` and a timeline of so many `lines`.
pub async fn finished_long_ago(daemon: &Daemon, queue: &str, items: u32, lines: u32, bytes: usize) {
    let numbers = format!("WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {items})");
    let id = format!("printf('00000000-0000-0000-{:04x}-%012d', n)", queue.as_bytes()[0]);
    let all = format!(
        "INSERT INTO items (id, queue, lane, reference, unique_reference, content_hash, state, place, size, priority, attempt, \
         deliveries, retries, requeues, silent, possible_repeat, ran_anyway, stub, enqueued_at, ready_at, finished_at, revision) \
         {numbers} SELECT {id}, '{queue}', 'managed', n, n, 'x', 'processed', 'settled', {bytes}, 4, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, \
         n, {lines} FROM n;\
         INSERT INTO payloads (seq, body) SELECT seq, zeroblob({bytes}) FROM items WHERE queue = '{queue}';\
         INSERT INTO timeline (item, revision, at, actor, event, attempt, state) \
         WITH RECURSIVE l (l) AS (SELECT 1 UNION ALL SELECT l + 1 FROM l WHERE l < {lines}) \
         SELECT id, l, 1, 'x', 'processed', 1, 'processed' FROM items CROSS JOIN l WHERE queue = '{queue}'"
    );
    daemon.alter(&all).await;
}
