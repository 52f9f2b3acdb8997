-- Make a key of a tenant that is there and is not being erased.
--
-- KEYS: the key, the tenant, the tenant's keys
-- ARGV: key id, created at, key record, most keys of a tenant, prefix of a key's own hash
-- Replies 'made' | 'no tenant' | 'full'
--
-- A revoked key is kept to be looked at, until its place is needed.
local tenant = redis.call('HMGET', KEYS[2], 'record', 'erasing')
if not tenant[1] or tenant[2] then return 'no tenant' end
if redis.call('EXISTS', KEYS[1]) == 1 then return 'made' end
if redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[4]) then
  for _, id in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
    local known = redis.call('HMGET', ARGV[5] .. id, 'record', 'revoked')
    if not known[1] or known[2] then
      redis.call('DEL', ARGV[5] .. id)
      redis.call('ZREM', KEYS[3], id)
    end
  end
  if redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[4]) then return 'full' end
end
redis.call('HSET', KEYS[1], 'record', ARGV[3])
redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
return 'made'
