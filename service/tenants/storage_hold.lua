-- Count the bytes of blobs that something refers to, at every level or at none.
--
-- The theory, which storage_drop.lua shares:
--   Bytes are counted once for each level and digest, for as long as anything refers to them: a set of referrers per
--   level and digest, and a counter that changes when such a set becomes or ceases to be empty. A referrer is a hash
--   of its digests with their sizes and of its levels, so that it can be dropped by its name alone. Sizes are only
--   compared as numbers; what is written is the string that came in.
--
-- KEYS: the referrer, per level its counter, and, where one is given, whose bytes these are: it has to be there still, and
--       as a hash without `closed_at`. So nothing is counted behind the back of who ends it and gives the count back.
-- ARGV: referrer's id, how many levels, then per level its limit ('' for none), then digests with their sizes in turn
-- Replies {'held'} | {'gone'} | {'refused', index of the level from 1, limit, used, wanted}
local levels = tonumber(ARGV[2])
local owner = KEYS[2 + levels]
if owner then
  local kind = redis.call('TYPE', owner)['ok']
  if kind == 'none' or (kind == 'hash' and redis.call('HEXISTS', owner, 'closed_at') == 1) then return { 'gone' } end
end
local fresh = {}
for i = 3 + levels, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[1], 'b:' .. ARGV[i]) == 0 then fresh[#fresh + 1] = i end
end
for level = 1, levels do
  local counter, limit = KEYS[1 + level], ARGV[2 + level]
  if limit ~= '' then
    local wanted, seen = 0, {}
    for _, i in ipairs(fresh) do
      if not seen[ARGV[i]] and redis.call('EXISTS', counter .. ':' .. ARGV[i]) == 0 then
        wanted = wanted + tonumber(ARGV[i + 1])
      end
      seen[ARGV[i]] = true
    end
    local used = redis.call('GET', counter) or '0'
    if wanted > 0 and tonumber(used) + wanted > tonumber(limit) then
      return { 'refused', level, limit, used, string.format('%.0f', wanted) }
    end
  end
end
for level = 1, levels do redis.call('HSET', KEYS[1], 'l:' .. KEYS[1 + level], '1') end
for _, i in ipairs(fresh) do
  redis.call('HSET', KEYS[1], 'b:' .. ARGV[i], ARGV[i + 1])
  for level = 1, levels do
    local counter = KEYS[1 + level]
    if redis.call('EXISTS', counter .. ':' .. ARGV[i]) == 0 then redis.call('INCRBY', counter, ARGV[i + 1]) end
    redis.call('SADD', counter .. ':' .. ARGV[i], ARGV[1])
  end
end
return { 'held' }
