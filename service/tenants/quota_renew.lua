-- Let leases lapse later. The theory stands in quota_acquire.lua.
--
-- KEYS: leases, the tenant's set
-- ARGV: now, lapses at, lease ids
-- Replies the ids that have lapsed already: they are not brought back, because somebody may stand in their place.
local lost = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local score = redis.call('ZSCORE', KEYS[2], id)
  if not score or tonumber(score) <= tonumber(ARGV[1]) then
    lost[#lost + 1] = id
  else
    redis.call('ZADD', KEYS[2], ARGV[2], id)
    for set in string.gmatch(redis.call('HGET', KEYS[1], id) or '', '[^\n]+') do
      redis.call('ZADD', set, ARGV[2], id)
    end
  end
end
return lost
