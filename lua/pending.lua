-- pending: what Redis holds of one entity at one moment, live and in flight.
--
-- Called for reads that must be exact (daemon/buffer/pending.py). Writes nothing. The payload of a batch never changes, so
-- it is handed out once to each caller, who looks entities up in it: to find one here would take Redis 0.5 ms each time
-- (1,300 entities; 4 ms for 5,000).
--
-- KEYS  1 claim     hash: see claim.lua
--       2 counters  prefix of an entity's hash      <counters>:<entity>
-- ARGV  1 entity
--       2 seq       of the batch whose payload the caller has, "" without one
-- Returns {last, seq, payload, fields}
--   last     the seq last given, "" if none ever was
--   seq      of the batch in flight, "" without one
--   payload  of that batch; "" if the caller has it
--   fields   live, flat: field, amount (decimal text)
-- Cost  under 1 us a field of the entity; a payload that is handed out, 0.14 ms (1,300 entities).

local pcall = redis.pcall
local claim, counters, entity, known = KEYS[1], KEYS[2] .. ':', ARGV[1], ARGV[2]
if not (entity and known) then return redis.error_reply('BADCALL ARGV must be an entity and a seq') end

-- A foreign value under one of our keys counts as nothing; the next claim moves it aside.
local function unless_foreign(reply)
  return reply.err and {} or reply
end

local held = unless_foreign(pcall('HMGET', claim, 'last', 'seq'))
local last, seq, payload = held[1] or '', held[2] or '', ''
if seq ~= '' and seq ~= known then payload = redis.call('HGET', claim, 'payload') or '' end
return {last, seq, payload, unless_foreign(pcall('HGETALL', counters .. entity))}
