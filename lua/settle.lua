-- settle: take entities off the replica list once MySQL holds their totals.
--
-- Called by the replica sync (daemon/buffer/counters.py). Conditional: an entity that became due again meanwhile has
-- another score, and stays. It may be a lower one: of a batch that was frozen before a repair listed the entity, and
-- acknowledged after.
--
-- KEYS  1 replica  sorted set: entities whose MySQL row is behind, scored by the seq that made them so
-- ARGV  1 msgpack: {entity, score, ...}, scores as the text they were read as
-- Returns the number taken off
-- Cost  about 1 us an entity.

local call = redis.call
local pairs_flat, settled = cmsgpack.unpack(ARGV[1]), 0
for i = 1, #pairs_flat, 2 do
  local score = call('ZSCORE', KEYS[1], pairs_flat[i])
  if score and tonumber(score) == tonumber(pairs_flat[i + 1]) then
    settled = settled + call('ZREM', KEYS[1], pairs_flat[i])
  end
end
return settled
