-- layout: claim this Redis for one way of laying out the data, or learn which one it has.
--
-- Called by every daemon before it touches anything else (daemon/buffer/layout.py). The first one writes; the others
-- compare, and refuse to run if theirs differs.
--
-- KEYS  1 layout   hash: format, shards, dedupe_window_s; epoch: when this Redis began to count, in microseconds, so
--                  that one which lost its memory can be told from the one before
-- ARGV  field, value, ... as this daemon's configuration has them
-- Returns the layout that holds: field, value, ...
-- Cost  a few microseconds, once per connection.

if redis.call('EXISTS', KEYS[1]) == 0 then
  local time = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'epoch', string.format('%.0f', time[1] * 1e6 + time[2]), unpack(ARGV))
end
return redis.call('HGETALL', KEYS[1])
