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
-- Cost  about 2 us an entity; the clock is looked at every 64 entities and counter-days, or after 500 of one entity.

local call, pcall = redis.call, redis.pcall
local dirty, claim, counters, ledger, aside = KEYS[1], KEYS[2], KEYS[3] .. ':', KEYS[4], KEYS[5] .. ':'
local owner, lease_ms, floor = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local entities_max, fields_max, us_max = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if not (owner and lease_ms and floor and entities_max and fields_max and us_max) then
  return redis.error_reply('BADCALL ARGV 2 to 6 must be numbers')
end

local WORK_PER_LOOK = 64 -- entities and counter-days between two looks at the clock
local PART_FIELDS = 500 -- most that is taken of one entity between two looks

-- Newer servers freeze TIME while a script runs but have os.clock (7.4); older ones, 7.0 too, have none but let TIME go
-- on. On 7.2, which has neither, the other two limits are the bound.
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
  if type(pcall('HINCRBY', ledger, 'aside', 1)) == 'table' then call('HSET', ledger, 'aside', 1) end
end

local function expect(key, kind)
  local found = call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then move_aside(key) end
end
expect(ledger, 'hash') -- first: what is moved away is booked there
expect(dirty, 'set')
expect(claim, 'hash')

local held = call('HMGET', claim, 'seq', 'owner', 'until', 'payload', 'last')
if held[1] then
  local left_ms = (tonumber(held[3] or nil) or 0) - now_ms
  if held[2] ~= owner and left_ms > 0 then return {'busy', left_ms} end
  call('HDEL', claim, 'until') -- a write Redis allows out of memory, too; after the first one it allows all
  call('HSET', claim, 'owner', owner, 'until', string.format('%.0f', now_ms + lease_ms))
  return {'again', held[1], held[4], call('SCARD', dirty)}
end

local payload, size, fields, taken = {}, 0, 0, 0
local work, look_at = 0, WORK_PER_LOOK

local function has_room()
  if taken >= entities_max or fields >= fields_max then return false end
  if work < look_at then return true end
  look_at = work + WORK_PER_LOOK
  return elapsed_us() - started_us < us_max
end

-- Moves at most PART_FIELDS of an entity's fields into the payload. Returns how many, and whether that was all; nil if the
-- key is no hash. Asked for more than there are, HRANDFIELD returns all: two commands an entity in place of three.
local function take(key)
  local most = math.min(PART_FIELDS, fields_max - fields)
  local part = pcall('HRANDFIELD', key, most, 'WITHVALUES')
  if part.err then return nil end
  local n = #part / 2
  if n < most then
    if n > 0 then call('DEL', key) end
  else
    local names = {}
    for i = 1, #part, 2 do names[#names + 1] = part[i] end
    call('HDEL', key, unpack(names))
  end
  for i = 1, #part do payload[size + i] = part[i] end
  size, fields, work = size + #part, fields + n, work + n
  return n, n < most
end

local function freeze(entity)
  local key = counters .. entity
  local head, got, all = size + 1, 0, false
  size, work = size + 2, work + 1
  repeat
    local n
    n, all = take(key)
    if not n then
      move_aside(key) -- not a hash: foreign
      all = true
    end
    got = got + (n or 0)
  until all or not has_room()
  if not all and call('EXISTS', key) == 1 then call('SADD', dirty, entity) end -- the rest is for the next batch
  if got == 0 then
    size = size - 2
    return
  end
  payload[head], payload[head + 1] = entity, got
  taken = taken + 1
end

local popped, at = {}, 0
while has_room() do
  if at == #popped then
    popped, at = call('SPOP', dirty, math.min(WORK_PER_LOOK, entities_max - taken)), 0
    if #popped == 0 then break end
  end
  at = at + 1
  freeze(popped[at])
end
if at < #popped then call('SADD', dirty, unpack(popped, at + 1)) end
if taken == 0 then return {'empty', call('SCARD', dirty)} end

local last = tonumber(held[5] or nil) or 0
local seq = string.format('%.0f', math.max(last + 1, floor + 1, now_us))
local packed = cmsgpack.pack(payload)
call('HSET', claim, 'seq', seq, 'last', seq, 'owner', owner, 'since', string.format('%.0f', now_ms),
  'until', string.format('%.0f', now_ms + lease_ms), 'entities', taken, 'payload', packed)
return {'new', seq, packed, call('SCARD', dirty)}
