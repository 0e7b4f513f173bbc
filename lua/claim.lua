-- claim: freeze live counts into a claim, one part a call, and hand the claim out once it is whole.
--
-- The flusher calls it (daemon/buffer/counters.py), again and again while it answers 'more'. So each call is short, and
-- events are counted in between. At most one claim of a shard is in flight. It is open while it may grow, then sealed.
--
-- Why nothing is lost or counted twice:
--
--   A seq names one content, for ever. Each part that is frozen gives the claim a new seq, above all before.
--   Only a sealed claim is handed out, and a sealed claim never grows. Until `ack` forgets it, every call returns the
--   same parts under the same seq. So every flusher that applies it applies the same amounts.
--   An open claim belongs to no flusher for good. If its flusher dies, the first call after the lease goes on with it.
--   Sealing a claim gives it a new seq, too. So no document holds the seq of an open claim, even if Redis comes back
--   with an older state of it.
--   An entity that is taken out of the dirty set has its counts in a part, or still in its hash: never in neither or in
--   both. If some of them stay in the hash, it stays dirty. Counted again, it may also be in a later part of the claim.
--
-- MongoDB keeps a journal of claims (daemon/rollups/journal.py). The last one in it is the floor. Redis knows the last
-- one that it has accounted for: whose counts are no longer live here. If these differ, one of the two came back older.
-- So this is where that is met, before anything is frozen. A Redis that is behind is amended (amend.lua).
--
-- Example: at 100 the first call freezes part 100, of the entities a and b, and answers 'more'. An event for a is
-- counted. At 250 the second call freezes part 250, of a and c, and finds nothing more. The claim is sealed under seq
-- 250: a is in two parts, and the rollup adds them up.
--
-- KEYS  1 dirty     set: the entities that have live counts
--       2 claim     hash, of the claim in flight: seq; nonce, a text that no other claim has; owner; since, until
--                   (ms); entities and fields (counter-days) so far; open (1: it may grow); payload:<part> for each
--                   part, named by the seq it was frozen under; acked: the last claim that is accounted for. Kept after
--                   the ack: last, the seq last given, which is accounted for then; acked_at (s)
--       3 counters  prefix of an entity's hash: <counters>:<entity>. Each field is a counter-day, `<counter>:<day>`, or
--                   in a domain with hours `<counter>:<day>T<hour>`. Both take one of ARGV 5: a claim of a domain with
--                   hours holds as many fields as any other, so fewer entities if theirs lie in several hours
--       4 ledger    hash: aside
--       5 aside     prefix of foreign values that were moved away: <aside>:<microseconds>:<key>
-- ARGV  1 owner         who asks: unique to a process
--       2 lease, ms     how long the claim is the owner's alone, from each call on
--       3 floor         the seq of the last claim in the journal; 0: there is none. 4 its nonce; "": an older version
--                       made it the floor, and any claim of that seq is it
--       5 entities, 6 counter-days   the most that the whole claim may hold
--       7 microseconds  after which this call stops
--       8 nonce         of the claim, if this call gives it a seq: never used before
-- Returns {'behind', acked, seq, nonce}: the journal holds claims above the last one that this Redis has accounted for
--           ("0": none). The claim in flight is not the last of them. seq and nonce are its own, if it is sealed
--         {'ahead', acked}: this Redis has accounted for a claim above the floor
--         {'empty', entities left dirty}
--         {'busy', ms left of another owner's lease}
--         {'more', part, payload, entities left dirty}: the time was up, ask again
--         {'new', seq, payload, entities left dirty, acked, nonce, {part, ...}}: sealed, and its parts in any order. A
--           caller that was not handed all of them, one by one, asks again
--         {'again', seq, {part, payload, ...}, entities left dirty, acked, nonce}: sealed before
--         The last three end with the owner that the claim was taken over from, if its lease ran out in this call
--   payload  msgpack, flat: per entity its key, its number of pairs n, then n times field, amount (decimal text); "" if
--            this call found nothing to freeze
-- Cost  about 2 us an entity. The call looks at the clock after the first one, then after every 16 entities and
--       counter-days, or after 250 counter-days of one entity.

local call, pcall = redis.call, redis.pcall
local dirty, claim, counters, ledger, aside = KEYS[1], KEYS[2], KEYS[3] .. ':', KEYS[4], KEYS[5] .. ':'
local owner, lease_ms, floor = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local floor_nonce, nonce = ARGV[4], ARGV[8]
local entities_max, fields_max, us_max = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
if not (owner and lease_ms and floor and entities_max and fields_max and us_max and nonce) then
  return redis.error_reply('BADCALL ARGV 2, 3, 5, 6 and 7 must be numbers, and 4 and 8 texts')
end

local WORK_PER_LOOK = 16 -- entities and counter-days between two looks at the clock
local FIELDS_PER_LOOK = 250 -- most that is taken of one entity between two looks

-- Redis 7.4 and later freeze TIME while a script runs, but have os.clock. Up to 7.0 there is no os.clock, but TIME goes
-- on. 7.2 has neither: there, the limits of entities and counter-days are the bound.
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
expect(ledger, 'hash') -- first: the others are booked there
expect(dirty, 'set')
expect(claim, 'hash')

local held = call('HMGET', claim, 'seq', 'owner', 'until', 'open', 'last', 'entities', 'fields', 'acked', 'nonce')
local seq, is_open, taken_from = held[1], held[1] and held[4] == '1', nil
local last = tonumber(held[5] or nil) or 0
local acked = seq and (tonumber(held[8] or nil) or 0) or last
local acked_text = string.format('%.0f', acked)
if acked > floor then return {'ahead', acked_text} end
-- While its documents are written, the claim in flight is the last one in the journal.
local is_floor = seq and not is_open and tonumber(seq) == floor and (floor_nonce == '' or held[9] == floor_nonce)
if acked < floor and not is_floor then
  if seq and not is_open then return {'behind', acked_text, seq, held[9] or ''} end
  return {'behind', acked_text}
end
local until_ms = string.format('%.0f', now_ms + lease_ms)

local function names()
  local found = {}
  for _, field in ipairs(call('HKEYS', claim)) do found[#found + 1] = field:match('^payload:(.+)') end
  return found
end

local function parts()
  local found = {}
  for _, part in ipairs(names()) do
    found[#found + 1] = part
    found[#found + 1] = call('HGET', claim, 'payload:' .. part)
  end
  return found
end

if seq then
  local left_ms = (tonumber(held[3] or nil) or 0) - now_ms
  if held[2] ~= owner and left_ms > 0 then return {'busy', left_ms} end
  -- Over maxmemory, Redis refuses a script at its first write or not at all. It accepts HDEL.
  call('HDEL', claim, 'until')
  call('HSET', claim, 'owner', owner, 'until', until_ms)
  if held[2] and held[2] ~= owner then taken_from = held[2] end
  if not is_open then return {'again', seq, parts(), call('SCARD', dirty), acked_text, held[9] or '', taken_from} end
end

local payload, size = {}, 0
local taken, fields = is_open and tonumber(held[6]) or 0, is_open and tonumber(held[7]) or 0
local work, look_at, time_is_up = 0, 1, false

local function has_room()
  if taken >= entities_max or fields >= fields_max then return false end
  if work >= look_at then
    look_at = work + WORK_PER_LOOK
    time_is_up = elapsed_us() - started_us >= us_max
  end
  return not time_is_up
end

-- Moves at most FIELDS_PER_LOOK of an entity's fields into the payload. Returns how many, and whether that was all; or
-- nil if the key is no hash. HRANDFIELD returns all fields if asked for more: so an entity takes two commands, not
-- three.
local function take(key)
  local most = math.min(FIELDS_PER_LOOK, fields_max - fields)
  local found = pcall('HRANDFIELD', key, most, 'WITHVALUES')
  if found.err then return nil end
  local n = #found / 2
  if n < most then
    if n > 0 then call('DEL', key) end
  else
    local moved = {}
    for i = 1, #found, 2 do moved[#moved + 1] = found[i] end
    call('HDEL', key, unpack(moved))
  end
  for i = 1, #found do payload[size + i] = found[i] end
  size, fields, work = size + #found, fields + n, work + n
  return n, n < most
end

local function freeze(entity)
  local key = counters .. entity
  local head, got, all = size + 1, 0
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
  if not all and call('EXISTS', key) == 1 then call('SADD', dirty, entity) end -- the rest is for the next call
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
local left = call('SCARD', dirty)
if size == 0 and not is_open then return {'empty', left} end

local more, packed = time_is_up and left > 0, size > 0 and cmsgpack.pack(payload) or ''
if not is_open then call('HSET', claim, 'since', string.format('%.0f', now_ms), 'acked', acked_text) end
if size > 0 or not more then
  seq = string.format('%.0f', math.max(last + 1, floor + 1, now_us))
  call('HSET', claim, 'seq', seq, 'nonce', nonce, 'last', seq)
end
if size > 0 then call('HSET', claim, 'payload:' .. seq, packed) end
call('HSET', claim, 'owner', owner, 'until', until_ms, 'entities', taken, 'fields', fields, 'open', more and 1 or 0)
if more then return {'more', seq, packed, left, taken_from} end
return {'new', seq, packed, left, acked_text, nonce, names(), taken_from}
