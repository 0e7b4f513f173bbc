-- claim: freeze what is live into a batch, one part a call, and hand the batch out once it is whole.
--
-- Called by the flusher (daemon/buffer/counters.py), again and again while it answers 'more': each call is short, and
-- whoever counts gets in between. At most one batch of a shard is in flight. It is open while it may grow, then sealed.
--
--   A seq names one content, for ever. Each part that is frozen gives the batch a seq of its own, above all before.
--   Only a sealed batch is handed out, and a sealed one never grows: until `ack` forgets it, every claim returns the
--   same parts under the same seq, so that whoever applies it applies the same thing.
--
-- So an open batch belongs to nobody: its flusher may die, and whoever asks after the lease goes on with it. No document
-- holds the seq of an open batch that grew later; nor does one if Redis comes back with an older state of its own.
-- An entity taken out of the dirty set has its counts in a part or still in its hash, never in neither or in both: if
-- some of them stay behind, it stays dirty. Counted again, it may be frozen again, into a later part of the same batch.
--
-- KEYS  1 dirty     set of the entities that have live counts
--       2 claim     hash of the batch in flight: seq; owner, since, until (ms); entities and fields (counter-days) so
--                   far; open (1: it may grow); payload:<part> for each part, which is named by the seq it was frozen
--                   under. last: the seq last given, acked_at (s), both kept. A batch with a `payload` and no more was
--                   frozen by an earlier release: sealed, one part
--       3 counters  prefix of an entity's hash      <counters>:<entity>
--       4 ledger    hash: aside
--       5 aside     prefix of what was moved away   <aside>:<microseconds>:<key>
-- ARGV  1 owner      who asks: unique to a process
--       2 lease, ms  how long the batch is the owner's alone, from each call on
--       3 floor      the highest seq ever applied, as MongoDB knows it; a Redis that lost its memory starts above it
--       4 entities, 5 counter-days of the whole batch, 6 microseconds of this call to stop at
-- Returns {'empty', entities left dirty}
--         {'busy', ms left of another owner's lease}
--         {'more', part, payload, entities left dirty}: the time was up; ask again
--         {'new', part, payload, entities left dirty, {part, ...}}: sealed, and which parts it has, in any order. Who was
--           not handed all of them, one by one, asks again
--         {'again', seq, {part, payload, ...}, entities left dirty}: sealed before, the parts in any order
--   payload as msgpack: flat; per entity its key, its number of pairs n, then n times field, amount (decimal text); "" if
--           this call found nothing to freeze
-- Cost  about 2 us an entity; the clock is looked at after the first, then every 16 entities and counter-days, or after
--       250 of one entity.

local call, pcall = redis.call, redis.pcall
local dirty, claim, counters, ledger, aside = KEYS[1], KEYS[2], KEYS[3] .. ':', KEYS[4], KEYS[5] .. ':'
local owner, lease_ms, floor = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local entities_max, fields_max, us_max = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if not (owner and lease_ms and floor and entities_max and fields_max and us_max) then
  return redis.error_reply('BADCALL ARGV 2 to 6 must be numbers')
end

local WORK_PER_LOOK = 16 -- entities and counter-days between two looks at the clock
local FIELDS_PER_LOOK = 250 -- most that is taken of one entity between two looks

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

local held = call('HMGET', claim, 'seq', 'owner', 'until', 'open', 'last', 'entities', 'fields')
local seq, is_open = held[1], held[1] and held[4] == '1'
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
  local only = call('HGET', claim, 'payload')
  return only and {seq, only} or found
end

if seq then
  local left_ms = (tonumber(held[3] or nil) or 0) - now_ms
  if held[2] ~= owner and left_ms > 0 then return {'busy', left_ms} end
  call('HDEL', claim, 'until') -- a write Redis allows out of memory, too; after the first one it allows all
  call('HSET', claim, 'owner', owner, 'until', until_ms)
  if not is_open then return {'again', seq, parts(), call('SCARD', dirty)} end
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

-- Moves at most FIELDS_PER_LOOK of an entity's fields into the payload. Returns how many, and whether that was all; nil if
-- the key is no hash. Asked for more than there are, HRANDFIELD returns all: two commands an entity in place of three.
local function take(key)
  local most = math.min(FIELDS_PER_LOOK, fields_max - fields)
  local found = pcall('HRANDFIELD', key, most, 'WITHVALUES')
  if found.err then return nil end
  local n = #found / 2
  if n < most then
    if n > 0 then call('DEL', key) end
  else
    local names = {}
    for i = 1, #found, 2 do names[#names + 1] = found[i] end
    call('HDEL', key, unpack(names))
  end
  for i = 1, #found do payload[size + i] = found[i] end
  size, fields, work = size + #found, fields + n, work + n
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
if size > 0 then
  seq = string.format('%.0f', math.max((tonumber(held[5] or nil) or 0) + 1, floor + 1, now_us))
  if not is_open then call('HSET', claim, 'since', string.format('%.0f', now_ms)) end
  call('HSET', claim, 'seq', seq, 'last', seq, 'owner', owner, 'until', until_ms, 'entities', taken, 'fields', fields,
    'payload:' .. seq, packed)
end
call('HSET', claim, 'open', more and 1 or 0)
if more then return {'more', seq, packed, left} end
return {'new', seq, packed, left, names()}
