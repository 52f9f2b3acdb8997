-- Make a tenant, and a first key with it where that is asked for; what is there already stays.
--
-- KEYS: the tenant, tenants; then for the first key: the mark of the first start, the key, the tenant's keys
-- ARGV: tenant id, created at, tenant record; then for the first key: key id, key record
-- Replies 'made' | 'there'; with a first key, 'made' only when there never was a first key
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'record', ARGV[3])
  redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
  if #KEYS == 2 then return 'made' end
elseif #KEYS == 2 then
  return redis.call('HGET', KEYS[1], 'record') == ARGV[3] and 'made' or 'there'
end
local first = redis.call('GET', KEYS[3])
if first then return first == ARGV[4] and 'made' or 'there' end
redis.call('SET', KEYS[3], ARGV[4])
redis.call('HSET', KEYS[4], 'record', ARGV[5])
redis.call('ZADD', KEYS[5], ARGV[2], ARGV[4])
return 'made'
