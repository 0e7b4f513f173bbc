-- pending: return what Redis holds of one entity at one moment, live and in flight.
--
-- Reads that must be exact call it (daemon/buffer/pending.py). It writes nothing. A part of a claim never changes, so
-- each caller gets each part once, and looks entities up in it by itself. To find one here would take Redis 0.5 ms each
-- time (1,300 entities; 4 ms for 5,000).
--
-- KEYS  1 claim     hash: see claim.lua
--       2 counters  prefix of an entity's hash: <counters>:<entity>
-- ARGV  1 entity
--       2 known     the seq of a claim all of whose parts the caller has; "" if there is none
-- Returns {last, seq, {part, payload, ...}, fields}
--   last     the seq last given to a claim, "" if none ever was
--   seq      of the claim in flight, open or sealed; "" if there is none
--   payload  of each part of it, in any order; "" for a part that the caller has. No parts at all if seq is `known`
--   fields   live amounts, flat: field, amount (decimal text)
-- Cost  under 1 us a field of the entity; 0.1 ms for a payload of 1,000 entities that is returned.
--
-- Example: the caller knows seq 80, of the parts 70 and 80. The claim has grown by part 90. It gets
-- {90, 90, {70, "", 80, "", 90, payload}, fields}.

local call, pcall = redis.call, redis.pcall
local claim, counters, entity, known = KEYS[1], KEYS[2] .. ':', ARGV[1], ARGV[2]
if not (entity and known) then return redis.error_reply('BADCALL ARGV must be an entity and a seq') end

-- A foreign value under one of our keys is read as nothing. The next claim moves it aside.
local function unless_foreign(reply)
  return reply.err and {} or reply
end

local held = unless_foreign(pcall('HMGET', claim, 'last', 'seq'))
local last, seq, parts = held[1] or '', held[2] or '', {}
if seq ~= '' and seq ~= known then
  -- If the known claim is the one in flight, the caller has all parts up to the known seq.
  local grew = call('HEXISTS', claim, 'payload:' .. known) == 1
  for _, field in ipairs(call('HKEYS', claim)) do
    local part = field:match('^payload:(.+)')
    if part then
      parts[#parts + 1] = part
      parts[#parts + 1] = grew and tonumber(part) <= tonumber(known) and '' or call('HGET', claim, field)
    end
  end
end
return {last, seq, parts, unless_foreign(pcall('HGETALL', counters .. entity))}
