-- ack: forget the batch in flight, and book what it moved, in one step.
--
-- Called by the flusher (daemon/buffer/counters.py) once MongoDB holds every document of the batch. Conditional: only
-- the batch named by seq is forgotten, so a late or repeated ack, by anyone, changes nothing.
--
-- Many due entities go in several calls, to keep each short: all but the last only list theirs. MongoDB holds the batch
-- by then, so one that is listed may be synced at once. If the last call never comes, the batch is still in flight,
-- and whoever takes it over lists all of them again: at worst a row is set twice to the same total.
--
-- KEYS  1 claim    hash: what `claim` wrote; last stays, acked_at is set
--       2 replica  sorted set: entities whose MySQL row is behind, scored by the seq that made them so
--       3 ledger   hash: flushed:<counter>, dead:<counter>, aside
--       4 aside    prefix of what was moved away   <aside>:<microseconds>:<key>
-- ARGV  1 seq
--       2 what to book, msgpack: {field, amount, ...}, amounts as decimal text
--       3 the entities that became due, msgpack: {entity, ...}
--       4 "more": only list these; another call follows. Else ""
-- Returns 1 if it did so, 0 if the batch is not in flight (any more)
-- Cost  under 1 us an entity that became due.

local call, pcall = redis.call, redis.pcall
local claim, replica, ledger, aside, seq = KEYS[1], KEYS[2], KEYS[3], KEYS[4] .. ':', ARGV[1]
local booked, due = cmsgpack.unpack(ARGV[2]), cmsgpack.unpack(ARGV[3])

if type(booked) ~= 'table' or type(due) ~= 'table' then return redis.error_reply('BADCALL ARGV 2 and 3 must be lists') end

if call('HGET', claim, 'seq') ~= seq then return 0 end
local time = call('TIME')

-- Runs a command that must not keep the batch in flight for ever: the foreign value in its way (a key, or one field of a
-- hash) is moved aside. An amount beyond 64 bits, which only foreign values add up to, is booked as moved aside itself.
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

call('HDEL', claim, '') -- changes nothing; but a write Redis allows out of memory, and after the first one it allows all
for i = 1, #due do guarded('ZADD', replica, seq, due[i]) end
if ARGV[4] == 'more' then return 1 end
call('DEL', claim)
call('HSET', claim, 'last', seq, 'acked_at', time[1])
for i = 1, #booked, 2 do guarded('HINCRBY', ledger, booked[i], booked[i + 1]) end
return 1
