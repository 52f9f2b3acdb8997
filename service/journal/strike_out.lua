-- Strike tenants out that are not at work any more, but for those that were noted meanwhile.
-- KEYS: tenants at work, by when they were noted last
-- ARGV: noted before then (s), tenants
local struck = 0
for i = 2, #ARGV do
  local at = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if at and tonumber(at) < tonumber(ARGV[1]) then struck = struck + redis.call('ZREM', KEYS[1], ARGV[i]) end
end
return struck
