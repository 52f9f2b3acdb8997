-- Keep a context's record, unless the tenant has the same one already.
-- KEYS: record, index, records by fingerprint
-- ARGV: context id, record (packed), fingerprint, key prefix of records
-- Replies the id under which it is kept.
local known = redis.call('HGET', KEYS[3], ARGV[3])
if known and redis.call('EXISTS', ARGV[4] .. known) == 1 then return known end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[2], '0', ARGV[1])
redis.call('HSET', KEYS[3], ARGV[3], ARGV[1])
return ARGV[1]
