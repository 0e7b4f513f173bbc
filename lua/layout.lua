-- layout: claim this Redis for one way of laying out the data, or learn which one it has.
--
-- Called by every daemon before it touches anything else (daemon/buffer/layout.py). The first one writes; the others
-- compare, and refuse to run if theirs differs.
--
-- KEYS  1 layout   hash: format, shards, dedupe_window_s
-- ARGV  field, value, ... as this daemon's configuration has them
-- Returns the layout that holds: field, value, ...
-- Cost  a few microseconds, once per connection.

if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('HSET', KEYS[1], unpack(ARGV)) end
return redis.call('HGETALL', KEYS[1])
