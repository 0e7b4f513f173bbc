-- unfold: one part of the batch in flight as plain strings.
--
-- Called by the flusher (daemon/buffer/counters.py) and by readers only when a payload holds bytes that are not UTF-8,
-- which no client of ours can have written: it then judges each string by itself.
--
-- KEYS  1 claim  hash: see claim.lua
-- ARGV  1 part   as `claim` named it
-- Returns the payload's elements, or an empty list if that part is no longer in flight
-- Cost  under 1 us an element.

local claim, part = KEYS[1], ARGV[1]
local payload = redis.call('HGET', claim, 'payload:' .. part)
if not payload and redis.call('HGET', claim, 'seq') == part then payload = redis.call('HGET', claim, 'payload') end
return payload and cmsgpack.unpack(payload) or {}
