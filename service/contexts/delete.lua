-- Forget a context's record.
-- KEYS: record, index, records by fingerprint   ARGV: context id, what it may be known by
redis.call('ZREM', KEYS[2], ARGV[1])
for i = 2, #ARGV do
  if redis.call('HGET', KEYS[3], ARGV[i]) == ARGV[1] then redis.call('HDEL', KEYS[3], ARGV[i]) end
end
return redis.call('DEL', KEYS[1])
