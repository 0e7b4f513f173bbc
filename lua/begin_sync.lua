-- begin_sync: mark entities whose MySQL rows are about to be set.
--
-- Called by the replica sync (daemon/buffer/counters.py), which takes the marks off when it knows what the rows say. One
-- that died in between leaves them: nobody can tell then which totals those rows hold.
--
-- KEYS  1 syncing  set: entities whose UPDATE is under way, or was when its flusher died
-- ARGV  1 msgpack: {entity, ...}
-- Returns the number marked
-- Cost  under 1 us an entity.

local call, entities, marked = redis.call, cmsgpack.unpack(ARGV[1]), 0
-- A script whose first write is one that Redis allows out of memory may make the others, too. No entity has this name.
call('SREM', KEYS[1], '')
for i = 1, #entities do marked = marked + call('SADD', KEYS[1], entities[i]) end
return marked
