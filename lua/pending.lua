-- pending: what Redis holds of one entity at one moment, live and in flight.
--
-- Called for reads that must be exact (daemon/buffer/pending.py). Writes nothing. A part of a batch never changes, so
-- each is handed out once to each caller, who looks entities up in it: to find one here would take Redis 0.5 ms each
-- time (1,300 entities; 4 ms for 5,000).
--
-- KEYS  1 claim     hash: see claim.lua
--       2 counters  prefix of an entity's hash      <counters>:<entity>
-- ARGV  1 entity
--       2 seq       of the batch all of whose parts the caller has, "" without one
-- Returns {last, seq, {part, payload, ...}, fields}
--   last     the seq last given, "" if none ever was
--   seq      of the batch in flight, open or sealed, "" without one
--   payload  of each part of it, in any order, "" for one the caller has; no parts if nothing was added to the caller's
--   fields   live, flat: field, amount (decimal text)
-- Cost  under 1 us a field of the entity; a payload that is handed out, 0.1 ms for 1,000 entities.

local call, pcall = redis.call, redis.pcall
local claim, counters, entity, known = KEYS[1], KEYS[2] .. ':', ARGV[1], ARGV[2]
if not (entity and known) then return redis.error_reply('BADCALL ARGV must be an entity and a seq') end

-- A foreign value under one of our keys counts as nothing; the next claim moves it aside.
local function unless_foreign(reply)
  return reply.err and {} or reply
end

local held = unless_foreign(pcall('HMGET', claim, 'last', 'seq'))
local last, seq, parts = held[1] or '', held[2] or '', {}
if seq ~= '' and seq ~= known then
  -- The batch that had the known seq: what was frozen up to then is in the caller's.
  local grew = call('HEXISTS', claim, 'payload:' .. known) == 1
  for _, field in ipairs(call('HKEYS', claim)) do
    local part = field:match('^payload:(.+)') or field == 'payload' and seq
    if part then
      parts[#parts + 1] = part
      parts[#parts + 1] = grew and tonumber(part) <= tonumber(known) and '' or call('HGET', claim, field)
    end
  end
end
return {last, seq, parts, unless_foreign(pcall('HGETALL', counters .. entity))}
