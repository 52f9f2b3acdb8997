-- Keep a new webhook, and have the ends of runs noted from now on.
-- KEYS: the webhook, the tenant's webhooks, what is there while ends are noted
-- ARGV: webhook id, created at, record, most webhooks of a tenant
-- Replies 'made' or 'full'.
if redis.call('EXISTS', KEYS[1]) == 1 then return 'made' end
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[4]) then return 'full' end
redis.call('HSET', KEYS[1], 'record', ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
redis.call('SET', KEYS[3], '1')
return 'made'
