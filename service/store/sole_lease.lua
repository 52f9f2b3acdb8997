-- Take or renew a lease, unless somebody else has it.
-- KEYS: the lease   ARGV: who asks, for how long (ms)
-- Replies 1 when it is held by who asks.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
