-- Make a context of an open one, in one step: whoever deletes it, or puts a part, comes wholly before or behind.
-- KEYS: open context, open contexts by when they end, record, index, records by fingerprint
-- ARGV: context id, record (packed), version of the open context of which the record was made
-- Replies 'sealed', also when it was before; 'changed' or 'absent' when nothing was done.
if redis.call('EXISTS', KEYS[3]) == 1 then return 'sealed' end
if redis.call('EXISTS', KEYS[1]) == 0 then return 'absent' end
if (redis.call('HGET', KEYS[1], 'version') or '0') ~= ARGV[3] then return 'changed' end
redis.call('SET', KEYS[3], ARGV[2])
redis.call('ZADD', KEYS[4], '0', ARGV[1])
redis.call('HSET', KEYS[5], ARGV[1], ARGV[1])
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 'sealed'
