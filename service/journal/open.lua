-- Create a run with its first event, or find it created already.
-- KEYS: run, its events, the index it is listed in, leases of unfinished runs
-- ARGV: run id, first event (packed), digest of that event, session id
-- Replies 'opened', 'again' (same event) or 'taken' (another event).
local digest = redis.call('HGET', KEYS[1], 'submitted')
if digest then
  if digest == ARGV[3] then return 'again' end
  return 'taken'
end
redis.call('HSET', KEYS[1], 'submitted', ARGV[3], 'epoch', '1', 'seq', '1', 'session', ARGV[4])
redis.call('XADD', KEYS[2], '1-0', 'e', ARGV[2])
redis.call('ZADD', KEYS[3], '0', ARGV[1])
redis.call('ZADD', KEYS[4], '0', ARGV[1])
return 'opened'
