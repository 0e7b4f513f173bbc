-- ingest: limit, dedupe, increment, mark dirty and book a whole call of events, in one round trip.
--
-- The ingest workers, a replay and `tallyd import` call it (daemon/buffer/counters.py), with the events of every
-- request that was waiting. It runs to the end or not at all:
--
--   It checks its input before the first write.
--   Over maxmemory, Redis refuses its first write, and so the whole call.
--   A foreign value under one of our keys is moved aside and booked. Of a hash, only the field that is no number is.
--
-- A call may be repeated: every event of it is then a duplicate. Only the limits charge for it again.
--
-- A limit is a budget that refills evenly (GCRA: ITU-T I.371). One number of a sender is kept: the moment at which its
-- budget is whole again. What is charged moves it ahead by a share of a minute, and never further than a minute from
-- now. daemon/ingest/accounts.py has the same formula.
--
-- KEYS  1 dirty     set: the entities that have live counts
--       2 ledger    hash: accepted:<counter>, duplicate:<counter>, aside
--       3 seen      hash about the dedupe memory: gen, bits and events of the current window; prev_bits and
--                   prev_events of the one before. Also the prefix of its sets: <seen>:<generation>:<bucket>. They
--                   have no expiry: the flusher deletes the sets of past windows (daemon/buffer/dedupe.py)
--       4 counters  prefix of an entity's hash: <counters>:<entity>
--       5 rate      prefix of a sender's budgets, strings that hold microseconds since the epoch: <rate>:<sender> of
--                   its events, <rate>:new:<sender> of its new entities. Each expires when its budget is whole. The
--                   counts that 0.2.0 kept here are moments long past
--       6 aside     prefix of foreign values that were moved away: <aside>:<microseconds>:<key>
--       7 visit     prefix of visits: <visit>:<hash of visitor, action and entity>. A string that expires when the
--                   window of the visitor's last such event ends
--       The prefixes name no key. They must be in KEYS all the same: while a cluster moves the slot, Redis then refuses
--       the script before it runs (daemon/buffer/keys.py).
-- ARGV  1 the call, as msgpack: {limits, effects, items} or {limits, effects, items, visits}
--           limits   {events, new entities, events, new entities, ...}: what a sender may send in a minute; 0: any
--                    number. An entity is new if the event marks it dirty
--           effects  {{counter, field, amount, counter, field, amount, ...}, ...}. An amount is decimal text of at most
--                    15 digits, not 0: so sums of amounts stay exact
--           items    flat; per request: its sender, where its limit begins in limits (0: it has none), its charge, and
--                    n, its number of events; then n times bucket hash (0 .. 2^32-1), member (signed 64-bit as decimal
--                    text), <counters>:<entity>, index of its effect. The charge is n, and more for what was refused
--                    before it came here. A request without events only charges
--           visits   flat; per event with a visitor: where it begins in items, the hash of its visit, the window in
--                    milliseconds, index of the effect that counts if the visit is there already. A duplicate is no
--                    visit, so a call that is repeated changes nothing
--       2 dedupe window, seconds
--       3 bits of a bucket's number in the first window; later windows never have fewer
--       4 "again" if the events of the call were all taken before, and charged then; else nothing
-- Returns per request, one of
--       new + 2 * room        a single event was taken. It was new (1) or a duplicate (0)
--       {new, k, ms, room}    of no or of several events, but the last k were taken: new ones, and duplicates. Without
--                             events: k of the charge found no room
--       {ms, room}            nothing was taken
--       room: for so many more events there is room in the sender's budget. 0 without a limit of events. ms: until
--       there is room for one event (or for one new entity), at least 1; 0 if all was taken.
--       An event is taken as long as there is room for one event (and, if its entity is not dirty, for one new entity),
--       a duplicate as well as a new one. The first that finds none ends the request. Then the rest of the charge is
--       spent, as far as there is room.
-- Cost  per new event SADD, HINCRBY, and SADD for the first of an entity; from the second window on SISMEMBER. Per
--       duplicate one or two commands. Per sender with a limit GET and PSETEX. Per event whose new entities are limited
--       SISMEMBER. About 1.5 us each.
--
-- Example: a sender may send 60 events a minute and has sent none. {{60, 0}, {{"view", "view:2026-02-19", "1"}},
-- {"198.51.100.7", 1, 1, 1, 7, "42", "anl:{0}:counters:jav:movie:a", 1, "198.51.100.7", 1, 80, 70, ...}}: a single
-- event, then a batch of 70 good events and 10 bad ones. The reply {119, {59, 11, 1000, 0}}: the one event was new and
-- left room for 59. So the first 59 of the batch were taken, and they were new. Then the budget was spent; one event
-- fits again in 1,000 ms. The key anl:{0}:rate:198.51.100.7 now holds the time of this call + 60,000,000. It expires
-- after 60,000 ms.

local call, pcall = redis.call, redis.pcall
local type, format, floor = type, string.format, math.floor
local dirty, ledger, seen = KEYS[1], KEYS[2], KEYS[3]
local counters, rate, aside, visit = KEYS[4] .. ':', KEYS[5] .. ':', KEYS[6] .. ':', KEYS[7] .. ':'

local EVENTS_PER_BUCKET = 244 -- 9.3 bytes an event; a set of integers stays an intset up to 512 members
local BITS_MAX = 28
local MINUTE_US = 60000000

local decoded = cmsgpack.unpack(ARGV[1])
local limits, effects, items, visits = decoded[1], decoded[2], decoded[3], decoded[4]
local visit_of = {} -- where an event begins in items -> where its visit begins in visits
local window_s, bits_min, again = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == 'again'

local function is_increment(counter, field, amount)
  return type(counter) == 'string' and type(field) == 'string' and type(amount) == 'string'
    and amount:find('^%-?[1-9]%d*$') and math.abs(tonumber(amount)) < 1e15
end

local function check()
  if not (window_s and bits_min) then return 'ARGV 2 and 3 must be numbers' end
  if window_s < 1 then return 'the window must be a second or longer' end
  for i = 1, #limits + #limits % 2 do
    if type(limits[i]) ~= 'number' or limits[i] < 0 then return 'a limit is malformed' end
  end
  for _, effect in pairs(effects) do
    for i = 1, type(effect) == 'table' and #effect or 1, 3 do
      if not is_increment(effect[i], effect[i + 1], effect[i + 2]) then return 'an effect is malformed' end
    end
  end
  local at, last = 1, #items
  while at <= last do
    local limit, charge, n = items[at + 1], items[at + 2], items[at + 3]
    if type(items[at]) ~= 'string'
      or limit ~= 0 and (type(limit) ~= 'number' or not limits[limit] or not limits[limit + 1])
      or type(n) ~= 'number' or n < 0 or n % 1 ~= 0
      or charge ~= n and (type(charge) ~= 'number' or charge < n or charge % 1 ~= 0) then
      return 'a request is malformed'
    end
    for event = at + 4, at + 3 + n * 4, 4 do
      if type(items[event]) ~= 'number' or type(items[event + 1]) ~= 'string' or type(items[event + 2]) ~= 'string'
        or not effects[items[event + 3]] then
        return 'an event is malformed'
      end
    end
    at = at + 4 + n * 4
  end
  for i = 1, visits and #visits or 0, 4 do
    local window_ms = visits[i + 2]
    if type(visits[i]) ~= 'number' or type(visits[i + 1]) ~= 'string' or type(window_ms) ~= 'number'
      or window_ms < 1 or window_ms % 1 ~= 0 or not effects[visits[i + 3]] then
      return 'a visit is malformed'
    end
    visit_of[visits[i]] = i
  end
end
local malformed = check()
if malformed then return redis.error_reply('BADCALL ' .. malformed) end

local time = call('TIME')
local now_s = tonumber(time[1])
local now_us = now_s * 1000000 + tonumber(time[2])

local function book_aside()
  if type(pcall('HINCRBY', ledger, 'aside', 1)) == 'table' then call('HSET', ledger, 'aside', 1) end
end

local function move_aside(key, to)
  call('SETRANGE', to, 0, '') -- changes nothing; but over maxmemory Redis refuses it, and not RENAME
  call('RENAME', key, to)
  book_aside()
end

-- After a failed command: moves the foreign value in its way aside and repeats the command, or fails the script. A
-- value is foreign if it has the wrong type or is no integer. Other failures (out of memory) come before the first
-- write only.
local function mend(failure, key, command, ...)
  local err, to = failure.err, aside .. time[1] .. time[2] .. ':' .. key
  local wrong_type = err:find('WRONGTYPE', 1, true)
  if not (wrong_type or err:find('not an integer', 1, true) or err:find('overflow', 1, true)) then error(err) end
  if command == 'HINCRBY' and not wrong_type then -- the other fields of the hash are ours
    local field = select(2, ...)
    call('HSET', to, field, call('HGET', key, field))
    call('HDEL', key, field)
    book_aside()
  else
    move_aside(key, to)
  end
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
  local gen_now = floor(now_s / window_s)
  -- If the clock went back, the generation stays. One more than a window ahead is foreign: no clock of ours was there.
  local gen, bits = whole(state[1], gen_now + 1), whole(state[2], BITS_MAX)
  if gen and bits and gen >= gen_now then return gen, bits, whole(state[4], BITS_MAX) end
  local prev_bits = gen == gen_now - 1 and bits or nil
  local events = whole(state[3], 2 ^ 53) or 0
  bits = bits_min
  while bits < BITS_MAX and events > EVENTS_PER_BUCKET * 2 ^ bits do bits = bits + 1 end
  call('HSET', seen, 'gen', gen_now, 'bits', bits, 'events', 0, 'prev_bits', prev_bits or '',
    'prev_events', prev_bits and events or 0)
  return gen_now, bits, prev_bits
end

local budgets = {} -- key -> microseconds until the budget is whole again

-- How many fit into the budget now.
local function room(key, per_minute)
  local us = budgets[key]
  if not us then
    local text = pcall('GET', key)
    if type(text) == 'table' then text = mend(text, key, 'GET', key) end
    if text and not text:find('^%d+$') then
      move_aside(key, aside .. time[1] .. time[2] .. ':' .. key)
      text = nil
    end
    -- No number of ours is more than a minute ahead, unless the clock went back.
    us = text and math.min(math.max(tonumber(text) - now_us, 0), MINUTE_US) or 0
    budgets[key] = us
  end
  return floor((MINUTE_US - us) * per_minute / MINUTE_US + 1e-4) -- the small part: shares are not exact
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

-- Whether the visitor did the same lately. In any case, it did now.
local function repeats(visit_at)
  local key = visit .. visits[visit_at + 1]
  local before = pcall('SET', key, '1', 'PX', visits[visit_at + 2], 'GET')
  if type(before) == 'table' then before = mend(before, key, 'SET', key, '1', 'PX', visits[visit_at + 2], 'GET') end
  return before
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

-- A user who may not read a budget is refused before the first SADD: else its events would be known and never counted.
-- If the first request has a limit of events, that is read first anyway.
if limits[1] and not again and (limits[items[2]] or 0) == 0 then
  local readable = pcall('GET', rate)
  if type(readable) == 'table' and not readable.err:find('WRONGTYPE', 1, true) then return readable end
end

-- All ids first, then all increments: 1.02 of the events a second. Nothing can fail in between: Redis refuses no write
-- after the first, and `mend` takes foreign values out of the way.
local results, counted, fresh = {}, 0, {}
local marked = {} -- entities that will be dirty once this call is over, where new ones are limited
local at, last = 1, #items
while at <= last do
  local limit, charge, n = items[at + 1], items[at + 2], items[at + 3]
  local taken, left, key, events_max, new_key, new_max, full, full_max = n, 0, nil, nil, nil, nil, nil, nil
  if limit > 0 and not again then
    events_max, new_max = limits[limit], limits[limit + 1]
    if events_max > 0 then
      key = rate .. items[at]
      left, full, full_max = room(key, events_max), key, events_max
      if left < n then taken = left end
    end
    if new_max > 0 then new_key = rate .. 'new:' .. items[at] end
  end
  if taken > 0 and not gen then
    gen, bits, prev_bits = open_window()
    buckets, prev_buckets = 2 ^ bits, prev_bits and 2 ^ prev_bits
    this_window = seen .. ':' .. string.format('%.0f', gen) .. ':'
    prev_window = seen .. ':' .. string.format('%.0f', gen - 1) .. ':'
  end
  local new = 0
  for event = at + 4, at + 3 + taken * 4, 4 do
    local effect = items[event + 3]
    local hash, member, added = items[event], items[event + 1], 0
    local first_of -- the entity that this event marks dirty, if new entities are limited
    if new_key and not marked[items[event + 2]] then
      local entity = items[event + 2]:sub(#counters + 1)
      local is_dirty = pcall('SISMEMBER', dirty, entity)
      if type(is_dirty) == 'table' then is_dirty = mend(is_dirty, dirty, 'SISMEMBER', dirty, entity) end
      if is_dirty == 0 then
        if room(new_key, new_max) < 1 then
          taken, full, full_max = (event - at - 4) / 4, new_key, new_max
          break
        end
        first_of = items[event + 2]
      end
    end
    if not prev_bits or not in_previous(hash, member) then
      local bucket = format('%s%d', this_window, hash % buckets)
      added = pcall('SADD', bucket, member)
      if added ~= 1 and added ~= 0 then added = mend(added, bucket, 'SADD', bucket, member) end
    end
    if added == 1 then
      local visit_at = visit_of[event]
      if visit_at and repeats(visit_at) then
        effect = visits[visit_at + 3]
        items[event + 3] = effect
      end
      accepted[effect] = (accepted[effect] or 0) + 1
      new = new + 1
      fresh[counted + new] = event
      if first_of then
        marked[first_of] = true
        budgets[new_key] = budgets[new_key] + MINUTE_US / new_max
      end
    else
      duplicate[effect] = (duplicate[effect] or 0) + 1
    end
  end
  counted = counted + new
  local missing = n - taken
  if key then
    local spent = math.min(charge - missing, left)
    if n == 0 then missing = charge - spent end
    left = left - spent
    if spent > 0 then budgets[key] = math.min(budgets[key] + spent * MINUTE_US / events_max, MINUTE_US) end
  end
  if missing == 0 then
    results[#results + 1] = n == 1 and new + 2 * left or {new, 0, 0, left}
  else
    local ms = math.max(1, math.ceil((MINUTE_US / full_max - MINUTE_US + budgets[full]) / 1000)) -- until one fits
    results[#results + 1] = missing == (n > 0 and n or charge) and {ms, left} or {new, missing, ms, left}
  end
  at = at + 4 + n * 4
end
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
-- Last: if it is refused, the events are counted all the same.
for key, us in pairs(budgets) do
  if us >= 1 then call('PSETEX', key, format('%d', math.ceil(us / 1000)), format('%d', floor(now_us + us))) end
end
return results
