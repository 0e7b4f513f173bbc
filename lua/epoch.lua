-- epoch: begin a new epoch of a Redis that lost its transactions, and end its beginning.
--
-- A daemon calls it when it connects and the marks say so (daemon/buffer/layout.py): once to begin, then, after
-- set_aside.lua has run for every shard, once to end. In between no daemon counts. Two daemons may do it side by side:
-- both get the same new epoch, and the second end changes nothing. All writes are transactions: if Redis loses them
-- again, it loses all of them, and the next daemon begins another epoch.
--
-- KEYS  1 layout  hash: see layout.lua and mark.lua; next: the epoch that is being begun
-- ARGV  1 "" to begin; or the epoch to end the beginning of
-- Returns the epoch that is being begun, "" if none is. After an end: "1" if this call ended it, else ""
-- Cost  a few microseconds.
--
-- Example: atomic is 95, alone 100, epoch 7. The beginning writes next = 120. The end writes epoch = 120, atomic = 130.

local call = redis.call
local layout = KEYS[1]
local held = call('HMGET', layout, 'atomic', 'alone', 'epoch', 'next')
local atomic, alone = tonumber(held[1] or nil) or 0, tonumber(held[2] or nil) or 0
local time = call('TIME')
local now = time[1] * 1e6 + time[2]

if ARGV[1] == '' then
  if held[4] then return held[4] end
  if alone <= atomic then return '' end
  local next_epoch = string.format('%.0f', math.max(now, (tonumber(held[3] or nil) or 0) + 1))
  call('HSET', layout, 'next', 0)
  call('HSET', layout, 'next', next_epoch) -- the second write makes a transaction of both
  return next_epoch
end
if held[4] ~= ARGV[1] then return '' end
call('HSET', layout, 'epoch', held[4], 'atomic', string.format('%.0f', math.max(now, alone)))
call('HDEL', layout, 'next')
return '1'
