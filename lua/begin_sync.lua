-- begin_sync: mark entities whose MySQL rows are about to be set.
--
-- The replica sync calls it (daemon/buffer/counters.py), and removes the marks once it knows which totals the rows
-- hold. If it dies in between, the marks stay: they say that nobody knows which totals those rows hold.
--
-- KEYS  1 syncing  set: entities whose UPDATE is under way, or was when its flusher died
-- ARGV  1 msgpack: {entity, ...}
-- Returns how many were not marked before
-- Cost  under 1 us an entity.

local call, entities, marked = redis.call, cmsgpack.unpack(ARGV[1]), 0
-- Over maxmemory, Redis refuses a script at its first write or not at all. It accepts this one: no entity is named ''.
call('SREM', KEYS[1], '')
for i = 1, #entities do marked = marked + call('SADD', KEYS[1], entities[i]) end
return marked
