-- Forget a context's record.
-- KEYS: record, index, records by fingerprint   ARGV: context id, fingerprint
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HGET', KEYS[3], ARGV[2]) == ARGV[1] then redis.call('HDEL', KEYS[3], ARGV[2]) end
return redis.call('DEL', KEYS[1])
