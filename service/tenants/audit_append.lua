-- Append a record to the chain, if it still ends where the record says.
--
-- KEYS: the chain, its head
-- ARGV: number of the record, digest of the one before, digest of this one, record, most records
-- Replies 'done' | 'moved'
--
-- The head knows the last record and the anchor: number and digest of the newest record that was dropped, where what is
-- kept begins. It outlives the records, so the numbers of a chain never begin anew.
local head = redis.call('HMGET', KEYS[2], 'number', 'digest')
if head[1] == ARGV[1] and head[2] == ARGV[3] then return 'done' end
if (head[2] or '') ~= ARGV[2] or tonumber(head[1] or '0') + 1 ~= tonumber(ARGV[1]) then return 'moved' end
redis.call('XADD', KEYS[1], ARGV[1] .. '-0', 'd', ARGV[3], 'r', ARGV[4])
redis.call('HSET', KEYS[2], 'number', ARGV[1], 'digest', ARGV[3])
while redis.call('XLEN', KEYS[1]) > tonumber(ARGV[5]) do
  local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  redis.call('HSET', KEYS[2], 'anchor_number', string.match(oldest[1], '^%d+'), 'anchor_digest', oldest[2][2])
  redis.call('XDEL', KEYS[1], oldest[1])
end
return 'done'
