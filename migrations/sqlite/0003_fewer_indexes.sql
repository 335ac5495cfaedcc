-- Every item paid for these with each step, and few questions asked them.

-- Asked only when a dispatch begins: items_out answers it as well.
DROP INDEX items_claimed;

-- Of items that are due some day. Those that are not come after them, in the order of items_ready.
DROP INDEX items_deadline;
CREATE INDEX items_deadline ON items (queue, priority, due_at, seq) WHERE place = 'ready' AND due_at IS NOT NULL;
