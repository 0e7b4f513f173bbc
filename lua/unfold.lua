-- unfold: return one part of the claim in flight as plain strings.
--
-- The flusher and readers call it (daemon/buffer/counters.py) only if a payload holds bytes that are not UTF-8. No
-- client of ours can have written such bytes. The caller then decodes each string by itself.
--
-- KEYS  1 claim  hash: see claim.lua
-- ARGV  1 part   as `claim` named it
--       2 payload  of a claim in the journal, in place of the part
-- Returns the payload's elements, or an empty list if that part is no longer in flight
-- Cost  under 1 us an element.

local payload = ARGV[2] or redis.call('HGET', KEYS[1], 'payload:' .. ARGV[1])
return payload and cmsgpack.unpack(payload) or {}
