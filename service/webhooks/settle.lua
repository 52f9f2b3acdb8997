-- Say what came of an attempt, as long as the lease under which it was made stands.
-- KEYS: the delivery, deliveries that are due
-- ARGV: delivery id, leased until (s), record, due again (s) or '' for never, kept for (s)
-- Replies 'settled' or 'lost': somebody else has it by now, or it is gone.
local lease = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not lease or tonumber(lease) ~= tonumber(ARGV[2]) then return 'lost' end
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return 'lost'
end
redis.call('HSET', KEYS[1], 'record', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[5])
if ARGV[4] == '' then redis.call('ZREM', KEYS[2], ARGV[1]) else redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1]) end
return 'settled'
