-- Say for a while that a replica serves one tenant only, or on.
--
-- KEYS: sole tenancies
-- ARGV: replica, for how many seconds
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. now)
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
return 'kept'
