-- amend: account for a claim of the journal that this Redis forgot, in one step.
--
-- The flusher calls it (daemon/flush/drain.py), once MongoDB holds every document of the claim. Redis came back as it
-- was before the claim was frozen or acknowledged: restarted without its last second, or a replica took over. What the
-- claim moved is live here again, or in flight. It is taken off once more, so it is not written a second time.
--
-- Events that this Redis forgot leave a negative live amount. It is filled up when their workers send them again. If
-- nobody does, the next claim takes them off the rollups: an event counts exactly if its id is known here.
--
-- Only the claim after `acked` is amended. So a repeated call changes nothing, and none is left out.
--
-- KEYS  1 dirty     set: the entities that have live counts
--       2 claim     hash: see claim.lua
--       3 counters  prefix of an entity's hash: <counters>:<entity>
--       4 ledger    hash: flushed:<counter>, dead:<counter>, aside
--       5 due       sorted set: entities whose MySQL row must be set, scored by the seq that made them due
--       6 aside     prefix of foreign values that were moved away: <aside>:<microseconds>:<key>
-- ARGV  1 acked   the claim before it in the journal: the last one that this Redis has accounted for
--       2 seq     of the claim. 3 its nonce
--       4 nonce   for another claim that is in flight, which gets a new name: never used before
--       5 booked  msgpack: {field, amount, ...}, amounts as decimal text
--       6 due     msgpack: {entity, ...}, the entities that became due
--       7, ...    the parts of the claim, as claim.lua froze them. None: what is live and in flight stays as it is
-- Returns 1; or 0, if Redis has accounted for another claim
-- Cost  about 2 us a counter-day: 40 ms for the largest claim. It is called once for a claim that was forgotten.
--
-- Example: claim 80 took 5 views of m and was acknowledged. Redis comes back with acked 70 and 3 live views of m, not
-- knowing the last two. The call leaves -2 live views and acked 80. The two come again: nothing of m is live.

local call, pcall = redis.call, redis.pcall
local dirty, claim, counters, ledger, due = KEYS[1], KEYS[2], KEYS[3] .. ':', KEYS[4], KEYS[5]
local aside, seq, nonce, new_nonce = KEYS[6] .. ':', ARGV[2], ARGV[3], ARGV[4]
local booked, became_due = cmsgpack.unpack(ARGV[5]), cmsgpack.unpack(ARGV[6])
local time = call('TIME')

local held = call('HMGET', claim, 'seq', 'nonce', 'open', 'last', 'acked')
local in_flight, last = held[1], tonumber(held[4] or nil) or 0
local acked = in_flight and (tonumber(held[5] or nil) or 0) or last
if acked ~= tonumber(ARGV[1]) then return 0 end

-- Runs a command. If a foreign value is in its way (a key, or one field of a hash), moves that aside and runs it again.
local function guarded(command, key, ...)
  local reply = pcall(command, key, ...)
  if type(reply) ~= 'table' then return reply end
  local to, field = aside .. time[1] .. time[2] .. ':' .. key, ...
  if reply.err:find('WRONGTYPE', 1, true) then
    call('RENAME', key, to)
  elseif reply.err:find('hash value', 1, true) or reply.err:find('overflow', 1, true) then
    call('HSET', to, field, call('HGET', key, field))
    call('HDEL', key, field)
  end
  if type(pcall('HINCRBY', ledger, 'aside', 1)) == 'table' then call('HSET', ledger, 'aside', 1) end
  return pcall(command, key, ...)
end

local function negated(amount)
  return amount:sub(1, 1) == '-' and amount:sub(2) or '-' .. amount
end

local function take_off(payload)
  local flat, at = cmsgpack.unpack(payload), 1
  while at < #flat do
    local entity, n = flat[at], flat[at + 1]
    local key = counters .. entity
    for i = at + 2, at + 2 * n, 2 do
      local field, amount = flat[i], flat[i + 1]
      if not amount:find('^%-?%d+$') then -- no amount: a dead letter has it
        local found = pcall('HGET', key, field)
        if found == amount then call('HDEL', key, field) end
      elseif guarded('HINCRBY', key, field, negated(amount)) == 0 then
        call('HDEL', key, field)
      end
    end
    guarded(call('EXISTS', key) == 1 and 'SADD' or 'SREM', dirty, entity)
    at = at + 2 + 2 * n
  end
end

-- Over maxmemory, Redis refuses a script at its first write or not at all. It accepts this one, which changes nothing.
call('HDEL', claim, '')
local is_it = in_flight == seq and held[3] ~= '1' and (held[2] or '') == nonce
if is_it then
  call('DEL', claim)
else
  for i = 7, #ARGV do take_off(ARGV[i]) end
end
if in_flight and not is_it then
  -- It is not in the journal. Its content may be written there under its name, behind the claim before this one.
  local renamed = string.format('%.0f', math.max(last + 1, tonumber(seq) + 1, time[1] * 1e6 + time[2]))
  call('HSET', claim, 'acked', seq, 'seq', renamed, 'nonce', new_nonce, 'last', renamed)
else
  call('HSET', claim, 'last', seq, 'acked_at', time[1])
end
for i = 1, #booked, 2 do guarded('HINCRBY', ledger, booked[i], booked[i + 1]) end
for i = 1, #became_due do guarded('ZADD', due, seq, became_due[i]) end
return 1
