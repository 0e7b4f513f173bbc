-- layout: write how this Redis is laid out, or learn how it is.
--
-- Every daemon calls it before it touches anything else (daemon/buffer/layout.py). The first one writes the layout. The
-- others compare it with their own, and refuse to run if it differs.
--
-- KEYS  1 layout   hash: format, shards, dedupe_window_s; epoch: when this Redis began to count, in microseconds. A
--                  Redis that lost its memory gets another epoch
-- ARGV  field, value, ... of this daemon's configuration
-- Returns the layout that holds: field, value, ...
-- Cost  a few microseconds, once per connection.

if redis.call('EXISTS', KEYS[1]) == 0 then
  local time = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'epoch', string.format('%.0f', time[1] * 1e6 + time[2]), unpack(ARGV))
end
return redis.call('HGETALL', KEYS[1])
