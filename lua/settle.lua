-- settle: take entities off the due list, once MySQL holds their totals.
--
-- The replica sync calls it (daemon/buffer/counters.py). An entity that became due again meanwhile has another score,
-- and stays. Its new score may be lower: a repair listed the entity, and then a claim that was frozen before was
-- acknowledged.
--
-- KEYS  1 due  sorted set: entities whose MySQL row must be set, scored by the seq that made them due
-- ARGV  1 msgpack: {entity, score, ...}, each score as the text that it was read as
-- Returns how many were taken off
-- Cost  about 1 us an entity.
--
-- Example: the list holds {m1: 70, m2: 90}, and the sync has read m1 under 70 and m2 under 80. m1 is taken off.

local call = redis.call
local pairs_flat, settled = cmsgpack.unpack(ARGV[1]), 0
for i = 1, #pairs_flat, 2 do
  local score = call('ZSCORE', KEYS[1], pairs_flat[i])
  if score and tonumber(score) == tonumber(pairs_flat[i + 1]) then
    settled = settled + call('ZREM', KEYS[1], pairs_flat[i])
  end
end
return settled
