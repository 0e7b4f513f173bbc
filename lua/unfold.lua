-- unfold: the payload in flight as plain strings.
--
-- Called by the flusher (daemon/buffer/counters.py) only when a payload holds bytes that are not UTF-8, which no client
-- of ours can have written: it then judges each string by itself.
--
-- KEYS  1 claim  hash: see claim.lua
-- ARGV  1 seq    of the batch the caller holds
-- Returns the payload's elements, or an empty list if that batch is no longer in flight
-- Cost  under 1 us an element.

if redis.call('HGET', KEYS[1], 'seq') ~= ARGV[1] then return {} end
return cmsgpack.unpack(redis.call('HGET', KEYS[1], 'payload'))
