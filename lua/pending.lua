-- pending: return what Redis holds of one entity at one moment, live and in flight.
--
-- Reads that must be exact call it (daemon/buffer/pending.py). It writes nothing. A part of a claim never changes, so
-- each caller gets each part once, and looks entities up in it by itself. To find one here would take Redis 0.5 ms each
-- time (1,300 entities; 4 ms for 5,000).
--
-- KEYS  1 claim     hash: see claim.lua
--       2 counters  prefix of an entity's hash: <counters>:<entity>
-- ARGV  1 entity
--       2 known     the seq of a claim, or of its last part, all of whose parts up to there the caller has; "": of none
--       3 fields    the most live counts that are read
--       4 bytes     of payloads, the most that one call returns, the last payload apart
-- Returns {'whole', acked, seq, {part, payload, ...}, fields}
--           acked    the last claim that is accounted for, "" if there is none: whose counts are not live here any more
--           seq      of the claim in flight, open or sealed; "" if there is none
--           payload  of each part of it, in the order they were frozen in; "" for a part that the caller has. No parts
--                    at all if seq is `known`
--           fields   live amounts, flat: field, amount (decimal text)
--         {'more', {part, payload, ...}}: the first parts that the caller lacks. It asks again; the last one is `known`
--         {'large', number of live counts}: they are more than `fields`, and nothing was read
-- Cost  under 1.5 us a field of the entity; 0.1 ms for a payload of 1,000 entities that is returned. The limits are
--       held against HLEN and HSTRLEN before anything is read.
--
-- Example: the caller knows seq 80, of the parts 70 and 80. The claim has grown by part 90. It gets
-- {'whole', 60, 90, {70, "", 80, "", 90, payload}, fields}.

local call, pcall = redis.call, redis.pcall
local claim, counters, entity, known = KEYS[1], KEYS[2] .. ':' .. (ARGV[1] or ''), ARGV[1], ARGV[2]
local fields_max, bytes_max = tonumber(ARGV[3]), tonumber(ARGV[4])
if not (entity and known and fields_max and bytes_max) then
  return redis.error_reply('BADCALL ARGV must be an entity, a seq and two limits')
end

-- A foreign value under one of our keys is read as nothing. The next claim moves it aside.
local function unless_foreign(reply)
  return reply.err and {} or reply
end

local fields = pcall('HLEN', counters)
if type(fields) == 'number' and fields > fields_max then return {'large', fields} end

local held = unless_foreign(pcall('HMGET', claim, 'last', 'seq', 'acked'))
local seq, parts = held[2] or '', {}
local acked = (seq == '' and held[1] or held[3]) or ''
if seq ~= '' and seq ~= known then
  -- If the known part is one of the claim in flight, the caller has all parts up to it.
  local grew = call('HEXISTS', claim, 'payload:' .. known) == 1
  local names = {}
  for _, field in ipairs(call('HKEYS', claim)) do
    local part = field:match('^payload:(%d+)$')
    if part then names[#names + 1] = part end
  end
  table.sort(names, function(a, b) return tonumber(a) < tonumber(b) end)
  local bytes, new = 0, {}
  for _, part in ipairs(names) do
    local has = grew and tonumber(part) <= tonumber(known)
    if not has then
      if bytes > bytes_max then return {'more', new} end
      bytes = bytes + call('HSTRLEN', claim, 'payload:' .. part)
      new[#new + 1] = part
      new[#new + 1] = call('HGET', claim, 'payload:' .. part)
    end
    parts[#parts + 1] = part
    parts[#parts + 1] = has and '' or new[#new]
  end
end
return {'whole', acked, seq, parts, unless_foreign(pcall('HGETALL', counters))}
