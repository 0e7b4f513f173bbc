-- mark: leave two marks in Redis, by which a Redis that lost its transactions is known.
--
-- The daemons call it every few seconds and after each flush (daemon/buffer/connection.py), first with "", then with
-- the mark it returned. The first call writes twice, so Redis logs it as a transaction (MULTI, EXEC), like the calls
-- that count. The second call writes once, so Redis logs it alone. The second mark is never above the first, in any
-- prefix of the log. Redis 7.0 whose default user may not run everything refuses each transaction of its own log when
-- it starts. Then the second mark is above the first (daemon/buffer/layout.py).
--
-- KEYS  1 layout  hash: see layout.lua; atomic, alone: the two marks (us)
-- ARGV  1 "" to write the first mark; or the mark that the first call returned, to write the second
--       2 milliseconds that a first mark is good for
-- Returns the first mark if it is new, else ""
-- Cost  a few microseconds.
--
-- Example: at 100 s the first call writes atomic = 100000000, and the second call writes alone = 100000000. Redis loses
-- its transactions and comes back with alone = 100000000, and with atomic = 95000000 or none.

local call = redis.call
local layout, mark, good_for_us = KEYS[1], ARGV[1], tonumber(ARGV[2]) * 1000

local held = call('HMGET', layout, 'atomic', 'epoch', 'next')
local atomic = tonumber(held[1] or nil) or 0
if mark ~= '' then
  if held[1] == mark then call('HSET', layout, 'alone', mark) end
  return ''
end
if not held[2] or held[3] then return '' end -- no layout yet, or a new epoch is being begun
local time = call('TIME')
local now = time[1] * 1e6 + time[2]
if now - atomic < good_for_us and now >= atomic then return '' end
mark = string.format('%.0f', math.max(now, atomic + 1))
call('HSET', layout, 'atomic', 0)
call('HSET', layout, 'atomic', mark) -- the second write makes a transaction of both
return mark
