-- Keep a context's record, unless the tenant has the same one already.
-- KEYS: record, index, records by fingerprint
-- ARGV: context id, record (packed), fingerprint, key prefix of records, whether it is listed (1 or 0)
-- Replies the id under which it is kept.
local known = redis.call('HGET', KEYS[3], ARGV[3])
if not known or redis.call('EXISTS', ARGV[4] .. known) == 0 then
  known = ARGV[1]
  redis.call('SET', KEYS[1], ARGV[2])
  redis.call('HSET', KEYS[3], ARGV[3], known)
end
if ARGV[5] == '1' then redis.call('ZADD', KEYS[2], '0', known) end
return known
