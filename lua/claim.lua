-- claim: hand out the batch in flight again, or freeze a new one.
--
-- Called by the flusher (daemon/buffer/counters.py). At most one batch of a shard is in flight; until `ack` forgets it,
-- every claim returns the same payload under the same seq, so that whoever applies it applies the same thing. An entity
-- taken out of the dirty set has its counts in the payload or still in its hash, never in neither or in both: if a part
-- of them stays behind, the entity stays dirty.
--
-- KEYS  1 dirty     set of the entities that have live counts
--       2 claim     hash: seq, owner, since, until (ms), entities, payload of the batch in flight; last: the seq last
--                   given, acked_at (s), both kept
--       3 counters  prefix of an entity's hash      <counters>:<entity>
--       4 ledger    hash: aside
--       5 aside     prefix of what was moved away   <aside>:<microseconds>:<key>
-- ARGV  1 owner      who asks: unique to a process
--       2 lease, ms  how long the batch is the owner's alone
--       3 floor      the highest seq ever applied, as MongoDB knows it; a Redis that lost its memory starts above it
--       4 entities, 5 counter-days, 6 microseconds to stop at
-- Returns {'empty', entities left dirty}
--         {'busy', ms left of another owner's lease}
--         {'again' | 'new', seq, payload, entities left dirty}
--   payload as msgpack: flat; per entity its key, its number of pairs n, then n times field, amount (decimal text)
-- Cost  about 2.5 us an entity; stops at ARGV 6, looked at every 64 entities.

local call, pcall = redis.call, redis.pcall
local dirty, claim, counters, ledger, aside = KEYS[1], KEYS[2], KEYS[3] .. ':', KEYS[4], KEYS[5] .. ':'
local owner, lease_ms, floor = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local entities_max, fields_max, us_max = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if not (owner and lease_ms and floor and entities_max and fields_max and us_max) then
  return redis.error_reply('BADCALL ARGV 2 to 6 must be numbers')
end

local ENTITIES_PER_LOOK = 64

-- Newer servers freeze TIME while a script runs but have os.clock; older ones have no `os` but let TIME go on.
local clock_of = rawget(_G, 'os')
local function elapsed_us()
  if clock_of then return clock_of.clock() * 1e6 end
  local now = call('TIME')
  return now[1] * 1e6 + now[2]
end
local started_us = elapsed_us()

local time = call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])

local function move_aside(key)
  call('RENAME', key, aside .. time[1] .. time[2] .. ':' .. key)
  call('HINCRBY', ledger, 'aside', 1)
end
for key, kind in pairs({[dirty] = 'set', [claim] = 'hash'}) do
  local found = call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then move_aside(key) end
end

local held = call('HMGET', claim, 'seq', 'owner', 'until', 'payload', 'last')
if held[1] then
  local left_ms = (tonumber(held[3] or nil) or 0) - now_ms
  if held[2] ~= owner and left_ms > 0 then return {'busy', left_ms} end
  call('HSET', claim, 'owner', owner, 'until', string.format('%.0f', now_ms + lease_ms))
  return {'again', held[1], held[4], call('SCARD', dirty)}
end

local payload, size, fields, taken = {}, 0, 0, 0

local function take(entity, pairs_flat, n)
  payload[size + 1], payload[size + 2] = entity, n
  size = size + 2
  for i = 1, n * 2 do payload[size + i] = pairs_flat[i] end
  size = size + n * 2
  fields, taken = fields + n, taken + 1
end

local function freeze(entity)
  local key = counters .. entity
  local n = pcall('HLEN', key)
  if type(n) == 'table' then -- not a hash: foreign
    move_aside(key)
  elseif n > fields_max then -- too much for one batch: a part of it, and the rest stays dirty
    local part = call('HRANDFIELD', key, fields_max, 'WITHVALUES')
    for i = 1, #part, 2 do call('HDEL', key, part[i]) end
    call('SADD', dirty, entity)
    take(entity, part, #part / 2)
  elseif n > 0 then
    local all = call('HGETALL', key)
    call('DEL', key)
    take(entity, all, n)
  end
end

while taken < entities_max and fields < fields_max and elapsed_us() - started_us < us_max do
  local popped = call('SPOP', dirty, math.min(ENTITIES_PER_LOOK, entities_max - taken))
  if #popped == 0 then break end
  for i = 1, #popped do freeze(popped[i]) end
end
if taken == 0 then return {'empty', call('SCARD', dirty)} end

local last = tonumber(held[5] or nil) or 0
local seq = string.format('%.0f', math.max(last + 1, floor + 1, now_us))
local packed = cmsgpack.pack(payload)
call('HSET', claim, 'seq', seq, 'last', seq, 'owner', owner, 'since', string.format('%.0f', now_ms),
  'until', string.format('%.0f', now_ms + lease_ms), 'entities', taken, 'payload', packed)
return {'new', seq, packed, call('SCARD', dirty)}
