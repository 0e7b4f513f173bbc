-- set_aside: rename what a shard counted before Redis lost its transactions, so that none of it is counted again.
--
-- A daemon calls it between the two calls of epoch.lua (daemon/buffer/layout.py), until nothing is left. Redis came
-- back with an older state. What is live or in flight in it may have been flushed since. The dedupe memory, the due
-- list and the refused rows stay. The ledger remembers the epoch: a repeated call, also by a daemon that was frozen
-- meanwhile, changes nothing.
--
-- KEYS  1 dirty     set: the entities that have live counts
--       2 claim     hash: see claim.lua
--       3 ledger    hash: see ingest.lua; epoch: the one for which this shard was set aside
--       4 counters  prefix of an entity's hash: <counters>:<entity>
--       5 aside     prefix of what was moved away: <aside>:<epoch>:<key>
-- ARGV  1 epoch     that is being begun
--       2 entities  the most that this call renames
-- Returns {entities renamed, 1 if a claim was in flight, 1 if more entities are left}
-- Cost  about 2 us an entity.
--
-- Example: the stale state has 3 dirty entities and a claim. The calls with 2 entities return {2, 0, 1}, {1, 1, 0} and
-- {0, 0, 0}.

local call = redis.call
local dirty, claim, ledger, counters, epoch = KEYS[1], KEYS[2], KEYS[3], KEYS[4] .. ':', ARGV[1]
local aside = KEYS[5] .. ':' .. epoch .. ':'

local function kind(key) return call('TYPE', key).ok end

local done = kind(ledger) == 'hash' and tonumber(call('HGET', ledger, 'epoch') or nil) or 0
if done >= tonumber(epoch) then return {0, 0, 0} end

local renamed = 0
if kind(dirty) == 'set' then
  for _, entity in ipairs(call('SPOP', dirty, ARGV[2])) do
    if call('EXISTS', counters .. entity) == 1 then
      call('RENAME', counters .. entity, aside .. counters .. entity)
      renamed = renamed + 1
    end
  end
  if call('EXISTS', dirty) == 1 then return {renamed, 0, 1} end
end
local in_flight = kind(claim) == 'hash' and call('HEXISTS', claim, 'seq') or 0
for _, key in ipairs({dirty, claim, ledger}) do
  if call('EXISTS', key) == 1 then call('RENAME', key, aside .. key) end
end
call('HSET', ledger, 'epoch', epoch)
return {renamed, in_flight, 0}
