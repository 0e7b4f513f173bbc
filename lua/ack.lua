-- ack: forget the claim in flight, and book what it moved, in one step.
--
-- The flusher calls it (daemon/buffer/counters.py) once MongoDB holds every document of the claim. Only the claim with
-- this seq and nonce is forgotten, and only if Redis has accounted for the one before it. So a late or repeated ack
-- changes nothing: also in a Redis that came back older, and gave the same seq to other counts.
--
-- If many entities became due, several calls list them, to keep each call short. All but the last call only list.
-- MongoDB holds the claim by then, so a listed entity may be synced at once. If the last call never comes, the claim
-- stays in flight, and the next flusher lists all entities again. At worst a row is set twice to the same total.
--
-- KEYS  1 claim   hash: see claim.lua; the ack keeps `last` and sets `acked_at`
--       2 due     sorted set: entities whose MySQL row must be set, scored by the seq that made them due
--       3 ledger  hash: flushed:<counter>, dead:<counter>, aside
--       4 aside   prefix of foreign values that were moved away: <aside>:<microseconds>:<key>
-- ARGV  1 seq     of the claim. 2 its nonce
--       3 acked   the claim before it in the journal, "0" if there is none
--       4 booked  msgpack: {field, amount, ...}, amounts as decimal text
--       5 due     msgpack: {entity, ...}, the entities that became due
--       6 "more" if this call only lists entities, and another follows; else ""
-- Returns 1; or 0 if the claim is not in flight (any more)
-- Cost  under 1 us an entity that became due.

local call, pcall = redis.call, redis.pcall
local claim, due, ledger, aside, seq = KEYS[1], KEYS[2], KEYS[3], KEYS[4] .. ':', ARGV[1]
local nonce, acked, booked, became_due = ARGV[2], tonumber(ARGV[3]), cmsgpack.unpack(ARGV[4]), cmsgpack.unpack(ARGV[5])

if type(booked) ~= 'table' or type(became_due) ~= 'table' then
  return redis.error_reply('BADCALL ARGV 4 and 5 must be lists')
end

local held = call('HMGET', claim, 'seq', 'nonce', 'acked')
if held[1] ~= seq or (held[2] or '') ~= nonce or (tonumber(held[3] or nil) or 0) ~= acked then return 0 end
local time = call('TIME')

-- Runs a command. If a foreign value is in its way (a key, or one field of a hash), moves that aside and runs it again:
-- else the claim would stay in flight for ever. A sum beyond 64 bits is moved aside, too: only foreign values reach it.
local function guarded(command, key, ...)
  local reply = pcall(command, key, ...)
  if type(reply) ~= 'table' then return end
  local to, field = aside .. time[1] .. time[2] .. ':' .. key, ...
  if reply.err:find('WRONGTYPE', 1, true) then
    call('RENAME', key, to)
  elseif reply.err:find('hash value', 1, true) or reply.err:find('overflow', 1, true) then
    call('HSET', to, field, call('HGET', key, field))
    call('HDEL', key, field)
  end
  if type(pcall('HINCRBY', ledger, 'aside', 1)) == 'table' then call('HSET', ledger, 'aside', 1) end
  pcall(command, key, ...)
end

-- Over maxmemory, Redis refuses a script at its first write or not at all. It accepts this one, which changes nothing.
call('HDEL', claim, '')
for i = 1, #became_due do guarded('ZADD', due, seq, became_due[i]) end
if ARGV[6] == 'more' then return 1 end
call('DEL', claim)
call('HSET', claim, 'last', seq, 'acked_at', time[1])
for i = 1, #booked, 2 do guarded('HINCRBY', ledger, booked[i], booked[i + 1]) end
return 1
