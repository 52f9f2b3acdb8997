-- Give leases back at every level at which they count. The theory stands in quota_acquire.lua.
--
-- KEYS: leases, the tenant's set
-- ARGV: lease ids
-- Replies how many of them there were
--
-- The sets of further levels are known by the lease only; they stand in the same slot.
local found = 0
for _, id in ipairs(ARGV) do
  local sets = redis.call('HGET', KEYS[1], id)
  if sets then
    for set in string.gmatch(sets, '[^\n]+') do redis.call('ZREM', set, id) end
    redis.call('HDEL', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
    found = found + 1
  end
end
return found
