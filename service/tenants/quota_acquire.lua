-- Count one more thing at every level, or at none.
--
-- The theory, which quota_release.lua and quota_renew.lua share:
--   What is counted is not a number but the set of those who count: a sorted set per level, of lease ids by the time at
--   which they lapse. So nothing can drift: a lease is there or not, however often it is taken or given back, and one
--   whose replica died lapses by itself. The tenant's set holds all of them; a hash tells at which further levels a
--   lease counts, so that anybody can give it back.
--
-- KEYS: leases, the tenant's set, then the sets of further levels
-- ARGV: lease id, now, lapses at ('+inf': never), then per set its limit ('' for none)
-- Replies {'held'} | {'refused', index of the set from 1, limit, count}
local id, now, lapses = ARGV[1], ARGV[2], ARGV[3]
for _, lapsed in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)) do
  for set in string.gmatch(redis.call('HGET', KEYS[1], lapsed) or '', '[^\n]+') do
    redis.call('ZREM', set, lapsed)
  end
  redis.call('HDEL', KEYS[1], lapsed)
  redis.call('ZREM', KEYS[2], lapsed)
end
if redis.call('HEXISTS', KEYS[1], id) == 0 then
  for i = 2, #KEYS do
    local limit = ARGV[i + 2]
    local count = redis.call('ZCARD', KEYS[i])
    if limit ~= '' and count >= tonumber(limit) then return { 'refused', i - 1, limit, count } end
  end
  redis.call('HSET', KEYS[1], id, table.concat(KEYS, '\n', 3))
end
redis.call('ZADD', KEYS[2], lapses, id)
for set in string.gmatch(redis.call('HGET', KEYS[1], id), '[^\n]+') do
  redis.call('ZADD', set, lapses, id)
end
return { 'held' }
