-- Keep a session's record unless there is one.
-- KEYS: session, index of sessions   ARGV: session id, then fields and values
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('ZADD', KEYS[2], '0', ARGV[1])
return 1
