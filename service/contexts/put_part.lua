-- Add a part to an open context, or replace the one of its name, which keeps its place.
-- KEYS: open context, open contexts by when they end
-- ARGV: name of the part, what is kept of it, how many parts there may be, how long it stays open (ms), context id, until
--       when that is (s)
-- Replies 'kept', 'absent' or 'full'.
if redis.call('EXISTS', KEYS[1]) == 0 then return 'absent' end
local field = 'part:' .. ARGV[1]
local before = redis.call('HGET', KEYS[1], field)
local place
if before then
  place = string.match(before, '^%d+')
else
  if tonumber(redis.call('HGET', KEYS[1], 'count')) >= tonumber(ARGV[3]) then return 'full' end
  place = string.format('%d', redis.call('HINCRBY', KEYS[1], 'count', 1))
end
redis.call('HSET', KEYS[1], field, place .. ' ' .. ARGV[2])
redis.call('HINCRBY', KEYS[1], 'version', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('ZADD', KEYS[2], ARGV[6], ARGV[5])
return 'kept'
