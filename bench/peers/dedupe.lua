-- What the peer in nginx asks of Redis: one string key an event id, one increment. No ledger, no dirty set, no checks.
if redis.call('SET', KEYS[1], 1, 'NX', 'EX', 172800) then return redis.call('HINCRBY', KEYS[2], ARGV[1], 1) end
return 0
