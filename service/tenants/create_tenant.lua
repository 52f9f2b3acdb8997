-- Make a tenant, and a first key with it where that is asked for; what is there already stays.
--
-- KEYS: the tenant, tenants, sole tenancies; then for the first key: the mark of the first start, the key, the tenant's
--   keys
-- ARGV: tenant id, created at, tenant record; then for the first key: key id, key record
-- Replies 'made' | 'there'; with a first key, 'made' only when there never was a first key; 'alone' when a replica
--   serves the tenant that there is and may serve no other
if redis.call('EXISTS', KEYS[1]) == 0 then
  if redis.call('ZCARD', KEYS[2]) > 0 and redis.call('ZCOUNT', KEYS[3], redis.call('TIME')[1], '+inf') > 0 then
    return 'alone'
  end
  redis.call('HSET', KEYS[1], 'record', ARGV[3])
  redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
  if #KEYS == 3 then return 'made' end
elseif #KEYS == 3 then
  return redis.call('HGET', KEYS[1], 'record') == ARGV[3] and 'made' or 'there'
end
local first = redis.call('GET', KEYS[4])
if first then return first == ARGV[4] and 'made' or 'there' end
redis.call('SET', KEYS[4], ARGV[4])
redis.call('HSET', KEYS[5], 'record', ARGV[5])
redis.call('ZADD', KEYS[6], ARGV[2], ARGV[4])
return 'made'
