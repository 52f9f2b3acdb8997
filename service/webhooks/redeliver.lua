-- Let a delivery be due at once, whatever came of it before.
-- KEYS: the delivery, deliveries of the webhook, deliveries that are due
-- ARGV: delivery id, record before, record after, now (s), kept for (s)
-- Replies 'done' | 'changed' (the record is another one by now)
local found = redis.call('HGET', KEYS[1], 'record')
if found == ARGV[3] then return 'done' end
if found ~= ARGV[2] or not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 'changed' end
redis.call('HSET', KEYS[1], 'record', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[1])
return 'done'
