-- Take deliveries whose time has come, and put their time off by a lease: if nobody says what came of them until then,
-- they are due again.
-- KEYS: deliveries that are due
-- ARGV: now (s), leased until (s; tells this claim from every other), how many at most
-- Replies their ids.
local due = redis.call('ZRANGE', KEYS[1], '-inf', ARGV[1], 'BYSCORE', 'LIMIT', '0', ARGV[3])
for _, id in ipairs(due) do redis.call('ZADD', KEYS[1], ARGV[2], id) end
return due
