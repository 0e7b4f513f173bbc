-- ingest: rate limit, dedupe, increment, mark dirty and book a whole call of events, in one round trip.
--
-- The ingest workers, a replay and `tallyd import` call it (daemon/buffer/counters.py), with the events of every
-- request that was waiting. It runs to the end or not at all:
--
--   It checks its input before the first write.
--   Over maxmemory, Redis refuses its first write, and so the whole call.
--   A foreign value under one of our keys is moved aside and booked. Of a hash, only the field that is no number is.
--
-- A call may be repeated: every event of it is then a duplicate. Only the rate limit counts its requests again.
--
-- KEYS  1 dirty     set: the entities that have live counts
--       2 ledger    hash: accepted:<counter>, duplicate:<counter>, aside
--       3 seen      hash about the dedupe memory: gen, bits and events of the current window; prev_bits of the one
--                   before. Also the prefix of its sets: <seen>:<generation>:<bucket>. They have no expiry: the flusher
--                   deletes the sets of past windows (daemon/buffer/dedupe.py)
--       4 counters  prefix of an entity's hash: <counters>:<entity>
--       5 rate      prefix of an address's window: <rate>:<address>
--       6 aside     prefix of foreign values that were moved away: <aside>:<microseconds>:<key>
--       The prefixes name no key. They must be in KEYS all the same: while a cluster moves the slot, Redis then refuses
--       the script before it runs (daemon/buffer/keys.py).
-- ARGV  1 the call, as msgpack: {effects, items}
--           effects  {{counter, field, amount, counter, field, amount, ...}, ...}. An amount is decimal text of at most
--                    15 digits, not 0: so sums of amounts stay exact
--           items    flat; per request: its address ("": not limited), its number of events n; then n times
--                    bucket hash (0 .. 2^32-1), member (signed 64-bit as decimal text), <counters>:<entity>, index of
--                    its effect
--       2 requests that an address may make in a minute, counted from its first; 0: any number
--       3 dedupe window, seconds
--       4 bits of a bucket's number in the first window; later windows never have fewer
-- Returns one integer per request: the events counted (0 .. n; the others were duplicates). Or -ms if its address is
-- over the limit, and nothing of it was counted: ms is the time until the address's window ends, at least 1.
-- Cost  per new event SADD, HINCRBY, and SADD for the first of an entity; from the second window on SISMEMBER. Per
--       duplicate one or two commands. About 1.5 us each.
--
-- Example: two requests, of one and of two events, with one effect: {{{"view", "view:2026-02-19", "1"}},
-- {"198.51.100.7", 1, 7, "42", "anl:{0}:counters:jav:movie:a", 1, "", 2, ...}}. The reply {1, 0}: the one event was
-- new, both others were duplicates.

local call, pcall = redis.call, redis.pcall
local type, format = type, string.format
local dirty, ledger, seen = KEYS[1], KEYS[2], KEYS[3]
local counters, rate, aside = KEYS[4] .. ':', KEYS[5] .. ':', KEYS[6] .. ':'

local EVENTS_PER_BUCKET = 244 -- 9.3 bytes an event; a set of integers stays an intset up to 512 members
local BITS_MAX = 28
local RATE_WINDOW_MS = 60000

local decoded = cmsgpack.unpack(ARGV[1])
local effects, items = decoded[1], decoded[2]
local rate_max, window_s, bits_min = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local function is_increment(counter, field, amount)
  return type(counter) == 'string' and type(field) == 'string' and type(amount) == 'string'
    and amount:find('^%-?[1-9]%d*$') and math.abs(tonumber(amount)) < 1e15
end

local function check()
  if not (rate_max and window_s and bits_min) then return 'ARGV 2 to 4 must be numbers' end
  if window_s < 1 then return 'the window must be a second or longer' end
  for _, effect in pairs(effects) do
    for i = 1, type(effect) == 'table' and #effect or 1, 3 do
      if not is_increment(effect[i], effect[i + 1], effect[i + 2]) then return 'an effect is malformed' end
    end
  end
  local at, last = 1, #items
  while at <= last do
    local n = items[at + 1]
    if type(items[at]) ~= 'string' or type(n) ~= 'number' or n < 0 or n % 1 ~= 0 then
      return 'a request is malformed'
    end
    for event = at + 2, at + 1 + n * 4, 4 do
      if type(items[event]) ~= 'number' or type(items[event + 1]) ~= 'string' or type(items[event + 2]) ~= 'string'
        or not effects[items[event + 3]] then
        return 'an event is malformed'
      end
    end
    at = at + 2 + n * 4
  end
end
local malformed = check()
if malformed then return redis.error_reply('BADCALL ' .. malformed) end

local time = call('TIME')
local now_s = tonumber(time[1])

local function book_aside()
  if type(pcall('HINCRBY', ledger, 'aside', 1)) == 'table' then call('HSET', ledger, 'aside', 1) end
end

-- After a failed command: moves the foreign value in its way aside and repeats the command, or fails the script. A
-- value is foreign if it has the wrong type or is no integer. Other failures (out of memory) come before the first
-- write only.
local function mend(failure, key, command, ...)
  local err, to = failure.err, aside .. time[1] .. time[2] .. ':' .. key
  local wrong_type = err:find('WRONGTYPE', 1, true)
  if not (wrong_type or err:find('not an integer', 1, true) or err:find('overflow', 1, true)) then error(err) end
  call('SETRANGE', to, 0, '') -- changes nothing; but over maxmemory Redis refuses it, and not RENAME
  if command == 'HINCRBY' and not wrong_type then -- the other fields of the hash are ours
    local field = select(2, ...)
    call('HSET', to, field, call('HGET', key, field))
    call('HDEL', key, field)
  else
    call('RENAME', key, to)
  end
  book_aside()
  return call(command, ...)
end

local function book(field, amount)
  local text = format('%.0f', amount)
  local reply = pcall('HINCRBY', ledger, field, text)
  if type(reply) == 'table' then mend(reply, ledger, 'HINCRBY', ledger, field, text) end
end

-- The whole number from 0 to max that a field holds, or nil.
local function whole(text, max)
  local number = tonumber(text or nil)
  return number and number >= 0 and number <= max and number % 1 == 0 and number or nil
end

-- The dedupe memory: this window's generation and the one before it.
local function open_window()
  local state = pcall('HMGET', seen, 'gen', 'bits', 'events', 'prev_bits')
  if state.err then state = mend(state, seen, 'HMGET', seen, 'gen', 'bits', 'events', 'prev_bits') end
  local gen_now = math.floor(now_s / window_s)
  -- If the clock went back, the generation stays. One more than a window ahead is foreign: no clock of ours was there.
  local gen, bits = whole(state[1], gen_now + 1), whole(state[2], BITS_MAX)
  if gen and bits and gen >= gen_now then return gen, bits, whole(state[4], BITS_MAX) end
  local prev_bits = gen == gen_now - 1 and bits or nil
  local events = whole(state[3], 2 ^ 53) or 0
  bits = bits_min
  while bits < BITS_MAX and events > EVENTS_PER_BUCKET * 2 ^ bits do bits = bits + 1 end
  call('HSET', seen, 'gen', gen_now, 'bits', bits, 'events', 0, 'prev_bits', prev_bits or '')
  return gen_now, bits, prev_bits
end

local asked, repeats = {}, {} -- of each address: its count so far; this call's requests beyond its first

-- Milliseconds until the address may ask again, or nil if it is within its limit.
local function over_limit(address)
  local key, count = rate .. address, asked[address]
  if count then
    count = count + 1
    repeats[address] = (repeats[address] or 0) + 1
  else
    count = pcall('INCR', key)
    if type(count) == 'table' then count = mend(count, key, 'INCR', key) end
    if count == 1 then call('PEXPIRE', key, RATE_WINDOW_MS) end
  end
  asked[address] = count
  if count <= rate_max then return nil end
  local left_ms = call('PTTL', key)
  if left_ms < 0 then -- no expiry: not written by us; give it one rather than block the address for ever
    call('PEXPIRE', key, RATE_WINDOW_MS)
    left_ms = RATE_WINDOW_MS
  end
  return math.max(left_ms, 1)
end

local gen, bits, prev_bits
local buckets, prev_buckets, this_window, prev_window
local accepted, duplicate = {}, {}

local function in_previous(hash, member)
  local key = format('%s%d', prev_window, hash % prev_buckets)
  local reply = pcall('SISMEMBER', key, member)
  if type(reply) == 'table' then reply = mend(reply, key, 'SISMEMBER', key, member) end
  return reply == 1
end

-- An amount's text -> the number it is: a call has a handful of them.
local numbers = setmetatable({}, {
  __index = function(known, text)
    known[text] = tonumber(text)
    return known[text]
  end,
})

local function mark_dirty(key)
  local entity = key:sub(#counters + 1)
  local reply = pcall('SADD', dirty, entity)
  if type(reply) == 'table' then mend(reply, dirty, 'SADD', dirty, entity) end
end

-- All ids first, then all increments: 1.02 of the events a second. Nothing can fail in between: Redis refuses no write
-- after the first, and `mend` takes foreign values out of the way.
local results, counted, fresh = {}, 0, {}
local at, last = 1, #items
while at <= last do
  local address, n = items[at], items[at + 1]
  local wait_ms = address ~= '' and rate_max > 0 and over_limit(address)
  if wait_ms then
    results[#results + 1] = -wait_ms
  else
    if n > 0 and not gen then
      gen, bits, prev_bits = open_window()
      buckets, prev_buckets = 2 ^ bits, prev_bits and 2 ^ prev_bits
      this_window = seen .. ':' .. string.format('%.0f', gen) .. ':'
      prev_window = seen .. ':' .. string.format('%.0f', gen - 1) .. ':'
    end
    local new = 0
    for event = at + 2, at + 1 + n * 4, 4 do
      local effect = items[event + 3]
      local hash, member, added = items[event], items[event + 1], 0
      if not prev_bits or not in_previous(hash, member) then
        local key = format('%s%d', this_window, hash % buckets)
        added = pcall('SADD', key, member)
        if added ~= 1 and added ~= 0 then added = mend(added, key, 'SADD', key, member) end
      end
      if added == 1 then
        accepted[effect] = (accepted[effect] or 0) + 1
        new = new + 1
        fresh[counted + new] = event
      else
        duplicate[effect] = (duplicate[effect] or 0) + 1
      end
    end
    results[#results + 1] = new
    counted = counted + new
  end
  at = at + 2 + n * 4
end
for address, more in pairs(repeats) do pcall('INCRBY', rate .. address, more) end -- fails only far beyond any limit

for number = 1, counted do
  local key, effect = items[fresh[number] + 2], effects[items[fresh[number] + 3]]
  for i = 1, #effect, 3 do
    local field, amount = effect[i + 1], effect[i + 2]
    local total = pcall('HINCRBY', key, field, amount)
    if type(total) == 'table' then total = mend(total, key, 'HINCRBY', key, field, amount) end
    -- Only a field that is new can be the hash's first. So only then the entity may not be dirty yet.
    if total == numbers[amount] then mark_dirty(key) end
  end
end

if gen then
  local sums = {}
  for name, tally in pairs({accepted = accepted, duplicate = duplicate}) do
    for index, events in pairs(tally) do
      local effect = effects[index]
      for i = 1, #effect, 3 do
        local field = name .. ':' .. effect[i]
        sums[field] = (sums[field] or 0) + events * tonumber(effect[i + 2])
      end
    end
  end
  for field, amount in pairs(sums) do book(field, amount) end
  if counted > 0 and type(pcall('HINCRBY', seen, 'events', counted)) == 'table' then
    call('HSET', seen, 'events', counted) -- it held no number; it is only an estimate
  end
end
return results
